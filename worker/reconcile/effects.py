"""Carries out what a decision asks for besides its change of the rows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from worker.jobs.change import Decision, Kind
from worker.jobs.errors import (
    OperatorFault,
    RunGone,
    StoreRefused,
    StoreUnavailable,
    TransientError,
)
from worker.jobs.job import Case, Submission
from worker.ports import Media, RunPod
from worker.reconcile.not_accepted import NotAcceptedDetector
from worker.reconcile.tracker import RunTracker
from worker.runtime.metrics import METRICS

log = structlog.get_logger(__name__)

_QUIET = (Kind.UNCHANGED, Kind.LEFT_TO_CLAIM, Kind.WAITING_GPU, Kind.RUNNING, Kind.CONFIRMING)


class EffectRunner:
    """Acts on decisions that took; a failure is logged, never raised."""

    def __init__(
        self,
        *,
        runpod: RunPod,
        media: Media,
        tracker: RunTracker,
        detector: NotAcceptedDetector,
    ) -> None:
        self._runpod = runpod
        self._media = media
        self._tracker = tracker
        self._detector = detector

    async def run(self, case: Case, decision: Decision) -> None:
        """Log and count the outcome, cancel runs, remove inputs."""
        effects = decision.effects
        for attempt in effects.ended:
            key = (case.job_id, attempt)
            run = self._tracker.finish(key)
            self._detector.drop(key)
            if run is not None:
                self._detector.note_end(run.run_id)
        if effects.lease_expired:
            METRICS.leases_expired.inc()
        log_outcome(case, decision)
        if effects.cancel:
            await asyncio.gather(*(self.cancel(sub) for sub in effects.cancel))
        await self._discard(effects.discard)

    async def cancel(self, sub: Submission) -> None:
        """Ask RunPod to stop the run, if it is known."""
        if sub.runpod_job_id is not None:
            await self.cancel_run(sub.runpod_job_id, sub.endpoint_id, job_id=sub.job_id)

    async def cancel_run(self, run_id: str, endpoint_id: str, *, job_id: str) -> None:
        """Ask RunPod to stop a run; it is asked again while the run is seen alive."""
        try:
            await self._runpod.cancel(run_id, endpoint_id=endpoint_id)
            log.info("run.cancelled", job_id=job_id, run_id=run_id)
        except (RunGone, OperatorFault, TransientError) as error:
            log.warning("run.cancel_failed", job_id=job_id, run_id=run_id, reason=error.message)

    async def _discard(self, subs: Sequence[Submission]) -> None:
        for sub in subs:
            if not sub.input_objects:
                continue
            try:
                await self._media.discard(sub.input_objects)
            except (StoreUnavailable, StoreRefused) as error:
                log.warning("inputs.not_discarded", job_id=sub.job_id, reason=error.message)


def log_outcome(case: Case, decision: Decision) -> None:
    """Log and count what became of the job."""
    changes = decision.change.submissions
    sub = case.submission(changes[-1].attempt) if changes else None
    about = {
        "job_id": case.job_id,
        "attempt": sub.attempt if sub else None,
        "run_id": sub.runpod_job_id if sub else None,
    }
    if decision.kind.ends_job:
        METRICS.jobs_ended.labels(decision.kind.value, decision.code or "").inc()
        log.info("job.ended", **about, status=decision.kind.value, code=decision.code)
    elif decision.kind not in _QUIET:
        log.info("job.changed", **about, outcome=decision.kind.value)
