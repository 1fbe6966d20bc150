"""Checks that an insert arrives through Realtime."""

from __future__ import annotations

import asyncio
import time
import uuid

import httpx

from worker.doctor.context import Context, error_of
from worker.doctor.result import Result, fail, ok, warn
from worker.supabase.realtime import ChangeHint, RealtimeListener

NAME = "supabase.realtime"
READY_SECONDS = 15.0
HEARD_SECONDS = 10.0


async def check_realtime(context: Context) -> Result:
    """Listen, insert a job that is cancelled at once, wait for its event, delete it."""
    job_id = str(uuid.uuid4())
    ready, heard = asyncio.Event(), asyncio.Event()

    def on_hint(hint: ChangeHint) -> None:
        if hint.job_id == job_id:
            heard.set()

    listener = RealtimeListener(
        url=context.settings.supabase_url,
        key=context.settings.supabase_service_role_key.get_secret_value(),
        on_hint=on_hint,
        on_ready=ready.set,
    )
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(listener.run())
        try:
            if not await _within(READY_SECONDS, ready):
                return fail(
                    NAME,
                    f"The worker cannot subscribe to Realtime: {listener.reason or 'no answer'}.",
                    "Check that Realtime is enabled for the project and the key is a service key. "
                    "Until then only the sweep finds jobs, every SWEEP_SECONDS.",
                )
            return await _insert_and_listen(context, job_id, heard)
        finally:
            listening.cancel()


async def _insert_and_listen(context: Context, job_id: str, heard: asyncio.Event) -> Result:
    row = {
        "id": job_id,
        "image_url": "https://example.com/doctor.jpg",
        "audio_url": "https://example.com/doctor.mp3",
        # The insert trigger cancels such a row at once, so no worker takes it.
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
                    f"The event of an insert arrived after {took:.1f} s, which is slow.",
                    "Check Realtime's load in the dashboard. Meanwhile the sweep finds rows.",
                )
            return ok(NAME, f"The event of an insert arrived after {1000 * took:.0f} ms.")
    finally:
        await context.supabase("DELETE", f"/rest/v1/video_jobs?id=eq.{job_id}")
    return fail(
        NAME,
        f"The worker is subscribed to Realtime, but no event of an insert arrived within "
        f"{HEARD_SECONDS:.0f} s.",
        "Fix supabase.publication and supabase.grants first. If both are ok, restart Realtime in "
        "the dashboard (Settings > General > Restart).",
    )


def _refused(answer: httpx.Response) -> Result:
    code, message = error_of(answer)
    return fail(
        NAME,
        f"A test row could not be inserted: {message or f'HTTP {answer.status_code}'} ({code}).",
        "Fix supabase.grants, supabase.tables and supabase.triggers first.",
    )


async def _within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
