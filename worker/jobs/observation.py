"""What one event says about the submissions of a case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from worker.jobs.change import Instants, SubmissionChange, Values
from worker.jobs.events import (
    Accepted,
    Event,
    InputNotDelivered,
    NotAccepted,
    NotFound,
    Observed,
    OutcomeUnknown,
    Refused,
    Rejected,
    Released,
    Reported,
    Reviewed,
)
from worker.jobs.failures import Failure, classify_failure
from worker.jobs.job import Case, JobStatus, Submission, SubmissionState
from worker.jobs.retry import LifecyclePolicy
from worker.jobs.run import RunState, RunUpdate

# RunPod deletes a run when its ttl has passed; what it says of one so long after it is stale.
GONE_AFTER = 1800.0
_SENDER_GONE = "the worker stopped while POST /run was under way"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionUpdate:
    """One submission after an event: its new value, what to write, and what the run reported."""

    now: Submission
    values: Values
    instants: Instants
    report: RunUpdate | None = None
    ended: bool = False

    @property
    def change(self) -> SubmissionChange:
        """The columns to write."""
        return SubmissionChange(
            attempt=self.now.attempt, values=self.values, instants=self.instants
        )


def interpret(
    case: Case, event: Event, policy: LifecyclePolicy, *, webhooks_work: bool
) -> tuple[SubmissionUpdate, ...]:
    """Return the submissions of a case that an event changes; none if it is stale or unrelated."""
    match event:
        case Rejected() | Released() | InputNotDelivered():
            return ()
        case Reviewed():
            return tuple(_due(case, policy))
        case _:
            sub = case.submission(event.attempt)
    if sub is None:
        return ()
    update: SubmissionUpdate | None
    match event:
        case Accepted(run_id=run_id):
            update = _accepted(sub, run_id, policy)
        case Refused(reason=reason):
            update = _refused(sub, reason)
        case OutcomeUnknown(reason=reason):
            update = _unknown(sub, reason) if _posting(sub) else None
        case Reported(update=report):
            update = _reported(sub, report)
        case Observed(update=report):
            update = _observed(sub, report, policy, webhooks_work=webhooks_work)
        case NotFound(healthy=healthy):
            update = _not_found(sub, policy, healthy=healthy) if sub.state.open else None
        case NotAccepted():
            update = _given_up(sub, "nothing at RunPod points to it") if sub.nameless else None
    return () if update is None else (update,)


def _update(
    sub: Submission,
    values: Mapping[str, Any],
    instants: Mapping[str, float | None],
    *,
    report: RunUpdate | None = None,
    ended: bool = False,
    **now: Any,
) -> SubmissionUpdate:
    """Build an update; `now` names what differs in memory where a column's form is another."""
    known = {name: value for name, value in values.items() if name in Submission.__slots__}
    if "state" in known:
        known["state"] = SubmissionState(known["state"])
    return SubmissionUpdate(
        now=replace(sub, **(known | now)),
        values=values,
        instants=instants,
        report=report,
        ended=ended,
    )


def _posting(sub: Submission) -> bool:
    return sub.state in (SubmissionState.SUBMITTING, SubmissionState.UNKNOWN)


def _due(case: Case, policy: LifecyclePolicy) -> Iterator[SubmissionUpdate]:
    """Yield what time alone changes: senders that are gone, unknown submissions given up."""
    job = case.job
    for sub in case.submissions:
        if sub.state is SubmissionState.SUBMITTING:
            claimed = (
                job is not None
                and job.status is JobStatus.PREPARING
                and job.attempt == sub.attempt
                and job.lease_left is not None
            )
            # Without a lease to go by, the time that was set before the POST tells.
            left = job.lease_left if claimed and job is not None else sub.next_poll_in
            if left is not None and left < 0:
                yield _unknown(sub, _SENDER_GONE)
        elif sub.reported is not None and _overdue(sub, policy):
            yield _believed(sub, sub.reported, policy)
        elif sub.nameless:
            if sub.ttl_left <= 0:
                yield _given_up(sub, "its time to live has passed")
            elif policy.unknown_wait is not None and sub.age >= policy.unknown_wait:
                yield _given_up(sub, "SUBMIT_UNKNOWN_WAIT_SECONDS has passed")
            else:
                yield _update(sub, {}, {"next_poll_at": policy.poll / 2})


