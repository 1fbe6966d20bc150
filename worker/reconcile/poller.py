"""The looks at runs: open ones are held in memory and asked about by GET /status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from worker.jobs.change import Gone, Nothing, Observation, Seen
from worker.jobs.errors import OperatorFault, RunGone, TransientError
from worker.jobs.health import Health
from worker.jobs.job import Case, Submission
from worker.jobs.run import RunState, RunUpdate
from worker.ports import RunPod
from worker.runtime.metrics import METRICS

log = structlog.get_logger(__name__)

AT_ONCE = 32
FORGET_AFTER = 6 * 3600.0
# A round ends long before the watchdog would take a slow RunPod for a loop that is stuck.
LOOK_SECONDS = 45.0
# How long RunPod keeps a result.
RESULT_SECONDS = 1800.0

Key = tuple[str, int]
News = tuple[Case, int, Observation]


@dataclass(slots=True)
class HeldRun:
    """An open run in memory, so that it is watched while the table is away."""

    endpoint_id: str
    run_id: str
    looked_at: float
    brought: RunUpdate | None = None

    def bring(self, update: RunUpdate) -> None:
        """Keep the end of the run; a completed one without a video must be looked at again."""
        if update.state.terminal and not (
            update.state is RunState.COMPLETED and update.video_url is None
        ):
            self.brought = update


class RunWatch:
    """Knows the open runs, looks at them, and keeps what they bring until it is written."""

    def __init__(
        self,
        *,
        runpod: RunPod,
        poll_seconds: float,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._runpod = runpod
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._jitter = jitter
        self._held: dict[Key, HeldRun] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def hold(self, key: Key, endpoint_id: str, run_id: str) -> HeldRun:
        """Watch a run from now on, whether or not the table already knows of it."""
        held = self._held[key] = HeldRun(endpoint_id, run_id, self._clock())
        return held

    def held_on(self, endpoint_id: str) -> list[HeldRun]:
        """The runs of one endpoint that are watched."""
        return [one for one in self._held.values() if one.endpoint_id == endpoint_id]

    def let_go(self, key: Key) -> HeldRun | None:
        """Stop watching a run whose end is written, and count what it cost."""
        held = self._held.pop(key, None)
        if held is None or held.brought is None:
            return held
        end = held.brought
        if end.execution_ms is not None:
            METRICS.gpu_seconds.labels(end.state.value).inc(end.execution_ms / 1000)
        if end.delay_ms is not None:
            METRICS.queue_wait.observe(end.delay_ms / 1000)
        return held

    def forget_stale(self) -> None:
        """Forget runs that the table has not brought up for long: another worker saw their end."""
        stale = self._clock() - FORGET_AFTER
        for key in [key for key, one in self._held.items() if one.looked_at < stale]:
            del self._held[key]

    def count(self) -> None:
        """Show in the metrics how many runs are open, and how many ends are not written yet."""
        METRICS.open_runs.set(len(self._held))
        self._count_unwritten()

    def _count_unwritten(self) -> None:
        METRICS.runs_unwritten.set(sum(one.brought is not None for one in self._held.values()))

    async def look_at(self, cases: Sequence[Case]) -> list[News]:
        """Look at every open submission; those that were not answered in time are left out."""
        open_ones = [(case, sub) for case in cases for sub in case.submissions if sub.state.open]
        # Another order each time: a round that is cut short must not leave out the same ones again.
        open_ones.sort(key=lambda _: self._jitter())
        health: dict[str, asyncio.Task[bool]] = {}
        async with asyncio.TaskGroup() as group:

            def healthy(endpoint_id: str) -> asyncio.Task[bool]:
                if endpoint_id not in health:
                    health[endpoint_id] = group.create_task(self._healthy(endpoint_id))
                return health[endpoint_id]

            looks = [group.create_task(self._observe(sub, healthy)) for _, sub in open_ones]
            await _in_time(looks)
            for asked in health.values():
                asked.cancel()
        seen_by = (None if look.cancelled() else look.result() for look in looks)
        found = zip(open_ones, seen_by, strict=True)
        return [(case, sub.attempt, seen) for (case, sub), seen in found if seen is not None]

    async def _observe(
        self, sub: Submission, healthy: Callable[[str], asyncio.Task[bool]]
    ) -> Observation | None:
        """One look at one submission; None when the provider is at fault and nothing is known."""
        if not sub.state.live or sub.runpod_job_id is None:
            return Nothing()
        key = (sub.job_id, sub.attempt)
        held = self._held.get(key) or self.hold(key, sub.endpoint_id, sub.runpod_job_id)
        held.looked_at = self._clock()
        if held.brought is not None:
            return Seen(update=held.brought)
        try:
            update = await self.status(sub.runpod_job_id, sub.endpoint_id)
        except RunGone:
            return Gone(healthy=await healthy(sub.endpoint_id))
        except (OperatorFault, TransientError) as error:
            log.debug("run.not_seen", job_id=sub.job_id, run_id=held.run_id, reason=error.message)
            # RunPod has ended it and forgotten its result: no later answer can tell more.
            over = sub.ttl_left <= -RESULT_SECONDS
            return Gone(healthy=False) if over else None
        held.bring(update)
        return Seen(update=update)

    async def look_from_memory(self) -> None:
        """The table is away: look at the runs we know of, and keep what they bring."""
        now = self._clock()
        due = [one for one in self._held.values() if now - one.looked_at >= self._poll_seconds]
        for one in due:
            one.looked_at = now
        async with asyncio.TaskGroup() as group:
            await _in_time([group.create_task(self.ask(one)) for one in due if one.brought is None])
        self._count_unwritten()

    async def ask(self, held: HeldRun) -> RunUpdate | None:
        """One look at a held run; None when nothing was learned."""
        try:
            update = await self.status(held.run_id, held.endpoint_id)
        except (RunGone, OperatorFault, TransientError):
            return None
        held.bring(update)
        return update

    async def status(self, run_id: str, endpoint_id: str) -> RunUpdate:
        """GET /status, not too many at once; raises what the RunPod port raises."""
        async with self._slots:
            try:
                update = await self._runpod.status(run_id, endpoint_id=endpoint_id)
            except RunGone:
                METRICS.polls.labels("gone").inc()
                raise
            except (OperatorFault, TransientError):
                METRICS.polls.labels("unavailable").inc()
                raise
        METRICS.polls.labels(update.state.value).inc()
        return update

    async def health(self, endpoint_id: str) -> Health | None:
        """GET /health; None when the endpoint does not answer."""
        try:
            return await self._runpod.health(endpoint_id=endpoint_id)
        except (OperatorFault, TransientError):
            return None

    async def _healthy(self, endpoint_id: str) -> bool:
        return await self.health(endpoint_id) is not None


async def _in_time(looks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for the looks of one round; those that take too long are left for the next."""
    if looks:
        await asyncio.wait(looks, timeout=LOOK_SECONDS)
    for look in looks:
        look.cancel()
