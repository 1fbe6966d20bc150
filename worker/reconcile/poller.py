"""Asks RunPod about open runs by GET /status, and turns each answer into an event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from worker.jobs.errors import OperatorFault, RunGone, TransientError
from worker.jobs.events import News, NotFound, Observed, Reviewed, SubmissionEvent
from worker.jobs.health import Health
from worker.jobs.job import Case, Submission
from worker.jobs.run import RunUpdate
from worker.ports import Clock, Jitter, RunPod
from worker.reconcile.tracker import RunTracker, TrackedRun
from worker.runtime.metrics import METRICS
from worker.runtime.readiness import Readiness

log = structlog.get_logger(__name__)

AT_ONCE = 32
# A round ends long before the watchdog would take a slow RunPod for a loop that is stuck.
ROUND_SECONDS = 45.0
# How long RunPod keeps a result.
RESULT_SECONDS = 1800.0
# An endpoint that has answered no poll for so long is a problem for people.
BLIND_SECONDS = 30.0


class Poller:
    """Polls runs, not too many at once; what could not be asked is left for the next round."""

    def __init__(
        self,
        *,
        runpod: RunPod,
        tracker: RunTracker,
        readiness: Readiness,
        clock: Clock,
        jitter: Jitter,
    ) -> None:
        self._runpod = runpod
        self._tracker = tracker
        self._readiness = readiness
        self._clock = clock
        self._jitter = jitter
        # Since when an endpoint has answered no poll.
        self._silent_since: dict[str, float] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def poll(self, cases: Sequence[Case]) -> list[News]:
        """Ask about every live run of these cases; what only time can change is reviewed."""
        reviews: list[News] = [(case, Reviewed()) for case in cases if _needs_review(case)]
        runs = [
            (case, sub, sub.runpod_job_id)
            for case in cases
            for sub in case.submissions
            if sub.state.live and sub.runpod_job_id is not None
        ]
        # Another order each time: a round that is cut short must not leave out the same ones again.
        runs.sort(key=lambda _: self._jitter())
        health: dict[str, asyncio.Task[bool]] = {}
        async with asyncio.TaskGroup() as group:

            def healthy(endpoint_id: str) -> asyncio.Task[bool]:
                if endpoint_id not in health:
                    health[endpoint_id] = group.create_task(self._healthy(endpoint_id))
                return health[endpoint_id]

            polls = [
                group.create_task(self._observe(sub, run_id, healthy)) for _, sub, run_id in runs
            ]
            await _in_time(polls)
            for asked in health.values():
                asked.cancel()
        self._count_blind()
        events = (None if poll.cancelled() else poll.result() for poll in polls)
        found = zip(runs, events, strict=True)
        return reviews + [(case, event) for (case, *_), event in found if event is not None]

    async def _observe(
        self, sub: Submission, run_id: str, healthy: Callable[[str], asyncio.Task[bool]]
    ) -> SubmissionEvent | None:
        """Poll one run; None when the provider is at fault and nothing was learned."""
        run = self._tracker.of(sub, run_id)
        if run.final_update is not None:
            return Observed(attempt=sub.attempt, update=run.final_update)
        try:
            update = await self.status(run_id, sub.endpoint_id)
        except RunGone:
            return NotFound(attempt=sub.attempt, healthy=await healthy(sub.endpoint_id))
        except (OperatorFault, TransientError) as error:
            log.debug("run.not_polled", job_id=sub.job_id, run_id=run_id, reason=error.message)
            # RunPod has ended it and forgotten its result: no later answer can tell more.
            over = sub.ttl_left <= -RESULT_SECONDS
            return NotFound(attempt=sub.attempt, healthy=False) if over else None
        run.note(update)
        return Observed(attempt=sub.attempt, update=update)

    async def poll_from_memory(self, seconds: float) -> None:
        """Poll the runs in memory while the table is away, and keep their ends."""
        async with asyncio.TaskGroup() as group:
            due = list(self._tracker.due(seconds))
            await _in_time([group.create_task(self.refresh(run)) for run in due])
        self._count_blind()
        self._tracker.count()

    async def refresh(self, run: TrackedRun) -> RunUpdate | None:
        """Poll one run in memory; None when nothing was learned."""
        try:
            update = await self.status(run.run_id, run.endpoint_id)
        except (RunGone, OperatorFault, TransientError):
            return None
        run.note(update)
        return update

    async def status(self, run_id: str, endpoint_id: str) -> RunUpdate:
        """GET /status, not too many at once; raises what the RunPod port raises."""
        async with self._slots:
            try:
                update = await self._runpod.status(run_id, endpoint_id=endpoint_id)
            except RunGone:
                METRICS.polls.labels("gone").inc()
                self._note_answer(endpoint_id)
                raise
            except (OperatorFault, TransientError) as error:
                METRICS.polls.labels("unavailable").inc()
                self._note_silence(endpoint_id, error.message)
                raise
        METRICS.polls.labels(update.state.value).inc()
        self._note_answer(endpoint_id)
        return update

    def _note_answer(self, endpoint_id: str) -> None:
        self._silent_since.pop(endpoint_id, None)
        if self._readiness.clear(f"polls of {endpoint_id}"):
            log.info("polls.resumed", endpoint=endpoint_id)

    def _note_silence(self, endpoint_id: str, reason: str) -> None:
        """Say so when an endpoint answers no poll: its runs may end unseen."""
        since = self._silent_since.setdefault(endpoint_id, self._clock())
        if self._clock() - since < BLIND_SECONDS:
            return
        said = f"no poll of a run is answered, so that its end may be missed: {reason}"
        if self._readiness.report(f"polls of {endpoint_id}", said, severity="down"):
            log.warning("polls.blind", endpoint=endpoint_id, reason=reason)

    def _count_blind(self) -> None:
        """Show how many runs cannot be followed; an endpoint without runs is of no interest."""
        runs = {name: len(self._tracker.on_endpoint(name)) for name in self._silent_since}
        for endpoint_id in [name for name, number in runs.items() if number == 0]:
            self._note_answer(endpoint_id)
        METRICS.runs_blind.set(
            sum(
                number
                for name, number in runs.items()
                if self._clock() - self._silent_since.get(name, self._clock()) >= BLIND_SECONDS
            )
        )

    async def health(self, endpoint_id: str) -> Health | None:
        """GET /health; None when the endpoint does not answer."""
        try:
            return await self._runpod.health(endpoint_id=endpoint_id)
        except (OperatorFault, TransientError):
            return None

    async def _healthy(self, endpoint_id: str) -> bool:
        return await self.health(endpoint_id) is not None


def _needs_review(case: Case) -> bool:
    return any(
        sub.state.open and (sub.nameless or not sub.state.live or sub.reported is not None)
        for sub in case.submissions
    )


async def _in_time(polls: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for the polls of one round; those that take too long are left for the next."""
    if polls:
        await asyncio.wait(polls, timeout=ROUND_SECONDS)
    for poll in polls:
        poll.cancel()
