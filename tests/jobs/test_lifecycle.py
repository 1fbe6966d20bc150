"""Every move of a row that an observation leads to, as tables."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.harness import POLICY, VIDEO
from tests.jobs.cases import decided, job, seen, sub
from worker.jobs.change import Decision
from worker.jobs.errors import CODES
from worker.jobs.events import Event, NotAccepted, NotFound, Reviewed
from worker.jobs.job import Job, Submission

GONE = NotFound(attempt=1, healthy=True)
LOST: dict[str, Any] = {"missing_for": 90.0, "missing_looks": 5}
RESENDABLE = "job timed out after 1 retries"
FAILING = "executionTimeout exceeded"
DOWNLOAD = "下载图片失败"


def told(decision: Decision) -> str:
    """What became of the job, and with which code."""
    return f"{decision.kind.value}:{decision.code}" if decision.code else decision.kind.value


def cancelled(decision: Decision) -> list[int]:
    """The attempts whose runs are cancelled."""
    return [sub.attempt for sub in decision.effects.cancel]


@pytest.mark.parametrize("status", ["queued", "preparing", "submitted", "running"])
@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("ending", [None, "queue_timeout"])
def test_a_video_wins_over_everything(status: str, cancel: bool, ending: str | None) -> None:
    row = job(status, cancel_requested=cancel, ending_code=ending)
    decision = decided(row, sub("running"), event=seen("completed"))
    assert decision.change.job["status"] == "completed"
    assert decision.change.job["video_url"] == VIDEO
    assert decision.change.job_instants["completed_at"] == 0.0
    assert told(decision) == "completed"
    assert cancelled(decision) == []


def test_the_first_video_wins_and_the_other_live_run_is_cancelled() -> None:
    decision = decided(job("running"), sub("running"), sub("queued", 2), event=seen("completed"))
    assert cancelled(decision) == [2]
    asked = {
        part.attempt: "cancel_asked_at" in part.instants for part in decision.change.submissions
    }
    assert asked == {1: False, 2: True}
    second = sub("queued", 2, cancel_asked_ago=3.0)
    again = decided(job("running"), sub("running"), second, event=seen("completed"))
    assert cancelled(again) == []


def test_a_video_of_an_earlier_submission_wins_while_a_later_one_is_prepared() -> None:
    row = job("preparing", attempt=2, lease_left=30.0)
    decision = decided(row, sub("lost"), event=seen("completed"))
    assert told(decision) == "completed"
    assert decision.change.job["lease_owner"] is None


@pytest.mark.parametrize(
    ("row", "run", "event", "status", "phase"),
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
    row: Job, run: Submission, event: Event, status: str, phase: str
) -> None:
    change = decided(replace(row, phase="in_line"), run, event=event).change
    assert (change.job["status"], change.job["phase"]) == (status, phase)


def test_nothing_is_written_into_the_row_when_nothing_changed() -> None:
    assert decided(job("submitted"), sub("queued"), event=seen("queued")).change.job == {}
    row = job("running", phase="loading_models", progress=1, progress_source="reported")
    talks = seen("running", progress=1.4)
    assert decided(row, sub("running"), event=talks).change.job == {}
    gone = decided(job("running", phase="generating"), sub("running"), event=GONE)
    assert gone.change.job == {}
    waiting = job("preparing", phase="confirming_submission")
    assert decided(waiting, sub("unknown"), event=Reviewed()).change.job == {}
    ending = job("running", phase="cancelling", cancel_requested=True)
    assert decided(ending, sub("running"), event=seen("running")).change.job == {}


def test_progress_and_the_expected_end_follow_the_run() -> None:
    row = job("running", progress=10)
    change = decided(row, sub("running"), event=seen("running", execution_ms=500_000)).change
    assert (change.job["progress"], change.job["progress_source"]) == (45, "estimated")
    assert change.job_instants == {"eta_at": 500.0, "started_at": 0.0}
    started = replace(row, started_at="2026-01-01T00:00:00+00:00")
    later = decided(started, sub("running"), event=seen("running", execution_ms=500_000)).change
    assert later.job_instants == {"eta_at": 500.0}


def test_a_failure_that_cannot_heal_ends_the_job() -> None:
    decision = decided(job("running"), sub("running"), event=seen("failed", error=FAILING))
    assert told(decision) == "failed:run_timed_out"
    assert decision.change.job["error_code"] == "run_timed_out"
    assert decision.change.job_instants["completed_at"] == 0.0


@pytest.mark.parametrize(("made", "wait"), [(1, 15.0), (2, 30.0)])
def test_a_failure_that_may_heal_is_sent_again_after_a_while(made: int, wait: float) -> None:
    before = [sub("lost", n, error_code="run_lost", resend=True) for n in range(1, made)]
    row = job("running", attempt=made)
    event = seen("failed", made, error=RESENDABLE)
    decision = decided(row, *before, sub("running", made), event=event)
    assert told(decision) == "resent"
    assert decision.change.job["status"] == "queued"
    assert decision.change.job_instants["available_at"] == wait


def test_submissions_are_not_endless() -> None:
    before = [sub("lost", n, error_code="run_lost", resend=True) for n in (1, 2)]
    event = seen("failed", 3, error=RESENDABLE)
    decision = decided(job("running", attempt=3), *before, sub("running", 3), event=event)
    assert told(decision) == "failed:too_many_submissions"


def test_some_failures_are_answered_only_once() -> None:
    before = sub("failed", 1, error_code="input_download_failed", resend=True)
    row = job("running", attempt=2)
    again = decided(row, before, sub("running", 2), event=seen("failed", 2, error=DOWNLOAD))
    assert told(again) == "failed:input_download_failed"
    first = decided(job("running"), sub("running"), event=seen("failed", error=DOWNLOAD))
    assert told(first) == "resent"


def test_refused_submissions_do_not_count_as_failures() -> None:
    row = job("running", attempt=3)
    event = NotFound(attempt=3, healthy=True)
    refused = [sub("refused", attempt) for attempt in (1, 2)]
    decision = decided(row, *refused, sub("running", 3, **LOST), event=event)
    assert told(decision) == "resent"
    assert decision.change.job_instants["available_at"] == 15.0


def test_a_failed_run_waits_for_another_that_is_open() -> None:
    row = job("running", attempt=2)
    event = seen("failed", error=FAILING)
    unknown = decided(row, sub("running"), sub("unknown", 2), event=event)
    assert told(unknown) == "confirming"
    live = decided(row, sub("running"), sub("queued", 2), event=event)
    assert told(live) == "waiting_gpu"
    assert live.change.job["runpod_job_id"] == "r2"
    assert (live.change.job["status"], live.change.job["phase"]) == ("running", "waiting_gpu")


def test_of_two_live_runs_the_one_that_started_is_kept() -> None:
    row = job("submitted", attempt=2)
    decision = decided(row, sub("queued"), sub("running", 2), event=seen("queued"))
    assert cancelled(decision) == [1]
    both = decided(row, sub("queued"), sub("queued", 2), event=seen("queued"))
    assert cancelled(both) == [2]
    running = decided(row, sub("running"), sub("running", 2), event=GONE)
    assert cancelled(running) == [2]
    stopping = sub("running", cancel_asked_ago=40.0)
    other = decided(row, stopping, sub("queued", 2), event=seen("queued", 2))
    assert cancelled(other) == [1], "the one that is being cancelled is not chosen again"


def test_our_own_cancel_of_a_second_run_is_no_failure() -> None:
    row = job("running", attempt=2)
    first = sub("lost", error_code="run_lost", resend=True)
    second = sub("running", 2, cancel_asked_ago=9.0)
    assert told(decided(row, first, second, event=seen("cancelled", 2))) == "resent"
    strange = decided(row, sub("running", 2), event=seen("cancelled", 2))
    assert told(strange) == "failed:run_cancelled"


def test_what_the_failed_run_says_counts_more_than_a_cancel_by_others() -> None:
    """Whichever of the two is seen last: the order of news decides nothing."""
    row = job("running", attempt=2)
    cancelled_first = sub("cancelled", 2, error_code="run_cancelled")
    decision = decided(row, sub("running", **LOST), cancelled_first, event=GONE)
    assert told(decision) == "resent"
    lost = sub("lost", error_code="run_lost", resend=True)
    decision = decided(row, lost, sub("running", 2), event=seen("cancelled", 2))
    assert told(decision) == "resent"


@pytest.mark.parametrize("code", ["run_timed_out", None, "no_such_code"])
def test_a_row_whose_runs_have_all_ended_is_judged_by_the_last(code: str | None) -> None:
    decision = decided(job("running"), sub("failed", error_code=code), event=Reviewed())
    assert told(decision) == f"failed:{code if code in CODES else 'run_lost'}"


def test_a_row_whose_record_of_runs_is_gone_fails_and_says_so() -> None:
    decision = decided(job("running"), event=Reviewed())
    assert told(decision) == "failed:run_lost"
    assert "video_job_attempts" in decision.change.job["error_message"]


def test_a_row_that_is_in_line_again_stays_there_and_keeps_the_cost() -> None:
    event = seen("failed", error=FAILING, execution_ms=1000)
    decision = decided(job("queued"), sub("running"), event=event)
    assert told(decision) == "unchanged"
    assert decision.change.job == {}
    policy = replace(POLICY, gpu_price_per_second=Decimal("0.5"))
    paid = decided(job("queued"), sub("running"), event=event, policy=policy)
    assert paid.change.job == {"cost_usd": "0.5"}


def test_the_cost_of_each_run_is_added_once() -> None:
    policy = replace(POLICY, gpu_price_per_second=Decimal("0.5"))
    row = job("running", cost_usd=Decimal("1.25"))
    event = seen("completed", execution_ms=2000)
    decision = decided(row, sub("running"), event=event, policy=policy)
    assert Decimal(decision.change.job["cost_usd"]) == Decimal("2.25")
    counted = sub("cancelled", cost_usd=Decimal("0.75"))
    late = decided(row, counted, event=event, policy=policy)
    assert Decimal(late.change.job["cost_usd"]) == Decimal("1.5")
    unpaid = decided(row, sub("running"), event=seen("completed"), policy=policy)
    assert "cost_usd" not in unpaid.change.job


@pytest.mark.parametrize("row", [job("completed"), job("submitted", try_number=2)])
def test_the_cost_of_a_run_that_nobody_waits_for_is_the_jobs_as_well(row: Job) -> None:
    """It was paid for this job: the row's cost does not depend on which end is seen first."""
    policy = replace(POLICY, gpu_price_per_second=Decimal("0.5"))
    event = seen("failed", error=FAILING, execution_ms=2000)
    decision = decided(row, sub("running"), event=event, policy=policy)
    assert {k: Decimal(v) for k, v in decision.change.job.items()} == {"cost_usd": Decimal(1)}
    (change,) = decision.change.submissions
    assert Decimal(change.values["cost_usd"]) == Decimal(1)


