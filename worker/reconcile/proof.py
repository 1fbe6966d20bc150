"""The search for proof that an unknown POST was not accepted, on an endpoint of our own."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

from worker.jobs.change import NotAccepted
from worker.jobs.job import Case, SubmissionState
from worker.ports import RunPod
from worker.reconcile.evidence import Evidence, Round
from worker.reconcile.poller import LOOK_SECONDS, HeldRun, Key, News, RunWatch

ENDED_KEPT = 10_000


class ProofSearch:
    """Holds the evidence for each unknown submission, and counts our runs' ends for it."""

    def __init__(self, *, runpod: RunPod, watch: RunWatch, clock: Callable[[], float]) -> None:
        self._runpod = runpod
        self._watch = watch
        self._clock = clock
        self._evidence: dict[Key, Evidence] = {}
        self._ended_runs: OrderedDict[str, None] = OrderedDict()
        self._ended_so_far = 0

    async def search(self, cases: Sequence[Case]) -> list[News]:
        """One round for the unknown submissions among these; returns those that are proved."""
        unknown = [
            (case, sub)
            for case in cases
            for sub in case.submissions
            if sub.state is SubmissionState.UNKNOWN and sub.endpoint_id == self._runpod.endpoint_id
        ]
        open_ones = [
            (case, sub, self._evidence.setdefault((sub.job_id, sub.attempt), Evidence()))
            for case, sub in unknown
        ]
        open_ones = [one for one in open_ones if not one[2].hopeless]
        if not open_ones:
            return []
        look = await self._round()
        if look is None:
            return []
        return [
            (case, sub.attempt, NotAccepted())
            for case, sub, evidence in open_ones
            if evidence.add(look, age=sub.age)
        ]

    async def _round(self) -> Round | None:
        """All our runs by /status, then /health: the counters must not exceed what we know."""
        mine = self._watch.held_on(self._runpod.endpoint_id)
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                confirmed = sum(await asyncio.gather(*(self._live(one) for one in mine)))
                health = await self._watch.health(self._runpod.endpoint_id)
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

    async def _live(self, held: HeldRun) -> bool:
        update = await self._watch.ask(held)
        if update is None:
            return False
        if update.state.terminal:
            self.note_end(held.run_id)
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
