"""Every legal move on the way back: what is known of a job's runs becomes a change of its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from worker.jobs.backoff import backoff
from worker.jobs.change import Change, Decision, Limits, Observation, SubmissionChange
from worker.jobs.errors import CODES
from worker.jobs.failures import Failure
from worker.jobs.job import Case, Job, JobStatus, Submission, SubmissionState
from worker.jobs.observation import Look, look_at
from worker.jobs.progress import LOADING_SECONDS, outlook

# How often one failure is answered with another submission within a try (the first one included).
SUBMISSIONS_PER_CODE: Mapping[str, int] = {"input_download_failed": 2, "run_failed": 2}


def decide(
    case: Case,
    attempt: int,
    observation: Observation,
    limits: Limits,
    *,
    webhooks_work: bool,
    jitter: float,
) -> Decision:
    """What follows from an observation of one submission."""
    before = case.submission(attempt)
    if before is None:
        return Decision(
            change=Change(job_id=case.job_id, revision=_revision(case), states=case.states)
        )
    look = look_at(before, observation, limits, webhooks_work=webhooks_work)
    after = replace(
        case,
        submissions=tuple(look.now if one.attempt == attempt else one for one in case.submissions),
    )
    if case.job is None or case.job.status.terminal or before.try_number != case.job.try_number:
        return _nobody_waits(case, after, look, limits)
    return _Judge(
        case=case, after=after, job=case.job, look=look, limits=limits, jitter=jitter
    ).decide()


def _revision(case: Case) -> int | None:
    return None if case.job is None else case.job.revision


def _nobody_waits(case: Case, after: Case, look: Look, limits: Limits) -> Decision:
    """The row is gone, has ended, or was tried anew: whatever still runs is stopped."""
    cancel = (look.now,) if look.now.state.live and _cancel_due(look.now, limits) else ()
    change = look.change
    if look.now.state.live:
        change = replace(change, cancel_asked=bool(cancel), poll_seconds=limits.soon)
    return Decision(
        change=Change(
            job_id=case.job_id, revision=_revision(case), states=case.states, submissions=(change,)
        ),
        cancel=cancel,
        outcome="orphan_cancelled" if cancel else "orphan_seen",
    )


def _cancel_due(sub: Submission, limits: Limits) -> bool:
    return sub.cancel_asked_ago is None or sub.cancel_asked_ago >= limits.cancel_again


def _stopped_by_us(sub: Submission) -> bool:
    return sub.state is SubmissionState.CANCELLED and sub.cancel_asked_ago is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """Decides the job's move from all submissions of its present try."""

    case: Case
    after: Case
    job: Job
    look: Look
    limits: Limits
    jitter: float

    def decide(self) -> Decision:
        present = self.after.present
        done = next((one for one in present if one.video_url), None)
        if done is not None:
            return self._completed(done)
        still_open = [one for one in present if one.state.open]
        live = [one for one in still_open if one.state.live]
        held = (
            self.job.status is JobStatus.PREPARING
            and self.job.lease_left is not None
            and self.job.lease_left > 0
        )
        posting = any(one.state is SubmissionState.SUBMITTING for one in still_open)
        if (held or posting) and not live:
            # The dispatcher has the row in hand and will hear of a cancel itself; what a dead one
            # left is taken back when its lease is over.
            return self._write(None, outcome="left_to_dispatch")
        if self.job.cancel_requested or self.job.ending_code is not None:
            return self._ending(still_open, live)
        if live:
            return self._alive(live)
        if still_open:
            return self._write(self._if_new({"phase": "confirming_submission"}), outcome="waiting")
        if self.job.status is JobStatus.QUEUED:
            return self._write(self._if_new({}), outcome="in_line_again")
        return self._all_ended()

    def _write(
        self,
        job: Mapping[str, Any] | None,
        *,
        outcome: str,
        cancel: tuple[Submission, ...] = (),
        **more: Any,
    ) -> Decision:
        asked = {one.attempt for one in cancel}
        own = self.look.change
        now = self.look.now
        if own.attempt in asked or (now.state.live and now.cancel_asked_ago is not None):
            # A cancel takes effect within seconds; the people who asked for it are waiting.
            own = replace(own, cancel_asked=own.attempt in asked, poll_seconds=self.limits.soon)
        others = tuple(
            SubmissionChange(attempt=attempt, cancel_asked=True, poll_seconds=self.limits.soon)
            for attempt in sorted(asked - {own.attempt})
        )
        if job is not None:
            job = {**self._cost(), **job}
        change = Change(
            job_id=self.case.job_id,
            revision=self.job.revision,
            states=self.case.states,
            job=job,
            submissions=(own, *others),
            **more,
        )
        return Decision(change=change, cancel=cancel, outcome=outcome)

    def _cost(self) -> dict[str, Any]:
        added = self.look.now.cost_usd if self.look.change.ended else None
        if added is None:
            return {}
        return {"cost_usd": str((self.job.cost_usd or Decimal(0)) + added)}

    def _if_new(self, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Only what differs: every write of the row is an event for each browser that watches."""
        present = {name: getattr(self.job, name) for name in values}
        return values if present != dict(values) or self._cost() else None

    def _completed(self, done: Submission) -> Decision:
        cancel = tuple(
            one for one in self.after.present if one.state.live and _cancel_due(one, self.limits)
        )
        job = {
            "status": JobStatus.COMPLETED.value,
            "phase": "done",
            "phase_detail": None,
            "progress": 100,
            "video_url": done.video_url,
            "runpod_job_id": done.runpod_job_id,
            "error_code": None,
            "error_message": None,
            "ending_code": None,
            "ending_message": None,
        }
        return self._write(job, outcome="completed", cancel=cancel, completed=True)

    def _ending(self, still_open: list[Submission], live: list[Submission]) -> Decision:
        cancel = tuple(one for one in live if _cancel_due(one, self.limits))
        if still_open:
            detail = None if live else "Waiting until it is certain that nothing runs at RunPod."
            values = {"phase": "cancelling", "phase_detail": detail}
            return self._write(self._if_new(values), outcome="cancelling", cancel=cancel)
        if self.job.cancel_requested:
            job = {"status": JobStatus.CANCELLED.value, "phase": "done", "phase_detail": None}
            return self._write(job, outcome="cancelled", completed=True)
        return self._failed(str(self.job.ending_code), self.job.ending_message or "")

    def _failed(self, code: str, message: str) -> Decision:
        job = {
            "status": JobStatus.FAILED.value,
            "phase": "done",
            "phase_detail": None,
            "error_code": code,
            "error_message": message[:1000],
        }
        return self._write(job, outcome=f"failed:{code}", completed=True)

    def _alive(self, live: list[Submission]) -> Decision:
        keep = min(live, key=lambda one: (one.state is not SubmissionState.RUNNING, one.attempt))
        extra = tuple(one for one in live if one is not keep and _cancel_due(one, self.limits))
        if self._queue_deadline_passed(keep):
            return self._stop_waiting(live)
        if keep.state is SubmissionState.QUEUED:
            # Another run of this try may have started before: the row never goes backwards.
            ran = self.job.status is JobStatus.RUNNING
            values: dict[str, Any] = {
                "status": (JobStatus.RUNNING if ran else JobStatus.SUBMITTED).value,
                "phase": "waiting_gpu",
                "runpod_job_id": keep.runpod_job_id,
            }
            return self._write(self._if_new(values), outcome="waiting_gpu", cancel=extra)
        return self._running(keep, extra)

    def _running(self, keep: Submission, extra: tuple[Submission, ...]) -> Decision:
        update = self.look.update if keep.attempt == self.look.now.attempt else None
        values: dict[str, Any] = {
            "status": JobStatus.RUNNING.value,
            "runpod_job_id": keep.runpod_job_id,
            "phase_detail": None,
        }
        if update is None:
            return self._write(self._if_new(values), outcome="running", cancel=extra, started=True)
        elapsed = (update.execution_ms or 0) / 1000
        view = outlook(
            reported=update.progress,
            elapsed=elapsed,
            expected=keep.expected_seconds,
            previous=self.job.progress,
        )
        guess = "loading_models" if elapsed < LOADING_SECONDS else "generating"
        values |= {
            "phase": update.phase or guess,
            "progress": view.progress,
            "progress_source": view.source,
        }
        return self._write(
            self._if_new(values),
            outcome="running",
            cancel=extra,
            started=True,
            eta_seconds=view.seconds_left,
        )

    def _queue_deadline_passed(self, keep: Submission) -> bool:
        deadline = self.limits.queue_deadline
        quiet = keep.endpoint_started_ago is None or keep.endpoint_started_ago > deadline
        return keep.state is SubmissionState.QUEUED and keep.queued_for > deadline and quiet

    def _stop_waiting(self, live: list[Submission]) -> Decision:
        minutes = round(self.limits.queue_deadline / 60)
        job = {
            "phase": "cancelling",
            "phase_detail": None,
            "ending_code": "queue_timeout",
            "ending_message": f"No GPU worker took the run within {minutes} minutes, so it was "
            "cancelled. Nothing was rendered. The operator should look at the endpoint's workers.",
        }
        return self._write(job, outcome="queue_timeout", cancel=tuple(live))

    def _all_ended(self) -> Decision:
        ended = [one for one in self.after.present if one.state is not SubmissionState.REFUSED]
        failure = self.look.failure
        if failure is None or _stopped_by_us(self.look.now):
            codes = [one.error_code for one in ended if not _stopped_by_us(one)]
            code = next((one for one in reversed(codes) if one in CODES), "run_lost")
            failure = Failure(
                code=code, message=CODES[code].meaning, retryable=CODES[code].retryable
            )
        same = sum(one.error_code == failure.code for one in ended)
        if not failure.retryable or same >= SUBMISSIONS_PER_CODE.get(failure.code, 1_000):
            return self._failed(failure.code, failure.message)
        if self.job.submissions >= self.limits.max_submissions:
            return self._failed(
                "too_many_submissions",
                f"The job was submitted {self.job.submissions} times without a video. "
                f"Last: {failure.message}",
            )
        job = {
            "status": JobStatus.QUEUED.value,
            "phase": "in_line",
            "phase_detail": f"Trying again. {failure.message}"[:300],
        }
        wait = backoff(
            max(1, self.job.submissions),
            first=self.limits.retry_first,
            most=self.limits.retry_most,
            jitter=self.jitter,
        )
        return self._write(job, outcome=f"retried:{failure.code}", retry_seconds=wait)
