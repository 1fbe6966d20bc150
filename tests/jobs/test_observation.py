"""What one event says about one submission."""

from dataclasses import replace
from decimal import Decimal

import pytest

from tests.harness import POLICY, VIDEO
from tests.jobs.cases import job, seen, sub
from worker.jobs.events import Accepted, Event, NotAccepted, NotFound, Reviewed
from worker.jobs.job import Case, Submission, SubmissionState
from worker.jobs.observation import SubmissionUpdate, interpret
from worker.jobs.retry import LifecyclePolicy

OPEN = [state for state in SubmissionState if state.open]
ENDED = [state for state in SubmissionState if not state.open]
LIVE = ("queued", "running")


def told(
    before: Submission,
    event: Event,
    *,
    webhooks_work: bool = False,
    policy: LifecyclePolicy = POLICY,
) -> SubmissionUpdate | None:
    """What an event changes of one submission."""
    case = Case(job_id="j", job=job(), submissions=(before,))
    updates = interpret(case, event, policy, webhooks_work=webhooks_work)
    return updates[0] if updates else None


def changed(
    before: Submission,
    event: Event,
    *,
    webhooks_work: bool = False,
    policy: LifecyclePolicy = POLICY,
) -> SubmissionUpdate:
    """The same where it must change something."""
    update = told(before, event, webhooks_work=webhooks_work, policy=policy)
    assert update is not None
    return update


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize(
    ("said", "after", "code"),
    [
        ("queued", None, None),
        ("unknown", None, None),
        ("running", "running", None),
        ("completed", "completed", None),
        ("failed", "failed", "run_failed"),
        ("timed_out", "failed", "run_timed_out"),
        ("cancelled", "cancelled", "run_cancelled"),
    ],
)
def test_what_status_says_becomes_the_submissions_state(
    state: str, said: str, after: str | None, code: str | None
) -> None:
    update = changed(sub(state), seen(said))
    assert update.now.state.value == (after or state)
    assert update.now.error_code == code
    assert update.values.get("error_code") == code
    assert update.ended == (not update.now.state.live)
    assert update.instants["seen_at"] == 0.0


def test_why_a_run_failed_is_kept_with_it() -> None:
    """So that the end of a job does not depend on which run's end is seen last."""
    update = changed(sub("running"), seen("failed", error="job timed out after 1 retries"))
    assert (update.now.error_code, update.now.resend) == ("run_lost", True)
    assert "GPU worker" in str(update.now.error_message)
    assert update.values["error_message"] == update.now.error_message
    assert update.values["resend"] is True


def test_a_run_that_goes_back_into_runpods_queue_stays_running() -> None:
    assert changed(sub("running"), seen("queued")).values == {}


def test_a_run_that_starts_is_marked_once() -> None:
    assert "started_at" in changed(sub("queued"), seen("running")).instants
    assert "started_at" not in changed(sub("running"), seen("running")).instants


def test_a_silent_run_is_polled_slowly_once_webhooks_work() -> None:
    def poll(run: Submission, event: Event, *, webhooks_work: bool = True) -> float | None:
        return changed(run, event, webhooks_work=webhooks_work).instants["next_poll_at"]

    assert poll(sub("running"), seen("running"), webhooks_work=False) == POLICY.poll
    assert poll(sub("running"), seen("running")) == POLICY.slow_poll
    assert poll(sub("running"), seen("running", progress=5.0)) == POLICY.poll
    assert poll(sub("queued"), seen("queued")) == POLICY.poll


def test_times_and_cost_are_kept() -> None:
    policy = replace(POLICY, gpu_price_per_second=Decimal("0.0005"))
    event = seen("completed", delay_ms=5, execution_ms=60_000)
    update = changed(sub("running"), event, policy=policy)
    values = dict(update.values)
    assert Decimal(str(values.pop("cost_usd"))) == Decimal("0.03")
    assert values == {
        "state": "completed", "delay_ms": 5, "execution_ms": 60_000, "video_url": VIDEO,
        "error_code": None, "error_message": None, "resend": False, "raw_error": None,
    }  # fmt: skip
    assert update.now.cost_usd == Decimal("0.03")
    free = changed(sub("running"), seen("completed"), policy=policy)
    assert "cost_usd" not in free.values


