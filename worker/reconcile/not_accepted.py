"""Looks for evidence that an unknown POST was not accepted, on an endpoint of our own."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from worker.jobs.events import News, NotAccepted
from worker.jobs.job import Case, SubmissionState
from worker.ports import Clock, RunPod
from worker.reconcile.evidence import Evidence, Round
from worker.reconcile.poller import ROUND_SECONDS, Poller
from worker.reconcile.tracker import Key, RunTracker, TrackedRun

ENDED_KEPT = 10_000


class NotAcceptedDetector:
    """Holds the evidence for each unknown submission, and counts our runs' ends for it."""

    def __init__(
        self, *, runpod: RunPod, poller: Poller, tracker: RunTracker, clock: Clock
    ) -> None:
        self._runpod = runpod
        self._poller = poller
        self._tracker = tracker
        self._clock = clock
        self._evidence: dict[Key, Evidence] = {}
        self._ended_runs: OrderedDict[str, None] = OrderedDict()
        self._ended_so_far = 0

    async def search(self, cases: Sequence[Case]) -> list[News]:
        """Make one round for the unknown submissions of these cases; return those proved."""
        searched = [
            (case, sub, self._evidence.setdefault((sub.job_id, sub.attempt), Evidence()))
            for case in cases
            for sub in case.submissions
            if sub.state is SubmissionState.UNKNOWN and sub.endpoint_id == self._runpod.endpoint_id
        ]
        searched = [entry for entry in searched if not entry[2].inconclusive]
        if not searched:
            return []
        seen = await self._round()
        if seen is None:
            return []
        return [
            (case, NotAccepted(attempt=sub.attempt))
            for case, sub, evidence in searched
            if evidence.add(seen, age=sub.age)
        ]

    async def _round(self) -> Round | None:
        """Ask all our runs, then /health: its counters must not exceed what we know."""
        ours = self._tracker.on_endpoint(self._runpod.endpoint_id)
        try:
            async with asyncio.timeout(ROUND_SECONDS):
                confirmed = sum(await asyncio.gather(*(self._live(run) for run in ours)))
                health = await self._poller.health(self._runpod.endpoint_id)
        except TimeoutError:
            return None
        if health is None:
            return None
        return Round(
            at=self._clock(),
            health=health,
            confirmed_live=confirmed,
            ended_so_far=self._ended_so_far,
        )

    async def _live(self, run: TrackedRun) -> bool:
        update = await self._poller.refresh(run)
        if update is None:
            return False
        if update.state.terminal:
            self.note_end(run.run_id)
        return not update.state.terminal

    def note_end(self, run_id: str) -> None:
        """Count each run's end once."""
        if run_id in self._ended_runs:
            return
        self._ended_so_far += 1
        self._ended_runs[run_id] = None
        if len(self._ended_runs) > ENDED_KEPT:
            self._ended_runs.popitem(last=False)

    def drop(self, key: Key) -> None:
        """Forget the evidence for a submission that is settled."""
        self._evidence.pop(key, None)
