"""What follows a written change: log lines and counts, cancels at RunPod, inputs taken away."""

from __future__ import annotations

import asyncio

import structlog

from worker.jobs.change import Decision
from worker.jobs.errors import (
    OperatorFault,
    RunGone,
    StoreRefused,
    StoreUnavailable,
    TransientError,
)
from worker.jobs.job import Case, Submission, SubmissionState
from worker.ports import Media, RunPod
from worker.reconcile.poller import Key
from worker.runtime.metrics import METRICS

log = structlog.get_logger(__name__)


class FollowUp:
    """Acts on decisions that took; its failures are logged, and the next look tries again."""

    def __init__(self, *, runpod: RunPod, media: Media) -> None:
        self._runpod = runpod
        self._media = media
        self._discarded: set[Key] = set()

    async def after(self, case: Case, decision: Decision) -> None:
        """Do what a decision asks for besides its change of the rows."""
        for part in decision.change.submissions:
            if part.ended and decision.outcome != "completed":
                await self._discard_ended(case, part.attempt)
        _tell(case, decision)
        if decision.cancel:
            await asyncio.gather(*(self.cancel(sub) for sub in decision.cancel))
        for sub in _unwanted(case, decision):
            await self._discard(sub)

    async def cancel(self, sub: Submission) -> None:
        """Ask RunPod to stop the run, if it is known."""
        if sub.runpod_job_id is None:
            return
        try:
            await self._runpod.cancel(sub.runpod_job_id, endpoint_id=sub.endpoint_id)
            log.info("run.cancelled", job_id=sub.job_id, run_id=sub.runpod_job_id)
        except (RunGone, OperatorFault, TransientError) as error:
            # It is asked again while the run is seen alive.
            log.warning("run.cancel_failed", run_id=sub.runpod_job_id, reason=error.message)

    async def _discard_ended(self, case: Case, attempt: int) -> None:
        sub = case.submission(attempt)
        if sub is not None:
            await self._discard(sub)
            self._discarded.discard((case.job_id, attempt))

    async def _discard(self, sub: Submission) -> None:
        """Take the inputs away, once: a run that starts in spite of us dies at its download."""
        key = (sub.job_id, sub.attempt)
        if not sub.input_objects or key in self._discarded:
            return
        try:
            await self._media.discard(sub.input_objects)
            self._discarded.add(key)
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("inputs.not_discarded", job_id=sub.job_id, reason=error.message)


def _tell(case: Case, decision: Decision) -> None:
    """Log and count what became of the job."""
    parts = decision.change.submissions
    sub = case.submission(parts[-1].attempt) if parts else None
    what = {
        "job_id": case.job_id,
        "attempt": sub.attempt if sub else None,
        "run_id": sub.runpod_job_id if sub else None,
        "outcome": decision.outcome,
    }
    if decision.change.completed:
        job = decision.change.job or {}
        outcome = str(job.get("status"))
        code = job.get("error_code") or ""
        METRICS.jobs_ended.labels(outcome, code).inc()
        log.info("job.ended", **what, status=outcome, code=code or None)
    elif decision.outcome not in ("running", "waiting", "waiting_gpu", "unchanged"):
        log.info("job.changed", **what)


def _unwanted(case: Case, decision: Decision) -> tuple[Submission, ...]:
    """Submissions whose run must not render any more: cancelled, or never confirmed and unasked."""
    stopped = decision.outcome == "cancelling" or case.job is None
    unknown = (one for one in case.submissions if one.state is SubmissionState.UNKNOWN)
    return decision.cancel + (tuple(unknown) if stopped else ())
