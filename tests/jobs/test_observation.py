"""What one observation says about one submission."""

from dataclasses import replace
from decimal import Decimal

import pytest

from tests.jobs.cases import LIMITS, VIDEO, seen, sub
from worker.jobs.change import Gone, NotAccepted, Nothing, Observation
from worker.jobs.job import Submission, SubmissionState
from worker.jobs.observation import Look, look_at

OPEN = [one for one in SubmissionState if one.open]
ENDED = [one for one in SubmissionState if not one.open]
LIVE = ("queued", "running")


def look(one: Submission, observation: Observation, *, webhooks_work: bool = False) -> Look:
    return look_at(one, observation, LIMITS, webhooks_work=webhooks_work)


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
    found = look(sub(state), seen(said))
    assert found.now.state.value == (after or state)
    assert (found.failure.code if found.failure else None) == code
    assert found.change.set.get("error_code") == code
    assert found.change.ended == (found.now.state not in (SubmissionState(one) for one in LIVE))
    assert found.change.seen


def test_a_run_that_goes_back_into_runpods_queue_stays_running() -> None:
    assert look(sub("running"), seen("queued")).change.set == {}


def test_a_run_that_starts_is_marked_once() -> None:
    assert look(sub("queued"), seen("running")).change.started
    assert not look(sub("running"), seen("running")).change.started


def test_a_silent_run_is_polled_slowly_once_webhooks_work() -> None:
    one = sub("running")
    assert look(one, seen("running")).change.poll_seconds == LIMITS.poll
    slow = look(one, seen("running"), webhooks_work=True)
    assert slow.change.poll_seconds == LIMITS.slow_poll
    talks = look(one, seen("running", progress=5.0), webhooks_work=True)
    assert talks.change.poll_seconds == LIMITS.poll
    waits = look(sub("queued"), seen("queued"), webhooks_work=True)
    assert waits.change.poll_seconds == LIMITS.poll


def test_times_and_cost_are_kept() -> None:
    limits = replace(LIMITS, gpu_price_per_second=Decimal("0.0005"))
    update = seen("completed", delay_ms=5, execution_ms=60_000)
    found = look_at(sub("running"), update, limits, webhooks_work=False)
    values = dict(found.change.set)
    assert Decimal(str(values.pop("cost_usd"))) == Decimal("0.03")
    assert values == {
        "state": "completed", "delay_ms": 5, "execution_ms": 60_000, "video_url": VIDEO,
        "error_code": None, "raw_error": None,
    }  # fmt: skip
    assert found.now.cost_usd == Decimal("0.03")
    free = look_at(sub("running"), seen("completed"), limits, webhooks_work=False)
    assert "cost_usd" not in free.change.set


@pytest.mark.parametrize(("waited", "over"), [(None, False), (59.0, False), (60.0, True)])
def test_a_completed_run_without_a_video_is_looked_at_for_a_minute(
    waited: float | None, over: bool
) -> None:
    found = look(sub("running", incomplete_for=waited), seen("completed", video_url=None))
    assert found.change.ended is over
    if over:
        assert found.failure is not None
        assert found.failure.code == "result_missing"
        assert found.now.state is SubmissionState.FAILED
    else:
        assert found.change.incomplete
        assert found.now.state is SubmissionState.RUNNING


def test_a_run_seen_at_work_is_neither_missing_nor_incomplete() -> None:
    change = look(sub("running", missing_for=50.0), seen("running")).change
    assert (change.missing, change.incomplete) == (False, False)


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
def test_404_means_lost_after_several_looks_or_past_the_ttl(
    healthy: bool, missing_for: float | None, looks: int, ttl_left: float, lost: bool
) -> None:
    one = sub("running", missing_for=missing_for, missing_looks=looks, ttl_left=ttl_left)
    found = look(one, Gone(healthy=healthy))
    assert (found.now.state is SubmissionState.LOST) == lost
    assert found.change.ended == lost
    if lost:
        assert found.failure is not None
        assert found.failure.code == "run_lost"
        assert found.failure.retryable
    else:
        assert found.change.missing is (True if healthy else None)


@pytest.mark.parametrize(
    ("one", "over"),
    [
        (sub("unknown"), False),
        (sub("unknown", ttl_left=0.0), True),
        (sub("unknown", age=500.0), True),
        (sub("submitting", ttl_left=0.0), False),
        (sub("queued", ttl_left=0.0), False),
        (sub("running", age=1e6), False),
    ],
)
def test_without_news_only_an_unknown_submission_runs_out(one: Submission, over: bool) -> None:
    limits = replace(LIMITS, unknown_wait=500.0)
    found = look_at(one, Nothing(), limits, webhooks_work=False)
    assert (found.now.state is SubmissionState.EXPIRED) == over


def test_an_unknown_submission_is_looked_at_more_often() -> None:
    assert look(sub("unknown"), Nothing()).change.poll_seconds == LIMITS.poll / 2


@pytest.mark.parametrize("state", OPEN)
def test_evidence_ends_only_what_is_still_unknown(state: SubmissionState) -> None:
    found = look(sub(state.value), NotAccepted())
    assert found.change.ended == (state is SubmissionState.UNKNOWN)


@pytest.mark.parametrize("state", ENDED)
@pytest.mark.parametrize(
    "news",
    [seen("running"), seen("failed"), Gone(healthy=True), NotAccepted(), Nothing()],
    ids=["running", "failed", "gone", "not accepted", "nothing"],
)
def test_the_past_is_not_changed(state: SubmissionState, news: Observation) -> None:
    found = look(sub(state.value), news)
    assert found.now.state is state
    assert found.change.set == {}
    assert not found.change.ended


@pytest.mark.parametrize("state", ENDED)
def test_but_a_late_video_is_taken_once(state: SubmissionState) -> None:
    assert look(sub(state.value), seen("completed")).now.video_url == VIDEO
    assert look(sub(state.value, video_url=VIDEO), seen("completed")).change.set == {}