@pytest.mark.parametrize(
    ("state", "lease"), [("submitting", 30.0), ("submitting", None), ("unknown", 30.0)]
)
@pytest.mark.parametrize("cancel", [False, True])
def test_a_claimed_row_is_left_to_its_worker(state: str, lease: float | None, cancel: bool) -> None:
    row = job("preparing", lease_left=lease, cancel_requested=cancel)
    decision = decided(row, sub(state), event=Reviewed())
    assert told(decision) == "left_to_claim"
    assert decision.change.job == {}


def test_an_expired_lease_holds_nothing() -> None:
    row = job("preparing", lease_left=-1.0)
    assert told(decided(row, sub("unknown"), event=Reviewed())) == "confirming"


@pytest.mark.parametrize("why", [{"cancel_requested": True}, {"ending_code": "queue_timeout"}])
def test_an_ending_waits_for_every_open_submission(why: dict[str, Any]) -> None:
    live = decided(job("running", **why), sub("running"), event=seen("running"))
    assert told(live) == "cancelling"
    assert cancelled(live) == [1]
    assert live.change.submissions[0].instants["next_poll_at"] == POLICY.soon
    unknown = decided(job("preparing", **why), sub("unknown"), event=Reviewed())
    assert told(unknown) == "cancelling"
    assert "certain" in str(unknown.change.job["phase_detail"])
    assert cancelled(unknown) == []
    over = decided(job("preparing", **why), sub("unknown"), event=NotAccepted(attempt=1))
    assert over.kind.ends_job


