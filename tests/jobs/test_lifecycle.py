"""Every move of a row on the way back, as tables."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.jobs.cases import LIMITS, VIDEO, job, judged, seen, sub
from worker.jobs.change import Gone, NotAccepted, Nothing
from worker.jobs.errors import CODES
from worker.jobs.job import Job, Submission

GONE = Gone(healthy=True)
LOST = {"missing_for": 90.0, "missing_looks": 5}
RETRYABLE = "job timed out after 1 retries"
FAILING = "executionTimeout exceeded"
DOWNLOAD = "下载图片失败"


@pytest.mark.parametrize("status", ["queued", "preparing", "submitted", "running"])
@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("ending", [None, "queue_timeout"])
def test_a_video_wins_over_everything(status: str, cancelled: bool, ending: str | None) -> None:
    row = job(status, cancel_requested=cancelled, ending_code=ending)
    decision = judged(row, sub("running"), look=seen("completed"))
    assert decision.change.job is not None
    assert decision.change.job["status"] == "completed"
    assert decision.change.job["video_url"] == VIDEO
    assert decision.change.job["ending_code"] is None
    assert decision.change.completed
    assert decision.cancel == ()


def test_the_first_video_wins_and_the_other_live_run_is_cancelled() -> None:
    decision = judged(job("running"), sub("running"), sub("queued", 2), look=seen("completed"))
    assert [one.attempt for one in decision.cancel] == [2]
    assert [one.attempt for one in decision.change.submissions if one.cancel_asked] == [2]
    asked = sub("queued", 2, cancel_asked_ago=3.0)
    assert judged(job("running"), sub("running"), asked, look=seen("completed")).cancel == ()


def test_a_video_of_an_earlier_submission_wins_while_a_later_one_is_prepared() -> None:
    row = job("preparing", attempt=2, lease_left=30.0)
    decision = judged(row, sub("lost"), look=seen("completed"))
    assert decision.outcome == "completed"


@pytest.mark.parametrize(
    ("row", "one", "look", "status", "phase"),
    [
        (job("preparing"), sub("queued"), seen("queued"), "submitted", "waiting_gpu"),
        (job("queued"), sub("queued"), seen("queued"), "submitted", "waiting_gpu"),
        (job("submitted"), sub("queued"), seen("running"), "running", "loading_models"),
        (job("running"), sub("queued"), seen("queued"), "running", "waiting_gpu"),
        (
            job("running"), sub("running"), seen("running", execution_ms=90_000), "running",
            "generating",
        ),
        (job("running"), sub("running"), seen("running", phase="saving"), "running", "saving"),
    ],
)  # fmt: skip
def test_a_live_run_shows_in_the_row(
    row: Job, one: Submission, look: Any, status: str, phase: str
) -> None:
    change = judged(replace(row, phase="in_line"), one, look=look).change
    assert change.job is not None
    assert (change.job["status"], change.job["phase"]) == (status, phase)


def test_nothing_is_written_when_nothing_changed() -> None:
    assert judged(job("submitted"), sub("queued"), look=seen("queued")).change.job is None
    row = job("running", phase="loading_models", progress=1, progress_source="reported")
    talk = seen("running", progress=1.4)
    assert judged(row, sub("running"), look=talk).change.job is None
    gone = judged(job("running", phase="generating"), sub("running"), look=GONE)
    assert gone.change.job is None
    waiting = job("preparing", phase="confirming_submission")
    assert judged(waiting, sub("unknown"), look=Nothing()).change.job is None
    ending = job("running", phase="cancelling", cancel_requested=True)
    assert judged(ending, sub("running"), look=seen("running")).change.job is None


def test_progress_and_the_expected_end_follow_the_run() -> None:
    change = judged(
        job("running", progress=10), sub("running"), look=seen("running", execution_ms=500_000)
    ).change
    assert change.job is not None
    assert (change.job["progress"], change.job["progress_source"]) == (45, "estimated")
    assert change.eta_seconds == 500.0
    assert change.started
    assert change.as_json()["eta_seconds"] == 500.0


def test_a_failure_that_cannot_heal_ends_the_job() -> None:
    decision = judged(job("running"), sub("running"), look=seen("failed", error=FAILING))
    assert decision.outcome == "failed:run_timed_out"
    assert decision.change.job is not None
    assert decision.change.job["error_code"] == "run_timed_out"
    assert decision.change.completed


@pytest.mark.parametrize(("made", "wait"), [(1, 15.0), (2, 30.0)])
def test_a_failure_that_may_heal_is_tried_again_after_a_while(made: int, wait: float) -> None:
    row = job("running", submissions=made)
    decision = judged(row, sub("running"), look=seen("failed", error=RETRYABLE))
    assert decision.change.job is not None
    assert decision.change.job["status"] == "queued"
    assert decision.change.retry_seconds == wait
    assert decision.change.as_json()["retry_seconds"] == wait
    assert not decision.change.completed


def test_submissions_are_not_endless() -> None:
    decision = judged(
        job("running", submissions=3), sub("running"), look=seen("failed", error=RETRYABLE)
    )
    assert decision.outcome == "failed:too_many_submissions"


def test_some_failures_are_answered_only_once() -> None:
    before = sub("failed", 1, error_code="input_download_failed")
    row = job("running", attempt=2, submissions=2)
    again = judged(
        row, before, sub("running", 2), look=seen("failed", error=DOWNLOAD), attempt=2
    )  # fmt: skip
    assert again.outcome == "failed:input_download_failed"
    first = judged(job("running"), sub("running"), look=seen("failed", error=DOWNLOAD))
    assert first.outcome == "retried:input_download_failed"


def test_refused_submissions_do_not_count_as_failures() -> None:
    row = job("running", attempt=2)
    decision = judged(row, sub("refused"), sub("running", 2, **LOST), look=GONE, attempt=2)
    assert decision.outcome == "retried:run_lost"


def test_a_failed_run_waits_for_another_that_is_open() -> None:
    row = job("running", submissions=2, attempt=2)
    unknown = judged(row, sub("running"), sub("unknown", 2), look=seen("failed", error=FAILING))
    assert unknown.outcome == "waiting"
    live = judged(row, sub("running"), sub("queued", 2), look=seen("failed", error=FAILING))
    assert live.outcome == "waiting_gpu"
    assert live.change.job == {"phase": "waiting_gpu", "runpod_job_id": "r2", "status": "running"}


def test_of_two_live_runs_the_one_that_started_is_kept() -> None:
    row = job("submitted", attempt=2, submissions=2)
    decision = judged(row, sub("queued"), sub("running", 2), look=seen("queued"))
    assert [one.attempt for one in decision.cancel] == [1]
    both = judged(row, sub("queued"), sub("queued", 2), look=seen("queued"))
    assert [one.attempt for one in both.cancel] == [2]
    running = judged(row, sub("running"), sub("running", 2), look=GONE)
    assert [one.attempt for one in running.cancel] == [2]


def test_our_own_cancel_of_a_second_run_is_no_failure() -> None:
    row = job("running", attempt=2, submissions=2)
    first = sub("lost", error_code="run_lost")
    second = sub("running", 2, cancel_asked_ago=9.0)
    decision = judged(row, first, second, look=seen("cancelled"), attempt=2)
    assert decision.outcome == "retried:run_lost"
    alone = judged(row, second, look=seen("cancelled"), attempt=2)
    assert alone.outcome == "retried:run_lost"
    strange = judged(row, first, sub("running", 2), look=seen("cancelled"), attempt=2)
    assert strange.outcome == "failed:run_cancelled"


@pytest.mark.parametrize("code", ["run_timed_out", None, "no_such_code"])
def test_a_row_whose_runs_have_all_ended_is_judged_by_the_last(code: str | None) -> None:
    decision = judged(job("running"), sub("failed", error_code=code), look=Nothing())
    known = code if code in CODES else "run_lost"
    assert decision.outcome.endswith(f":{known}")


def test_a_row_that_is_in_line_again_stays_there_and_keeps_the_cost() -> None:
    decision = judged(
        job("queued"), sub("running"), look=seen("failed", error=FAILING, execution_ms=1000)
    )
    assert decision.outcome == "in_line_again"
    assert decision.change.job is None
    limits = replace(LIMITS, gpu_price_per_second=Decimal("0.5"))
    paid = judged(
        job("queued"), sub("running"), look=seen("failed", execution_ms=1000), limits=limits
    )
    assert paid.change.job == {"cost_usd": "0.5"}


def test_the_cost_of_each_run_is_added_once() -> None:
    limits = replace(LIMITS, gpu_price_per_second=Decimal("0.5"))
    row = job("running", cost_usd=Decimal("1.25"))
    look = seen("completed", execution_ms=2000)
    decision = judged(row, sub("running"), look=look, limits=limits)
    assert decision.change.job is not None
    assert decision.change.job["cost_usd"] == "2.25"
    unpaid = judged(row, sub("running"), look=seen("completed"), limits=limits)
    assert unpaid.change.job is not None
    assert "cost_usd" not in unpaid.change.job


@pytest.mark.parametrize(
    ("state", "lease"), [("submitting", 30.0), ("submitting", None), ("unknown", 30.0)]
)
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_row_in_the_dispatchers_hand_is_left_to_it(
    state: str, lease: float | None, cancelled: bool
) -> None:
    row = job("preparing", lease_left=lease, cancel_requested=cancelled)
    decision = judged(row, sub(state), look=Nothing())
    assert decision.outcome == "left_to_dispatch"
    assert decision.change.job is None


def test_an_expired_lease_holds_nothing() -> None:
    row = job("preparing", lease_left=-1.0)
    assert judged(row, sub("unknown"), look=Nothing()).outcome == "waiting"


@pytest.mark.parametrize("why", [{"cancel_requested": True}, {"ending_code": "queue_timeout"}])
def test_an_ending_waits_for_every_open_submission(why: dict[str, Any]) -> None:
    live = judged(job("running", **why), sub("running"), look=seen("running"))
    assert live.outcome == "cancelling"
    assert [one.attempt for one in live.cancel] == [1]
    assert live.change.submissions[0].poll_seconds == LIMITS.soon
    unknown = judged(job("preparing", **why), sub("unknown"), look=Nothing())
    assert unknown.outcome == "cancelling"
    assert unknown.change.job is not None
    assert "certain" in str(unknown.change.job["phase_detail"])
    assert unknown.cancel == ()
    over = judged(job("preparing", **why), sub("unknown"), look=NotAccepted())
    assert over.change.completed


@pytest.mark.parametrize(("ago", "again"), [(None, True), (5.0, False), (30.0, True)])
def test_a_cancel_is_asked_again_after_a_while(ago: float | None, again: bool) -> None:
    row = job("running", cancel_requested=True)
    decision = judged(
        row, sub("running", cancel_asked_ago=ago), look=seen("running"), webhooks_work=True
    )
    assert bool(decision.cancel) is again
    (change,) = decision.change.submissions
    assert change.cancel_asked is again
    assert change.poll_seconds == LIMITS.soon


@pytest.mark.parametrize("look", [seen("cancelled"), seen("failed", error=RETRYABLE)])
def test_a_cancelled_job_ends_as_cancelled_however_its_run_ended(look: Any) -> None:
    decision = judged(job("running", cancel_requested=True), sub("running"), look=look)
    assert decision.outcome == "cancelled"
    assert decision.change.job is not None
    assert decision.change.job["status"] == "cancelled"


def test_our_own_ending_says_why() -> None:
    row = job("submitted", ending_code="queue_timeout", ending_message=None)
    assert judged(row, sub("queued"), look=seen("cancelled")).outcome == "failed:queue_timeout"


@pytest.mark.parametrize(
    ("queued_for", "started_ago", "over"),
    [(3601.0, None, True), (3601.0, 3601.0, True), (3601.0, 60.0, False), (3600.0, None, False)],
)
def test_a_run_waits_for_a_gpu_only_so_long_unless_others_start(
    queued_for: float, started_ago: float | None, over: bool
) -> None:
    one = sub("queued", queued_for=queued_for, endpoint_started_ago=started_ago)
    decision = judged(job("submitted"), one, look=seen("queued"))
    assert (decision.outcome == "queue_timeout") is over
    assert bool(decision.cancel) is over
    if over:
        assert decision.change.job is not None
        assert decision.change.job["ending_code"] == "queue_timeout"
        assert "status" not in decision.change.job


def test_a_run_that_has_started_knows_no_queue_deadline() -> None:
    one = sub("running", queued_for=1e6)
    assert judged(job("running"), one, look=seen("running")).outcome == "running"


@pytest.mark.parametrize(
    "row",
    [None, job("completed"), job("failed"), job("cancelled"), job("submitted", try_number=2)],
    ids=["deleted", "completed", "failed", "cancelled", "tried anew"],
)
def test_a_run_that_nobody_waits_for_is_cancelled_and_followed(row: Job | None) -> None:
    decision = judged(row, sub("queued"), look=seen("running"))
    assert decision.outcome == "orphan_cancelled"
    assert decision.change.job is None
    assert decision.change.revision == (row.revision if row else None)
    (change,) = decision.change.submissions
    assert (change.cancel_asked, change.poll_seconds) == (True, LIMITS.soon)
    asked = judged(row, sub("running", cancel_asked_ago=5.0), look=seen("running"))
    assert asked.outcome == "orphan_seen"
    assert asked.cancel == ()
    ended = judged(row, sub("running"), look=seen("completed"))
    assert ended.change.job is None
    assert ended.change.submissions[0].ended


def test_a_submission_that_is_not_there_changes_nothing() -> None:
    for row in (job(), None):
        decision = judged(row, look=seen("completed"), attempt=4)
        assert decision.outcome == "unchanged"
        assert decision.change.as_json()["submissions"] == []


def test_a_change_names_what_it_was_decided_on() -> None:
    decision = judged(job(), sub("queued"), sub("lost", 2), look=seen("running"))
    data = decision.change.as_json()
    assert (data["revision"], data["states"]) == (7, {"1": "queued"})
    assert data["submissions"][0]["set"] == {"state": "running"}
