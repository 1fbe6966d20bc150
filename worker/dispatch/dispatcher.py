"""The claims in hand: rows are taken while there is room, kept by their leases, and let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from worker.dispatch import outcome
from worker.dispatch.gate import Gate
from worker.dispatch.submission import Claim, Submitter
from worker.jobs.job import Job
from worker.ports import ClaimLimits, JobStore
from worker.runtime.clock import boot_time
from worker.runtime.metrics import METRICS

log = structlog.get_logger(__name__)

AT_ONCE = 12


class Dispatcher:
    """Takes rows and has them carried to RunPod; `claimed` and `freed` tell of its room."""

    def __init__(
        self,
        *,
        store: JobStore,
        gate: Gate,
        submitter: Submitter,
        limits: ClaimLimits,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self.working: dict[str, Claim] = {}
        self.freed: Callable[[], None] = lambda: None
        self.claimed: Callable[[Job], None] = lambda job: None
        self._store = store
        self._gate = gate
        self._submitter = submitter
        self._limits = limits
        self._clock = clock
        self._stopping = False

    @property
    def posting(self) -> bool:
        """Whether a POST /run may be under way."""
        return any(claim.posting for claim in self.working.values())

    async def tick(self, tasks: asyncio.TaskGroup) -> float | None:
        """Claim what there is room for; returns seconds until it makes sense to look again."""
        if self._stopping:
            return None
        await self._gate.probe()
        want = AT_ONCE - len(self.working)
        room = self._gate.breaker.room
        if room is not None:
            want = min(want, room - len(self.working))
        if want > 0:
            held = list(self.working)
            for job in await self._store.claim(want, self._limits, holding=held):
                if self._told_to_stop():  # while the claim was under way
                    await outcome.end(self._store, job, outcome.unsent())
                else:
                    self._start(job, tasks)
        return self._gate.seconds_to_probe()

    async def renew(self) -> None:
        """Renew the leases of rows in hand; let go of those that are lost or cancelled."""
        held = list(self.working.values())
        if not held:
            return
        renewed = {job.id: job for job in await self._store.renew([one.job.id for one in held])}
        for claim in held:
            row = renewed.get(claim.job.id)
            lost = row is None or row.attempt != claim.job.attempt
            if (lost or (row is not None and row.cancel_requested)) and not claim.posting:
                log.info("job.let_go", job_id=claim.job.id, attempt=claim.job.attempt, lost=lost)
                claim.let_go()

    async def stop(self, seconds: float) -> None:
        """Claim nothing more; give back what has not been sent, wait for what is being sent."""
        self._stopping = True
        tasks = []
        for claim in self.working.values():
            if claim.task is not None:
                tasks.append(claim.task)
                if not claim.posting:
                    claim.let_go()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    def break_off(self) -> list[asyncio.Task[None]]:
        """Cut what is still in hand, even a POST under way; returns the tasks that end it."""
        left = list(self.working.values())
        for claim in left:
            claim.let_go()
        return [claim.task for claim in left if claim.task is not None]

    def _told_to_stop(self) -> bool:
        return self._stopping

    def _start(self, job: Job, tasks: asyncio.TaskGroup) -> None:
        claim = Claim(job=job, began=self._clock())
        # Its lease ran out while the table was away, and it came back to us.
        if (former := self.working.get(job.id)) is not None and not former.posting:
            former.let_go()
        self.working[job.id] = claim
        claim.task = tasks.create_task(self._work(claim), name=f"dispatch-{job.id}")
        METRICS.claims.inc()
        self.claimed(job)

    async def _work(self, claim: Claim) -> None:
        try:
            await self._submitter.carry(claim)
        finally:
            if self.working.get(claim.job.id) is claim:
                del self.working[claim.job.id]
            self.freed()