@pytest.mark.parametrize(("waited", "over"), [(None, False), (59.0, False), (60.0, True)])
def test_a_completed_run_without_a_video_is_asked_for_a_minute(
    waited: float | None, over: bool
) -> None:
    update = changed(sub("running", incomplete_for=waited), seen("completed", video_url=None))
    assert update.ended is over
    if over:
        assert update.now.error_code == "result_missing"
        assert update.now.state is SubmissionState.FAILED
    else:
        assert ("incomplete_since" in update.instants) is (waited is None)
        assert update.now.state is SubmissionState.RUNNING


def test_a_run_seen_at_work_is_neither_missing_nor_incomplete() -> None:
    odd = sub("running", missing_for=50.0, missing_looks=2, incomplete_for=9.0)
    update = changed(odd, seen("running"))
    assert update.values["missing_looks"] == 0
    assert update.instants["missing_since"] is None
    assert update.instants["incomplete_since"] is None


@pytest.mark.parametrize(
    ("healthy", "missing_for", "looks", "ttl_left", "lost"),
    [
        (True, None, 0, 100.0, False),
        (True, 59.0, 9, 100.0, False),
        (True, 60.0, 1, 100.0, False),
        (True, 60.0, 2, 100.0, True),
        (False, 600.0, 9, 100.0, False),
        (False, None, 0, 0.0, True),
        (True, None, 0, -1.0, True),
    ],
)
def test_404_means_lost_after_several_polls_or_past_the_ttl(
    healthy: bool, missing_for: float | None, looks: int, ttl_left: float, lost: bool
) -> None:
    run = sub("running", missing_for=missing_for, missing_looks=looks, ttl_left=ttl_left)
    update = changed(run, NotFound(attempt=1, healthy=healthy))
    assert (update.now.state is SubmissionState.LOST) == lost
    assert update.ended == lost
    if lost:
        assert (update.now.error_code, update.now.resend) == ("run_lost", True)
    else:
        assert update.values == ({"missing_looks": looks + 1} if healthy else {})
        assert ("missing_since" in update.instants) is (healthy and missing_for is None)


@pytest.mark.parametrize(
    ("before", "over"),
    [
        (sub("unknown"), False),
        (sub("unknown", ttl_left=0.0), True),
        (sub("unknown", age=500.0), True),
        (sub("submitting", ttl_left=0.0), False),
        (sub("queued", ttl_left=0.0), False),
        (sub("queued", ttl_left=0.0, runpod_job_id=None), True),
        (sub("running", age=1e6), False),
    ],
)
def test_without_news_only_an_unknown_submission_runs_out(before: Submission, over: bool) -> None:
    update = told(before, Reviewed(), policy=replace(POLICY, unknown_wait=500.0))
    assert (update is not None and update.now.state is SubmissionState.EXPIRED) == over


def test_an_unknown_submission_is_reviewed_more_often() -> None:
    assert changed(sub("unknown"), Reviewed()).instants == {"next_poll_at": POLICY.poll / 2}


@pytest.mark.parametrize("state", OPEN)
def test_evidence_ends_only_what_is_still_unknown(state: SubmissionState) -> None:
    update = told(sub(state.value), NotAccepted(attempt=1))
    assert (update is not None and update.ended) == (state is SubmissionState.UNKNOWN)


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize(
    "event",
    [
        seen("running"), seen("failed"), NotFound(attempt=1, healthy=True),
        NotAccepted(attempt=1), Reviewed(),
    ],
    ids=["running", "failed", "not found", "not accepted", "reviewed"],
)  # fmt: skip
def test_the_past_is_not_changed(state: SubmissionState, event: Event) -> None:
    assert told(sub(state.value), event) is None


def test_a_run_that_shows_up_late_clears_why_its_submission_was_given_up() -> None:
    before = sub(
        "expired", error_code="run_lost", error_message="lost", resend=True, raw_error="given up",
        cancel_asked_ago=40.0,
    )  # fmt: skip
    update = changed(before, Accepted(attempt=1, run_id="r9"))
    assert (update.now.state, update.now.runpod_job_id) == (SubmissionState.QUEUED, "r9")
    assert (update.now.error_code, update.now.error_message, update.now.resend) == (
        None, None, False,
    )  # fmt: skip
    assert (update.now.raw_error, update.now.cancel_asked_ago) == (None, None)
    assert update.instants["ended_at"] is None
    assert update.instants["cancel_asked_at"] is None


@pytest.mark.parametrize("state", ENDED)
def test_but_a_late_video_is_taken_once(state: SubmissionState) -> None:
    assert changed(sub(state.value), seen("completed")).now.video_url == VIDEO
    assert told(sub(state.value, video_url=VIDEO), seen("completed")) is None