@pytest.mark.parametrize(("ago", "again"), [(None, True), (5.0, False), (30.0, True)])
def test_a_cancel_is_asked_again_after_a_while(ago: float | None, again: bool) -> None:
    row = job("running", cancel_requested=True)
    run = sub("running", cancel_asked_ago=ago)
    decision = decided(row, run, event=seen("running"), webhooks_work=True)
    assert bool(cancelled(decision)) is again
    (change,) = decision.change.submissions
    assert ("cancel_asked_at" in change.instants) is again
    assert change.instants["next_poll_at"] == POLICY.soon


def test_the_inputs_of_a_run_that_is_to_stop_are_removed_once() -> None:
    row = job("running", cancel_requested=True)
    for run in (sub("running"), sub("unknown")):
        first = decided(row, run, event=Reviewed())
        assert [found.attempt for found in first.effects.discard] == [1]
        asked = replace(run, cancel_asked_ago=40.0)
        assert decided(row, asked, event=Reviewed()).effects.discard == ()


@pytest.mark.parametrize("event", [seen("cancelled"), seen("failed", error=RESENDABLE)])
def test_a_cancelled_job_ends_as_cancelled_however_its_run_ended(event: Event) -> None:
    decision = decided(job("running", cancel_requested=True), sub("running"), event=event)
    assert told(decision) == "cancelled"
    assert decision.change.job["status"] == "cancelled"