def _accepted(sub: Submission, run_id: str, policy: LifecyclePolicy) -> SubmissionUpdate | None:
    """Adopt a run, also for a submission that was given up; its id never changes again."""
    if sub.runpod_job_id is not None:
        return None
    values = {
        "runpod_job_id": run_id, "state": "queued", "resend": False,
        "error_code": None, "error_message": None, "raw_error": None,
    }  # fmt: skip
    instants = {
        "submitted_at": 0.0, "ended_at": None, "cancel_asked_at": None, "next_poll_at": policy.soon,
    }  # fmt: skip
    return _update(sub, values, instants, cancel_asked_ago=None, queued_for=0.0)


def _refused(sub: Submission, reason: str) -> SubmissionUpdate | None:
    if not _posting(sub):
        return None
    values = {"state": "refused", "raw_error": reason[:2000]}
    return _update(sub, values, {"ended_at": 0.0}, ended=True)


def _unknown(sub: Submission, reason: str) -> SubmissionUpdate:
    values = {"state": "unknown", "raw_error": reason[:2000]}
    return _update(sub, values, {"next_poll_at": 0.0})


def _given_up(sub: Submission, why: str) -> SubmissionUpdate:
    failure = Failure(
        code="run_lost",
        message="RunPod's answer to the submission was lost and no run of it ever showed.",
        resend=True,
    )
    return _ended(sub, SubmissionState.EXPIRED, failure=failure, raw_error=f"given up: {why}")


def _reported(sub: Submission, report: RunUpdate) -> SubmissionUpdate | None:
    """Keep the end of a run as evidence: it counts if RunPod cannot be asked before it forgets.

    The latest counts: a forged message may arrive while the run has only begun.
    """
    ours = sub.state.live and sub.runpod_job_id == report.run_id
    if not ours or not report.state.terminal or sub.reported == report:
        return None
    return _update(sub, {"reported": report.as_json()}, {"reported_at": 0.0}, reported=report)


def _overdue(sub: Submission, policy: LifecyclePolicy) -> bool:
    return (
        sub.state.live
        and sub.reported_ago is not None
        and sub.reported_ago >= policy.report_patience
    )


def _believed(sub: Submission, report: RunUpdate, policy: LifecyclePolicy) -> SubmissionUpdate:
    """End a submission by what only its webhook said."""
    # A result without a video has been asked for long enough.
    waited = replace(sub, incomplete_for=policy.patience)
    update = _observed(waited, report, policy, webhooks_work=True)
    assert update is not None, "a live submission always changes"
    return update


def _observed(
    sub: Submission, report: RunUpdate, policy: LifecyclePolicy, *, webhooks_work: bool
) -> SubmissionUpdate | None:
    if not sub.state.open:
        # A video may still come for one that was given up; nothing else changes the past.
        if not report.video_url or sub.video_url is not None:
            return None
        return _ended(sub, SubmissionState.COMPLETED, report=report, policy=policy)
    match report.state:
        case RunState.COMPLETED if report.video_url:
            return _ended(sub, SubmissionState.COMPLETED, report=report, policy=policy)
        case RunState.COMPLETED:
            return _without_video(sub, report, policy)
        case RunState.FAILED | RunState.TIMED_OUT | RunState.CANCELLED:
            cancelled = report.state is RunState.CANCELLED
            state = SubmissionState.CANCELLED if cancelled else SubmissionState.FAILED
            failure = classify_failure(report)
            return _ended(sub, state, report=report, failure=failure, policy=policy)
        case RunState.RUNNING:
            state = SubmissionState.RUNNING
            quiet = report.progress is None and webhooks_work
            poll = policy.slow_poll if quiet else policy.poll
            values = _times(report)
        case _:  # queued, or a word that we do not know
            # RunPod may put a run back into its queue; our state does not go back with it.
            state = sub.state if sub.state.live else SubmissionState.QUEUED
            poll, values = policy.poll, {}
    instants: dict[str, float | None] = {"seen_at": 0.0, "next_poll_at": poll}
    if sub.ttl_left <= -GONE_AFTER:
        return _lost(sub, "GET /status: alive long after its time to live")
    if state is not sub.state:
        values["state"] = state.value
        if state is SubmissionState.RUNNING:
            instants["started_at"] = 0.0
    if sub.missing_for is not None:
        values["missing_looks"], instants["missing_since"] = 0, None
    if sub.incomplete_for is not None:
        instants["incomplete_since"] = None
    if sub.reported is not None:
        # RunPod says that the run is alive: the webhook was forged, or the run was restarted.
        values["reported"], instants["reported_at"] = None, None
    return _update(sub, values, instants, report=report)


