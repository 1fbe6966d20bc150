"""Claims rows while there is room, keeps their leases, and releases them on the way down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from worker.dispatch.claim import Claim
from worker.dispatch.gate import SubmissionGate
from worker.dispatch.submitter import Submitter
from worker.jobs.errors import StoreUnavailable
from worker.jobs.events import Released
from worker.jobs.job import Case, Job
from worker.ports import ClaimLimits, Clock, JobStore
from worker.reconcile.updater import JobUpdater
from worker.runtime.metrics import METRICS

log = structlog.get_logger(__name__)

RESERVED_SECONDS = 1.0
"""How long a row in preparation reserves a place at RunPod: see claim_video_jobs_v1."""


class Dispatcher:
    """Takes rows and has them submitted; tells `on_claim` of each row and `on_room` of room."""

    def __init__(
        self,
        *,
        store: JobStore,
        gate: SubmissionGate,
        submitter: Submitter,
        updater: JobUpdater,
        limits: ClaimLimits,
        clock: Clock,
        on_claim: Callable[[Job], None],
        on_room: Callable[[], None],
    ) -> None:
        self.claims: dict[str, Claim] = {}
        self._store = store
        self._gate = gate
        self._submitter = submitter
        self._updater = updater
        self._limits = limits
        self._clock = clock
        self._on_claim = on_claim
        self._on_room = on_room
        self._stopping = False

    @property
    def posting(self) -> bool:
        """Whether the answer to a POST /run may still arrive."""
        return any(claim.posting and not claim.answered for claim in self.claims.values())

    async def tick(self, tasks: asyncio.TaskGroup) -> float | None:
        """Claim what there is room for; return seconds until it makes sense to look again."""
        if self._stopping:
            return None
        await self._gate.probe()
        want = self._limits.max_preparing - len(self.claims)
        room = self._gate.room
        if room is not None:
            want = min(want, room - len(self.claims))
        if want > 0:
            held = list(self.claims)
            for case in await self._store.claim(want, self._limits, holding=held):
                if case.job is None:
                    continue
                if self._told_to_stop():  # while the claim was under way
                    await self._give_back(case, case.job)
                else:
                    self._start(case, case.job, tasks)
        return self._seconds_to_next_look()

    def _seconds_to_next_look(self) -> float | None:
        """Return when there may be room without any event: a probe, or a reservation that ends."""
        now = self._clock()
        ages = [now - claim.began for claim in self.claims.values() if not claim.posting]
        waits = [RESERVED_SECONDS - age for age in ages if age < RESERVED_SECONDS]
        probe = self._gate.seconds_to_probe()
        return min(waits if probe is None else [*waits, probe], default=None)

    async def renew(self) -> None:
        """Renew the leases of claimed rows; release those that are lost or cancelled."""
        held = list(self.claims.values())
        if not held:
            return
        renewed = {job.id: job for job in await self._store.renew([c.job.id for c in held])}
        for claim in held:
            row = renewed.get(claim.job.id)
            lost = row is None or row.attempt != claim.job.attempt
            if (lost or (row is not None and row.cancel_requested)) and not claim.posting:
                log.info(
                    "claim.released", job_id=claim.job.id, attempt=claim.job.attempt, lost=lost
                )
                claim.release()

    async def stop(self, seconds: float) -> None:
        """Claim nothing more; release what has not been sent, wait for what is being sent."""
        self._stopping = True
        tasks = []
        for claim in self.claims.values():
            if claim.task is not None:
                tasks.append(claim.task)
                if not claim.posting:
                    claim.release()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    def break_off(self) -> list[asyncio.Task[None]]:
        """Interrupt what still runs, even a POST under way; return the tasks that end it."""
        left = list(self.claims.values())
        for claim in left:
            claim.release()
        return [claim.task for claim in left if claim.task is not None]

    def _told_to_stop(self) -> bool:
        return self._stopping

    async def _give_back(self, case: Case, job: Job) -> None:
        try:
            await self._updater.apply_one(case, Released(attempt=job.attempt))
        except StoreUnavailable as error:
            log.warning("claim.release_failed", job_id=job.id, reason=error.message)

    def _start(self, case: Case, job: Job, tasks: asyncio.TaskGroup) -> None:
        claim = Claim(case=case, job=job, began=self._clock())
        # Its lease ran out while the table was away, and it was claimed by us again.
        if (former := self.claims.get(job.id)) is not None and not former.posting:
            former.release()
        self.claims[job.id] = claim
        claim.task = tasks.create_task(self._work(claim), name=f"dispatch-{job.id}")
        METRICS.claims.inc()
        self._on_claim(job)

    async def _work(self, claim: Claim) -> None:
        try:
            await self._submitter.process(claim)
        finally:
            if self.claims.get(claim.job.id) is claim:
                del self.claims[claim.job.id]
            self._on_room()
