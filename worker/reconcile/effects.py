"""Carries out what a decision asks for besides its change of the rows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from worker.jobs.change import Decision, Kind, SubmissionChange
from worker.jobs.errors import (
    OperatorFault,
    RunGone,
    StoreRefused,
    StoreUnavailable,
    TransientError,
)
from worker.jobs.failures import without_traceback
from worker.jobs.job import Case, Submission
from worker.jobs.run import reason_of
from worker.jobs.text import one_line
from worker.ports import Media, RunPod
from worker.reconcile.not_accepted import NotAcceptedDetector
from worker.reconcile.poller import ROUND_SECONDS
from worker.reconcile.tracker import RunTracker
from worker.runtime.metrics import METRICS

log = structlog.get_logger(__name__)

_FAILED = ("failed", "lost", "expired")
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

    async def run(self, decisions: Sequence[tuple[Case, Decision]]) -> None:
        """Log and count the outcomes; cancel runs and remove inputs, all at once and in time.

        A RunPod or Storage that does not answer must not hold up the loop: what is left is asked
        again (cancels) or removed by its age (inputs).
        """
        for case, decision in decisions:
            if decision.effects.lease_expired:
                METRICS.leases_expired.inc()
            log_outcome(case, decision)
        effects = [decision.effects for _, decision in decisions]
        calls = [self.cancel(sub) for effect in effects for sub in effect.cancel]
        calls += [self._discard(sub) for effect in effects for sub in effect.discard]
        if not calls:
            return
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
            _, late = await asyncio.wait(tasks, timeout=ROUND_SECONDS)
            for task in late:
                task.cancel()

    def settle(self, decisions: Sequence[tuple[Case, Decision]], now: Sequence[Case]) -> None:
        """Stop following runs that are closed in the table, also by another worker."""
        ended = {(c.job_id, attempt) for c, d in decisions for attempt in d.effects.ended}
        closed = {(c.job_id, s.attempt) for c in now for s in c.submissions if not s.state.open}
        for key in ended | closed:
            run = self._tracker.finish(key)
            self._detector.drop(key)
            if run is not None:
                self._detector.note_end(run.run_id)

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

    async def _discard(self, sub: Submission) -> None:
        try:
            if sub.input_objects:
                await self._media.discard(sub.input_objects)
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("inputs.not_discarded", job_id=sub.job_id, reason=error.message)


def log_outcome(case: Case, decision: Decision) -> None:
    """Log and count what became of the job."""
    changes = decision.change.submissions
    for change in changes:
        if change.values.get("state") in _FAILED:
            _log_failed_run(case, change)
    sub = case.submission(changes[-1].attempt) if changes else None
    about = {
        "job_id": case.job_id,
        "attempt": sub.attempt if sub else None,
        "run_id": sub.runpod_job_id if sub else None,
    }
    if decision.kind.ends_job:
        METRICS.count_end(decision.kind.value, decision.code)
        log.info("job.ended", **about, status=decision.kind.value, code=decision.code)
    elif decision.kind not in _QUIET:
        log.info("job.changed", **about, outcome=decision.kind.value)


def _log_failed_run(case: Case, change: SubmissionChange) -> None:
    """Log a run that made no video, with what RunPod said of it."""
    before = case.submission(change.attempt)
    values = change.values
    reason = without_traceback(reason_of(values.get("raw_error")))
    reason = reason or values.get("error_message") or "no reason given"
    log.warning(
        "run.failed",
        job_id=case.job_id,
        attempt=change.attempt,
        run_id=values.get("runpod_job_id") or (before.runpod_job_id if before else None),
        code=values.get("error_code"),
        reason=one_line(str(reason), limit=500),
    )