def _without_video(sub: Submission, report: RunUpdate, policy: LifecyclePolicy) -> SubmissionUpdate:
    """A completed run that names no video is asked again for a while: it may be written late."""
    if sub.incomplete_for is None or sub.incomplete_for < policy.patience:
        instants: dict[str, float | None] = {"seen_at": 0.0, "next_poll_at": 2 * policy.soon}
        if sub.incomplete_for is None:
            instants["incomplete_since"] = 0.0
        return _update(sub, {}, instants, report=report)
    failure = Failure(
        code="result_missing",
        message="The run completed, but RunPod holds no video of it. The operator should "
        "check the endpoint's storage (R2) settings; then try the job again.",
        resend=False,
    )
    return _ended(sub, SubmissionState.FAILED, report=report, failure=failure, policy=policy)


def _not_found(sub: Submission, policy: LifecyclePolicy, *, healthy: bool) -> SubmissionUpdate:
    patient = sub.missing_for is None or sub.missing_for < policy.patience
    looks = sub.missing_looks + 1
    if sub.ttl_left > 0 and (not healthy or patient or looks < policy.missing_looks):
        instants: dict[str, float | None] = {"next_poll_at": 2 * policy.soon}
        if not healthy:
            # While the provider has trouble a 404 proves nothing, but the count does not restart.
            return _update(sub, {}, instants)
        if sub.missing_for is None:
            instants["missing_since"] = 0.0
        return _update(sub, {"missing_looks": looks}, instants)
    if sub.reported is not None and not healthy:
        return _believed(sub, sub.reported, policy)
    # A healthy endpoint that denies the run counts more than a message that anybody may forge.
    return _lost(sub, "GET /status: 404")


def _lost(sub: Submission, raw_error: str) -> SubmissionUpdate:
    failure = Failure(
        code="run_lost",
        message="RunPod does not know the run any more, and it left no video.",
        resend=True,
    )
    return _ended(sub, SubmissionState.LOST, failure=failure, raw_error=raw_error)


def _times(report: RunUpdate) -> dict[str, Any]:
    known = {"delay_ms": report.delay_ms, "execution_ms": report.execution_ms}
    return {name: value for name, value in known.items() if value is not None}


def _ended(
    sub: Submission,
    state: SubmissionState,
    *,
    report: RunUpdate | None = None,
    failure: Failure | None = None,
    policy: LifecyclePolicy | None = None,
    raw_error: str | None = None,
) -> SubmissionUpdate:
    values: dict[str, Any] = {
        "state": state.value,
        "error_code": None if failure is None else failure.code,
        "error_message": None if failure is None else failure.message,
        "resend": failure is not None and failure.resend,
        "raw_error": raw_error,
    }
    instants: dict[str, float | None] = {"ended_at": 0.0}
    cost = sub.cost_usd
    if report is not None:
        instants["seen_at"] = 0.0
        values |= _times(report) | {"raw_error": report.error}
        price = policy.gpu_price_per_second if policy is not None else None
        if price is not None and report.execution_ms is not None:
            cost = price * report.execution_ms / 1000
            values["cost_usd"] = str(cost)
        if state is SubmissionState.COMPLETED:
            values["video_url"] = report.video_url
    return _update(sub, values, instants, report=report, ended=True, cost_usd=cost)