def test_our_own_ending_says_why() -> None:
    row = job("submitted", ending_code="queue_timeout", ending_message=None)
    assert told(decided(row, sub("queued"), event=seen("cancelled"))) == "failed:queue_timeout"


@pytest.mark.parametrize(
    ("queued_for", "started_ago", "over"),
    [(3601.0, None, True), (3601.0, 3601.0, True), (3601.0, 60.0, False), (3600.0, None, False)],
)
def test_a_run_waits_for_a_gpu_only_so_long_unless_others_start(
    queued_for: float, started_ago: float | None, over: bool
) -> None:
    run = sub("queued", queued_for=queued_for, endpoint_started_ago=started_ago)
    decision = decided(job("submitted"), run, event=seen("queued"))
    assert (told(decision) == "queue_timeout") is over
    assert bool(cancelled(decision)) is over
    if over:
        assert decision.change.job["ending_code"] == "queue_timeout"
        assert "status" not in decision.change.job


def test_a_run_that_could_not_be_asked_does_not_reach_its_queue_deadline() -> None:
    """It may be rendering by now: only an answer that says queued can tell."""
    run = sub("queued", queued_for=9999.0)
    assert told(decided(job("submitted"), run, event=Reviewed())) == "waiting_gpu"


def test_a_run_that_has_started_knows_no_queue_deadline() -> None:
    run = sub("running", queued_for=1e6)
    assert told(decided(job("running"), run, event=seen("running"))) == "running"


@pytest.mark.parametrize(
    "row",
    [None, job("completed"), job("failed"), job("cancelled"), job("submitted", try_number=2)],
    ids=["deleted", "completed", "failed", "cancelled", "tried again"],
)
def test_a_run_that_nobody_waits_for_is_cancelled_and_followed(row: Job | None) -> None:
    decision = decided(row, sub("queued"), event=seen("running"))
    assert told(decision) == "unwanted_run"
    assert cancelled(decision) == [1]
    assert decision.change.job == {}
    assert decision.change.revision == (row.revision if row else None)
    (change,) = decision.change.submissions
    assert change.instants["cancel_asked_at"] == 0.0
    assert change.instants["next_poll_at"] == POLICY.soon
    asked = decided(row, sub("running", cancel_asked_ago=5.0), event=seen("running"))
    assert cancelled(asked) == []
    ended = decided(row, sub("running"), event=seen("completed"))
    assert ended.change.job == {}
    assert ended.effects.ended == (1,)


def test_news_of_an_older_try_does_not_stop_the_present_one() -> None:
    row = job("running", attempt=2, try_number=2)
    present = sub("running", 2, try_number=2)
    decision = decided(row, sub("queued"), present, event=seen("running"))
    assert told(decision) == "unwanted_run"
    assert cancelled(decision) == [1]
    assert [found.attempt for found in decision.effects.discard] == [1]
    assert decision.change.job == {}


def test_a_submission_that_is_not_there_changes_nothing() -> None:
    for row in (job(), None):
        assert decided(row, event=seen("completed", 4)).change.submissions == ()


def test_a_change_names_what_it_was_decided_on() -> None:
    decision = decided(job(), sub("queued"), sub("lost", 2), event=seen("running"))
    data = decision.change.as_json()
    assert (data["revision"], data["states"]) == (7, {"1": "queued"})
    assert data["submissions"][0]["set"] == {"state": "running"}
