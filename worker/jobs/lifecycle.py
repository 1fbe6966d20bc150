"""The life of a job in one place: decide() turns a case and an event into a permitted change.

Every status, error code, sentence, release, resend and ending is decided here. SQL keeps what
needs a lock or a clock: taking rows, committing a submission before its POST, and the fences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from worker.jobs.change import Decision, Kind
from worker.jobs.draft import Draft
from worker.jobs.events import (
    Event,
    InputNotDelivered,
    NotFound,
    OutcomeUnknown,
    Refused,
    Rejected,
    Released,
)
from worker.jobs.job import Case, Job, JobStatus, Submission, SubmissionState
from worker.jobs.observation import SubmissionUpdate, interpret
from worker.jobs.progress import LOADING_SECONDS, outlook
from worker.jobs.retry import INPUT_TRIES, LifecyclePolicy, backoff, input_wait, verdict
from worker.jobs.waiting import IN_LINE

# A job whose preparation stopped the worker that often, with no other job beside it, is given up.
MAX_CRASHES_ALONE = 5
_END_OF_CLAIM = (Rejected, Released, InputNotDelivered, Refused, OutcomeUnknown)


def decide(
    case: Case,
    event: Event,
    policy: LifecyclePolicy,
    *,
    webhooks_work: bool = False,
    jitter: float = 1.0,
) -> Decision:
    """Return what follows from an event; `jitter` (0 to 1) spreads the waits before a resend."""
    updates = interpret(case, event, policy, webhooks_work=webhooks_work)
    now = {update.now.attempt: update.now for update in updates}
    after = replace(case, submissions=tuple(now.get(sub.attempt, sub) for sub in case.submissions))
    draft = Draft(case=case, after=after, updates=updates, policy=policy)
    transition = _Transition(
        case=case,
        after=after,
        event=event,
        updates=updates,
        policy=policy,
        jitter=jitter,
        draft=draft,
    )
    job = case.job
    if job is None or job.status.terminal or transition.concerns_older_try(job):
        return transition.nobody_waits()
    return transition.move(job)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Transition:
    """Decides the job's move from all submissions of its present try."""

    case: Case
    after: Case
    event: Event
    updates: tuple[SubmissionUpdate, ...]
    policy: LifecyclePolicy
    jitter: float
    draft: Draft

    def concerns_older_try(self, job: Job) -> bool:
        """Whether the event is about a submission of an earlier try."""
        attempt = getattr(self.event, "attempt", None)
        sub = None if attempt is None else self.case.submission(attempt)
        return sub is not None and sub.try_number != job.try_number

    def nobody_waits(self) -> Decision:
        """The row is gone, has ended, or was tried again: whatever still runs is stopped."""
        job = self.case.job
        try_number = None if job is None or job.status.terminal else job.try_number
        unwanted = [sub for sub in self.after.submissions if sub.try_number != try_number]
        cancel = tuple(sub for sub in unwanted if sub.state.live and self.draft.cancel_due(sub))
        return self.draft.build(
            Kind.UNWANTED_RUN, cancel=cancel, discard=self.draft.abandon(unwanted)
        )

    def move(self, job: Job) -> Decision:
        """The job waits for a video: complete, end, keep waiting, or send it again."""
        present = self.after.present
        done = next((sub for sub in present if sub.video_url), None)
        if done is not None:
            return self._completed(done)
        still_open = [sub for sub in present if sub.state.open]
        live = [sub for sub in still_open if sub.state.live]
        ended_claim = self._claim_ended(job)
        claimed = job.status is JobStatus.PREPARING and job.lease_left is not None
        posting = any(sub.state is SubmissionState.SUBMITTING for sub in still_open)
        if ((claimed and not ended_claim) or posting) and not live:
            # Who holds the claim hears of a cancel, and says itself how the claim ends.
            return self.draft.build(Kind.LEFT_TO_CLAIM)
        if job.cancel_requested or job.ending_code is not None:
            return self._ending(job, still_open, live)
        if live:
            return self._alive(job, live)
        if still_open:
            return self._confirming(job, still_open)
        if ended_claim:
            return self._after_claim(job)
        if job.status is JobStatus.QUEUED:
            return self.draft.build(Kind.UNCHANGED)
        return self._all_ended(job)

    def _claim_ended(self, job: Job) -> bool:
        """Whether the row's present claim is over: its holder says so, or its lease has expired."""
        expired = job.lease_left is not None and job.lease_left < 0
        return job.status is JobStatus.PREPARING and (expired or self._says_how_it_ends(job))

    def _says_how_it_ends(self, job: Job) -> bool:
        """Whether the event is the end of the present claim, and not of an earlier one."""
        return isinstance(self.event, _END_OF_CLAIM) and self.event.attempt == job.attempt

    def _after_claim(self, job: Job) -> Decision:
        """The claim is over and no submission of this try is open."""
        match self.event if self._says_how_it_ends(job) else None:
            case Rejected(code=code, message=message):
                return self._failed(code, message)
            case Refused(code=str(code), reason=reason):
                return self._failed(code, reason)
            case Released(retry_seconds=seconds, detail=detail):
                return self._queued(Kind.RELEASED, seconds, detail)
            case InputNotDelivered() as event:
                return self._input_not_delivered(job, event)
            case Refused(retry_seconds=seconds):
                detail = "Waiting: the GPU provider takes no jobs just now."
                return self._queued(Kind.RELEASED, seconds, detail, crashes=0)
            case _:
                return self._crashed(job)

    def _input_not_delivered(self, job: Job, event: InputNotDelivered) -> Decision:
        """A host failed: the job waits in line for its next try, and ends after the last one."""
        tries, seconds = job.input_tries + 1, job.input_seconds + ceil(event.seconds)
        counted = {"input_tries": tries, "input_seconds": seconds}
        wait = input_wait(tries, seconds, event.retry_in)
        if wait is None:
            return self._failed(event.code, event.message, **counted)
        detail = (
            f"Waiting: {event.message[:200]} Try {tries + 1} of {INPUT_TRIES} follows in "
            f"{round(wait)} s."
        )
        return self._queued(Kind.RELEASED, wait, detail, **counted)

    def _crashed(self, job: Job) -> Decision:
        """The lease expired with nothing sent: the worker that held the row is gone."""
        crashes = {
            "crashes": job.crashes + 1,
            "crashes_alone": job.crashes_alone + job.claimed_alone,
        }
        if crashes["crashes_alone"] >= MAX_CRASHES_ALONE:
            message = (
                f"The worker stopped {MAX_CRASHES_ALONE} times while it prepared this job alone. "
                "Use another image or audio file; the operator finds the cause in the worker's log."
            )
            return self._failed("too_many_crashes", message, **crashes)
        return self._queued(Kind.LEASE_EXPIRED, 0.0, None, **crashes)

    def _queued(
        self, kind: Kind, seconds: float, detail: str | None = None, **more: int
    ) -> Decision:
        detail = detail or IN_LINE
        values = {"status": "queued", "phase": "in_line", "phase_detail": detail, **more}
        return self.draft.build(kind, values, {"available_at": seconds, "eta_at": None})

    def _confirming(self, job: Job, still_open: list[Submission]) -> Decision:
        """The POST's outcome is unknown, and nothing else is under way."""
        if job.phase == "confirming_submission" and job.lease_left is None:
            return self.draft.build(Kind.CONFIRMING)
        wait = self.policy.unknown_wait
        left = max(
            sub.ttl_left if wait is None else min(sub.ttl_left, wait - sub.age)
            for sub in still_open
        )
        minutes = max(1, round(left / 60))
        values = {
            "phase": "confirming_submission",
            "phase_detail": "The answer of the GPU provider was lost. Waiting until it is certain "
            f"whether the video is being made, at most {minutes} minutes.",
        }
        return self.draft.build(Kind.CONFIRMING, values, {"eta_at": max(left, 0.0)})

    def _ending(self, job: Job, still_open: list[Submission], live: list[Submission]) -> Decision:
        """A cancel or a deadline: it takes effect when nothing can cost money any more."""
        if still_open:
            detail = None if live else "Waiting until it is certain that nothing runs at RunPod."
            values = {"phase": "cancelling", "phase_detail": detail}
            if live:
                values |= self._following(job, self._best(live))
            cancel = tuple(sub for sub in live if self.draft.cancel_due(sub))
            return self.draft.build(
                Kind.CANCELLING,
                self.draft.if_new(job, values),
                cancel=cancel,
                discard=self.draft.abandon(still_open),
            )
        if job.cancel_requested:
            values = {"status": "cancelled", "phase": "done", "phase_detail": None}
            return self.draft.build(Kind.CANCELLED, values, {"completed_at": 0.0})
        return self._failed(str(job.ending_code), job.ending_message or "")

    def _completed(self, done: Submission) -> Decision:
        live = [sub for sub in self.after.present if sub.state.live]
        values = {
            "status": "completed",
            "phase": "done",
            "phase_detail": None,
            "progress": 100,
            "video_url": done.video_url,
            "runpod_job_id": done.runpod_job_id,
            "error_code": None,
            "error_message": None,
        }
        return self.draft.build(
            Kind.COMPLETED,
            values,
            {"completed_at": 0.0},
            cancel=tuple(sub for sub in live if self.draft.cancel_due(sub)),
        )

    def _failed(self, code: str, message: str, **more: int) -> Decision:
        values = {
            "status": "failed",
            "phase": "done",
            "phase_detail": None,
            "error_code": code,
            "error_message": message[:1000],
            **more,
        }
        return self.draft.build(Kind.FAILED, values, {"completed_at": 0.0}, code=code)

    def _alive(self, job: Job, live: list[Submission]) -> Decision:
        """A run is at RunPod. Of several the one that renders stays, else the oldest."""
        keep = self._best(live)
        extra = tuple(sub for sub in live if sub is not keep and self.draft.cancel_due(sub))
        report = next((u.report for u in self.updates if u.now.attempt == keep.attempt), None)
        if report is not None and self._queue_deadline_passed(keep):
            return self._stop_waiting(live)
        values = self._following(job, keep) | {"phase_detail": self._blind_detail()}
        if keep.state is SubmissionState.QUEUED:
            new = self.draft.if_new(job, values | {"phase": "waiting_gpu"})
            return self.draft.build(
                Kind.WAITING_GPU, new, {"eta_at": None} if new else {}, cancel=extra
            )
        instants: dict[str, float | None] = {}
        if report is not None:
            elapsed = (report.execution_ms or 0) / 1000
            view = outlook(
                reported=report.progress,
                elapsed=elapsed,
                expected=keep.expected_seconds,
                previous=job.progress,
            )
            guess = "loading_models" if elapsed < LOADING_SECONDS else "generating"
            values |= {
                "phase": report.phase or guess,
                "progress": view.progress,
                "progress_source": view.source,
            }
            instants["eta_at"] = view.seconds_left
        new = self.draft.if_new(job, values)
        if job.started_at is None:
            instants["started_at"] = 0.0
        return self.draft.build(Kind.RUNNING, new, instants if new else {}, cancel=extra)

    def _blind_detail(self) -> str | None:
        """What to say while RunPod denies a run and its endpoint does not answer, either."""
        if isinstance(self.event, NotFound) and not self.event.healthy:
            return (
                "The GPU provider does not answer about this video just now. It is followed again "
                "as soon as it does."
            )
        return None

    def _best(self, live: list[Submission]) -> Submission:
        """The run that renders, else the oldest; one that is being cancelled comes last."""
        return min(
            live,
            key=lambda sub: (
                sub.cancel_asked_ago is not None,
                sub.state is not SubmissionState.RUNNING,
                sub.attempt,
            ),
        )

    def _following(self, job: Job, keep: Submission) -> dict[str, Any]:
        """The row's status and run; another run of this try may have started before."""
        running = SubmissionState.RUNNING in (keep.state, job.status)
        return {
            "status": "running" if running else "submitted",
            "runpod_job_id": keep.runpod_job_id,
        }

    def _queue_deadline_passed(self, keep: Submission) -> bool:
        deadline = self.policy.queue_deadline
        quiet = keep.endpoint_started_ago is None or keep.endpoint_started_ago > deadline
        return keep.state is SubmissionState.QUEUED and keep.queued_for > deadline and quiet

    def _stop_waiting(self, live: list[Submission]) -> Decision:
        minutes = round(self.policy.queue_deadline / 60)
        values = {
            "phase": "cancelling",
            "phase_detail": None,
            "ending_code": "queue_timeout",
            "ending_message": f"No GPU worker took the run within {minutes} minutes, so it was "
            "cancelled. Nothing was rendered. The operator should look at the endpoint's workers.",
        }
        return self.draft.build(Kind.QUEUE_TIMEOUT, values, cancel=tuple(live))

    def _all_ended(self, job: Job) -> Decision:
        """Every submission of this try has ended without a video."""
        ended = [sub for sub in self.after.present if sub.counts]
        said = verdict(ended, max_submissions=self.policy.max_submissions)
        if not said.resend:
            return self._failed(said.code, said.message)
        wait = backoff(
            len(ended),
            first=self.policy.retry_first,
            most=self.policy.retry_most,
            jitter=self.jitter,
        )
        return self._queued(Kind.RESENT, wait, f"Trying again. {said.message}"[:300])
