"""What one observation says about one submission."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from worker.jobs.change import (
    Gone,
    Limits,
    NotAccepted,
    Observation,
    Seen,
    SubmissionChange,
)
from worker.jobs.failures import Failure, classify_failure
from worker.jobs.job import Submission, SubmissionState
from worker.jobs.run import RunState, RunUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One submission after an observation: its new value, the change, and why it failed."""

    now: Submission
    change: SubmissionChange
    failure: Failure | None = None
    update: RunUpdate | None = None


def look_at(
    sub: Submission, observation: Observation, limits: Limits, *, webhooks_work: bool
) -> Look:
    """What one observation makes of one submission."""
    if not sub.state.open:
        # A video may still come for one that was given up; nothing else changes the past.
        if isinstance(observation, Seen) and observation.update.video_url and sub.video_url is None:
            return _ended(sub, SubmissionState.COMPLETED, limits, update=observation.update)
        return Look(now=sub, change=SubmissionChange(attempt=sub.attempt))
    match observation:
        case Seen(update=update):
            return _seen(sub, update, limits, webhooks_work=webhooks_work)
        case Gone(healthy=healthy):
            return _gone(sub, limits, healthy=healthy)
        case NotAccepted():
            return _given_up(sub, limits, "nothing at RunPod points to it")
        case _:  # no news
            if _nameless(sub):
                if sub.ttl_left <= 0:
                    return _given_up(sub, limits, "its time to live has passed")
                if limits.unknown_wait is not None and sub.age >= limits.unknown_wait:
                    return _given_up(sub, limits, "SUBMIT_UNKNOWN_WAIT_SECONDS has passed")
                return Look(
                    now=sub,
                    change=SubmissionChange(attempt=sub.attempt, poll_seconds=limits.poll / 2),
                )
            return Look(
                now=sub, change=SubmissionChange(attempt=sub.attempt, poll_seconds=limits.poll)
            )


def _nameless(sub: Submission) -> bool:
    """Nobody can be asked about it: unknown, or its run's id was cleared by hand."""
    return sub.state is SubmissionState.UNKNOWN or (sub.state.live and sub.runpod_job_id is None)


def _given_up(sub: Submission, limits: Limits, why: str) -> Look:
    if not _nameless(sub):
        return Look(now=sub, change=SubmissionChange(attempt=sub.attempt, poll_seconds=limits.poll))
    failure = Failure(
        code="run_lost",
        message="RunPod's answer to the submission was lost and no run of it ever showed.",
        retryable=True,
    )
    return _ended(
        sub, SubmissionState.EXPIRED, limits, failure=failure, raw_error=f"given up: {why}"
    )


def _seen(sub: Submission, update: RunUpdate, limits: Limits, *, webhooks_work: bool) -> Look:
    match update.state:
        case RunState.COMPLETED if update.video_url:
            return _ended(sub, SubmissionState.COMPLETED, limits, update=update)
        case RunState.COMPLETED:
            if sub.incomplete_for is None or sub.incomplete_for < limits.incomplete:
                change = SubmissionChange(
                    attempt=sub.attempt,
                    incomplete=True,
                    missing=False,
                    seen=True,
                    poll_seconds=2 * limits.soon,
                )
                return Look(now=sub, change=change, update=update)
            failure = Failure(
                code="result_missing",
                message="The run completed, but RunPod holds no video of it. The operator should "
                "check the endpoint's storage (R2) settings; then try the job again.",
                retryable=False,
            )
            return _ended(sub, SubmissionState.FAILED, limits, update=update, failure=failure)
        case RunState.FAILED | RunState.TIMED_OUT:
            failure = classify_failure(update)
            return _ended(sub, SubmissionState.FAILED, limits, update=update, failure=failure)
        case RunState.CANCELLED:
            failure = classify_failure(update)
            return _ended(sub, SubmissionState.CANCELLED, limits, update=update, failure=failure)
        case RunState.RUNNING:
            now = replace(sub, state=SubmissionState.RUNNING, execution_ms=update.execution_ms)
            quiet = update.progress is None and webhooks_work
            poll = limits.slow_poll if quiet else limits.poll
            values = _times(update)
        case _:  # queued, or a word that we do not know
            # RunPod may put a run back into its queue; ours does not go back with it.
            now = sub if sub.state.live else replace(sub, state=SubmissionState.QUEUED)
            poll, values = limits.poll, {}
    if now.state is not sub.state:
        values = {**values, "state": now.state.value}
    started = now.state is SubmissionState.RUNNING and sub.state is not SubmissionState.RUNNING
    change = SubmissionChange(
        attempt=sub.attempt,
        set=values,
        started=started,
        seen=True,
        missing=False,
        incomplete=False,
        poll_seconds=poll,
    )
    return Look(now=now, change=change, update=update)


def _gone(sub: Submission, limits: Limits, *, healthy: bool) -> Look:
    patient = sub.missing_for is None or sub.missing_for < limits.missing
    if sub.ttl_left > 0 and (
        not healthy or patient or sub.missing_looks + 1 < limits.missing_looks
    ):
        change = SubmissionChange(
            attempt=sub.attempt,
            # While the provider is ill a 404 proves nothing, but the count does not start anew.
            missing=True if healthy else None,
            poll_seconds=2 * limits.soon,
        )
        return Look(now=sub, change=change)
    failure = Failure(
        code="run_lost",
        message="RunPod does not know the run any more, and it left no video.",
        retryable=True,
    )
    return _ended(sub, SubmissionState.LOST, limits, failure=failure, raw_error="GET /status: 404")


def _times(update: RunUpdate) -> dict[str, Any]:
    known = {"delay_ms": update.delay_ms, "execution_ms": update.execution_ms}
    return {name: value for name, value in known.items() if value is not None}


def _ended(
    sub: Submission,
    state: SubmissionState,
    limits: Limits,
    *,
    update: RunUpdate | None = None,
    failure: Failure | None = None,
    raw_error: str | None = None,
) -> Look:
    values: dict[str, Any] = {"state": state.value}
    cost = sub.cost_usd
    if update is not None:
        values |= _times(update)
        raw_error = update.error
        if limits.gpu_price_per_second is not None and update.execution_ms is not None:
            cost = limits.gpu_price_per_second * update.execution_ms / 1000
            values["cost_usd"] = str(cost)
        if state is SubmissionState.COMPLETED:
            values["video_url"] = update.video_url
    values["error_code"] = None if failure is None else failure.code
    values["raw_error"] = raw_error
    now = replace(
        sub,
        state=state,
        cost_usd=cost,
        video_url=update.video_url if update is not None else None,
        error_code=values["error_code"],
        raw_error=raw_error,
    )
    change = SubmissionChange(attempt=sub.attempt, set=values, ended=True, seen=update is not None)
    return Look(now=now, change=change, failure=failure, update=update)
