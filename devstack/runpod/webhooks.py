"""Delivery of webhooks with up to two repeats, and faults on request."""

import asyncio
import json
import uuid
from collections.abc import Coroutine
from typing import Final

import httpx

from devstack.runpod.cloud import Cloud
from devstack.runpod.condition import Condition
from devstack.runpod.runs import Json, Run

TRIES: Final = 3


class Webhooks:
    """Sends the end of each run to its webhook; unsigned, as at RunPod."""

    def __init__(self, cloud: Cloud, condition: Condition) -> None:
        self._cloud = cloud
        self._condition = condition
        self._http = httpx.AsyncClient(headers={"User-Agent": "runpod-standin"}, trust_env=False)
        self._tasks: set[asyncio.Task[None]] = set()

    def ended(self, run: Run) -> None:
        """Start the delivery for a run that just ended."""
        now = self._cloud.now()
        body = {
            **run.status(now),
            "input": run.request.input,
            "webhook": run.request.webhook,
        }
        self._start(self._deliver(run, json.dumps(body).encode()))

    def accepted(self, run: Run) -> None:
        """Send a forged message for a run that has just started, if the options ask for it."""
        url = run.request.webhook
        chance = self._cloud.options.webhook_forged
        if url is not None and self._cloud.draw(run, "webhook_forged") < chance:
            self._start(self._forge(run, url))

    async def close(self) -> None:
        """Drop unfinished deliveries."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, run: Run, body: bytes) -> None:
        options = self._cloud.options
        if self._cloud.draw(run, "webhook_lost") < options.webhook_lost:
            self._note(run, "lost", None)
            return
        if self._cloud.draw(run, "webhook_late") < options.webhook_late:
            await asyncio.sleep(options.webhook_late_seconds)
        twice = self._cloud.draw(run, "webhook_twice") < options.webhook_twice
        for number in range(TRIES):
            if number:
                await asyncio.sleep(self._cloud.options.webhook_interval_seconds)
            if await self._post(run, str(run.request.webhook), body, kind="try") == 200:
                if twice:
                    await self._post(run, str(run.request.webhook), body, kind="again")
                return

    async def _forge(self, run: Run, url: str) -> None:
        evil: Json = {"id": run.id, "status": "COMPLETED"}
        evil["output"] = {"video": ["https://forged.example/video.mp4"]}
        stranger: Json = {**evil, "id": f"{uuid.uuid4()}-u1"}
        for target, body in (
            (url, json.dumps(evil).encode()),
            (url, json.dumps(stranger).encode()),
            (url, b'{"id": ["' + b"x" * 2000),
            (url[:-1] + ("0" if url[-1] != "0" else "1"), json.dumps(evil).encode()),
        ):
            await self._post(run, target, body, kind="forged")

    async def _post(self, run: Run, url: str, body: bytes, *, kind: str) -> int | None:
        try:
            answer = await self._http.post(
                url,
                content=body,
                headers={"Content-Type": "application/json"},
                timeout=self._cloud.options.webhook_timeout_seconds,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as failed:
            self._note(run, kind, type(failed).__name__)
            return None
        self._note(run, kind, answer.status_code)
        return answer.status_code

    def _note(self, run: Run, kind: str, answer: object) -> None:
        run.webhooks.append({"kind": kind, "answer": answer})
        self._condition.notify()
