"""Checks that an insert really arrives through Realtime."""

from __future__ import annotations

import asyncio
import time
import uuid

import httpx

from worker.doctor.context import Context, words
from worker.doctor.result import Result, fail, ok, warn
from worker.supabase.realtime import RealtimeDoorbell, Ring

NAME = "supabase.realtime"
READY_SECONDS = 15.0
HEARD_SECONDS = 10.0


async def check_realtime(context: Context) -> Result:
    """Listens, inserts a job that is cancelled at once, waits for its event, deletes it."""
    job_id = str(uuid.uuid4())
    ready, heard = asyncio.Event(), asyncio.Event()

    def ring(one: Ring) -> None:
        if one.job_id == job_id:
            heard.set()

    doorbell = RealtimeDoorbell(
        url=context.settings.supabase_url,
        key=context.settings.supabase_service_role_key.get_secret_value(),
        on_ring=ring,
        on_ready=ready.set,
    )
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(doorbell.run())
        try:
            if not await _within(READY_SECONDS, ready):
                return fail(
                    NAME,
                    f"Realtime does not let the worker listen: {doorbell.reason or 'no answer'}.",
                    "Check that Realtime is enabled for the project and the key is a service key; "
                    "until then jobs are found by the sweep alone, every SWEEP_SECONDS.",
                )
            return await _insert_and_listen(context, job_id, heard)
        finally:
            listening.cancel()


async def _insert_and_listen(context: Context, job_id: str, heard: asyncio.Event) -> Result:
    row = {
        "id": job_id,
        "image_url": "https://example.com/doctor.jpg",
        "audio_url": "https://example.com/doctor.mp3",
        # Such a row is cancelled by its insert trigger, so that no worker takes it.
        "cancel_requested": True,
        "metadata": {"doctor": True},
    }
    answer = await context.supabase("POST", "/rest/v1/video_jobs", json=row)
    if answer.status_code != 201:
        return _refused(answer)
    began = time.monotonic()
    try:
        if await _within(HEARD_SECONDS, heard):
            took = time.monotonic() - began
            if took > 3:
                return warn(
                    NAME,
                    f"An insert was heard of after {took:.1f} s, which is slow.",
                    "Look at Realtime's load in the dashboard; the sweep finds rows meanwhile.",
                )
            return ok(NAME, f"An insert was heard of after {1000 * took:.0f} ms.")
    finally:
        await context.supabase("DELETE", f"/rest/v1/video_jobs?id=eq.{job_id}")
    return fail(
        NAME,
        f"Realtime lets the worker listen, but an insert was not heard of in {HEARD_SECONDS:.0f} "
        "s.",
        "Mend supabase.publication and supabase.grants first; if both are well, restart Realtime "
        "in the dashboard (Settings > General > Restart).",
    )


def _refused(answer: httpx.Response) -> Result:
    code, said = words(answer)
    return fail(
        NAME,
        f"A test row could not be inserted: {said or f'HTTP {answer.status_code}'} ({code}).",
        "Mend supabase.grants, supabase.tables and supabase.triggers first.",
    )


async def _within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
