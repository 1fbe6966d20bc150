"""Every move of a row that the end of a claim, a POST or an expired lease leads to."""

from dataclasses import replace

import pytest

from tests.harness import POLICY
from tests.jobs.cases import decided, job, seen, sub
from tests.jobs.test_lifecycle import cancelled, told
from worker.jobs.events import (
    Accepted,
    Event,
    InputNotDelivered,
    OutcomeUnknown,
    Refused,
    Rejected,
    Released,
    Reviewed,
)
from worker.jobs.job import Job

CLAIMED = job("preparing", phase="checking_media", lease_left=30.0, crashes=2)
EXPIRED = job("preparing", phase="checking_media", lease_left=-1.0)
RELEASED = Released(attempt=1, retry_seconds=10.0, detail="Waiting: Storage answered 503.")
REJECTED = Rejected(attempt=1, code="image_unreadable", message="not an image")
AWAY = InputNotDelivered(
    attempt=1, code="audio_unreachable", message="https://h/a answered 503.", seconds=7.2
)
REFUSED = Refused(attempt=1, reason="429", retry_seconds=9.0)
UNKNOWN = OutcomeUnknown(attempt=1, reason="read timeout")
ACCEPTED = Accepted(attempt=1, run_id="r9")


def test_a_released_claim_goes_back_in_line_and_says_why() -> None:
    decision = decided(CLAIMED, event=RELEASED)
    assert told(decision) == "released"
    assert decision.change.job == {
        "status": "queued", "phase": "in_line", "lease_owner": None, "lease_expires_at": None,
        "phase_detail": "Waiting: Storage answered 503.",
    }  # fmt: skip
    assert decision.change.job_instants["available_at"] == 10.0


def test_a_bad_input_fails_the_job() -> None:
    decision = decided(CLAIMED, event=REJECTED)
    assert told(decision) == "failed:image_unreadable"
    assert decision.change.job["error_message"] == "not an image"
    assert decision.change.job["lease_owner"] is None


@pytest.mark.parametrize(
    ("tries", "seconds", "asked", "wait"),
    [
        (0, 0, None, 10.0), (1, 50, None, 40.0), (0, 0, 90.0, 90.0), (0, 0, 0.0, 2.0),
        (0, 0, 9e9, 300.0), (1, 102, None, 40.0), (2, 0, None, None), (0, 103, None, None),
    ],
)  # fmt: skip
def test_an_input_that_did_not_come_is_asked_for_again_within_bounds(
    tries: int, seconds: int, asked: float | None, wait: float | None
) -> None:
    """Three tries, 120 seconds in all of them; the host's Retry-After counts from 2 to 300 s."""
    row = replace(CLAIMED, input_tries=tries, input_seconds=seconds)
    decision = decided(row, event=replace(AWAY, retry_in=asked))
    values = decision.change.job
    assert (values["input_tries"], values["input_seconds"]) == (tries + 1, seconds + 8)
    assert values["lease_owner"] is None
    if wait is None:
        assert told(decision) == "failed:audio_unreachable"
        assert values["error_message"] == "https://h/a answered 503."
        return
    assert told(decision) == "released"
    assert decision.change.job_instants["available_at"] == wait
    assert values["phase_detail"] == (
        f"Waiting: https://h/a answered 503. Try {tries + 2} of 3 follows in {wait:.0f} s."
    )


def test_a_refused_post_costs_no_submission_and_is_sent_again() -> None:
    decision = decided(CLAIMED, sub("submitting"), event=REFUSED)
    assert told(decision) == "released"
    assert decision.change.job["status"] == "queued"
    assert decision.change.job["crashes"] == 0
    assert decision.change.job_instants["available_at"] == 9.0
    (change,) = decision.change.submissions
    assert (change.values["state"], change.values["raw_error"]) == ("refused", "429")
    assert [ended.attempt for ended in decision.effects.discard] == [1]


def test_a_refused_request_fails_the_job() -> None:
    event = Refused(attempt=1, reason="no such input", code="run_refused")
    decision = decided(CLAIMED, sub("submitting"), event=event)
    assert told(decision) == "failed:run_refused"


def test_a_submission_that_was_never_committed_releases_the_row() -> None:
    """The answer to begin was lost: whether it is there or not, nothing was sent."""
    assert told(decided(CLAIMED, event=REFUSED)) == "released"


def test_an_unknown_outcome_waits_and_says_for_what_and_how_long() -> None:
    decision = decided(CLAIMED, sub("submitting", ttl_left=7200.0), event=UNKNOWN)
    assert told(decision) == "confirming"
    assert decision.change.job["phase"] == "confirming_submission"
    assert "at most 120 minutes" in decision.change.job["phase_detail"]
    assert decision.change.job_instants["eta_at"] == 7200.0
    assert decision.change.job["lease_owner"] is None
    assert decision.change.submissions[0].values["state"] == "unknown"
    assert decision.effects.discard == ()


def test_an_accepted_run_is_recorded() -> None:
    decision = decided(CLAIMED, sub("submitting"), event=ACCEPTED)
    assert decision.change.job["status"] == "submitted"
    assert decision.change.job["runpod_job_id"] == "r9"
    assert decision.change.job["lease_owner"] is None
    (change,) = decision.change.submissions
    assert (change.values["state"], change.values["runpod_job_id"]) == ("queued", "r9")
    assert cancelled(decision) == []


@pytest.mark.parametrize("state", ["unknown", "expired", "refused"])
@pytest.mark.parametrize("status", ["queued", "preparing"])
def test_a_run_of_any_earlier_submission_is_adopted(state: str, status: str) -> None:
    row = job(status, attempt=2, lease_left=30.0 if status == "preparing" else None)
    decision = decided(row, sub(state), event=ACCEPTED)
    assert decision.change.job["status"] == "submitted"
    assert decision.change.job["runpod_job_id"] == "r9"


def test_a_submission_never_changes_its_run() -> None:
    known = sub("queued", runpod_job_id="r1")
    decision = decided(job("submitted"), known, event=ACCEPTED)
    assert decision.change.empty


@pytest.mark.parametrize(
    "row",
    [
        None, job("failed"), job("submitted", try_number=2),
        job("preparing", cancel_requested=True, lease_left=9.0),
        job("preparing", ending_code="queue_timeout", lease_left=9.0),
    ],
    ids=["deleted", "ended", "tried again", "cancelled", "ending"],
)  # fmt: skip
def test_an_accepted_run_that_nobody_wants_is_cancelled(row: Job | None) -> None:
    given_up = sub("submitting", cancel_asked_ago=1.0)
    decision = decided(row, given_up, event=ACCEPTED)
    assert cancelled(decision) == [1]
    assert decision.effects.cancel[0].runpod_job_id == "r9"


def test_a_second_accepted_run_is_cancelled_and_the_first_stays() -> None:
    row = job("submitted", attempt=2)
    decision = decided(
        row, sub("queued"), sub("submitting", 2), event=Accepted(attempt=2, run_id="r9")
    )
    assert cancelled(decision) == [2]
    assert decision.change.job == {}


@pytest.mark.parametrize("event", [RELEASED, REJECTED, REFUSED, UNKNOWN])
@pytest.mark.parametrize(
    "row",
    [job("queued"), job("preparing", attempt=2, lease_left=9.0), job("completed")],
    ids=["in line again", "claimed again", "ended"],
)
def test_the_end_of_a_claim_that_is_lost_changes_nothing(row: Job, event: Event) -> None:
    assert decided(row, event=event).change.job == {}


@pytest.mark.parametrize("event", [RELEASED, REJECTED, AWAY, REFUSED])
def test_the_end_of_an_earlier_claim_does_not_end_the_present_one(event: Event) -> None:
    """Its worker lost the row; the next one is gone, too, and what that one knew counts."""
    row = job("preparing", attempt=2, lease_left=-1.0)
    assert told(decided(row, event=event)) == "lease_expired"


@pytest.mark.parametrize("event", [RELEASED, REJECTED])
def test_a_claim_whose_post_has_begun_ends_only_by_what_became_of_it(event: Event) -> None:
    decision = decided(CLAIMED, sub("submitting"), event=event)
    assert told(decision) == "left_to_claim"
    assert decision.change.empty


@pytest.mark.parametrize(
    ("event", "state"), [(REFUSED, "refused"), (UNKNOWN, "unknown"), (ACCEPTED, "queued")]
)
def test_what_the_sender_knows_of_its_post_is_true_though_it_lost_the_row(
    event: Event, state: str
) -> None:
    row = job("preparing", attempt=2, lease_left=9.0)
    decision = decided(row, sub("submitting"), event=event)
    assert decision.change.submissions[0].values["state"] == state


@pytest.mark.parametrize("event", [RELEASED, REJECTED, REFUSED])
def test_a_cancelled_job_whose_claim_ends_unsent_is_cancelled(event: Event) -> None:
    row = job("preparing", lease_left=9.0, cancel_requested=True)
    subs = [sub("submitting")] if isinstance(event, Refused) else []
    assert told(decided(row, *subs, event=event)) == "cancelled"


def test_a_cancelled_job_with_an_unknown_post_waits_for_it() -> None:
    row = job("preparing", lease_left=9.0, cancel_requested=True)
    decision = decided(row, sub("submitting"), event=UNKNOWN)
    assert told(decision) == "cancelling"
    assert [found.attempt for found in decision.effects.discard] == [1]


def test_an_expired_lease_puts_the_row_back_in_line_and_counts_a_crash() -> None:
    decision = decided(EXPIRED, event=Reviewed())
    assert told(decision) == "lease_expired"
    assert (decision.change.job["status"], decision.change.job["crashes"]) == ("queued", 1)
    assert decision.change.job["crashes_alone"] == 0
    assert decision.effects.lease_expired


def test_an_expired_lease_with_a_post_under_way_makes_it_unknown() -> None:
    decision = decided(EXPIRED, sub("submitting"), event=Reviewed())
    assert told(decision) == "confirming"
    assert decision.change.submissions[0].values["state"] == "unknown"
    assert decision.effects.lease_expired
    row = job("preparing", lease_left=-1.0, cancel_requested=True)
    assert told(decided(row, sub("submitting"), event=Reviewed())) == "cancelling"


def test_an_expired_lease_of_a_cancelled_job_cancels_it() -> None:
    row = job("preparing", lease_left=-1.0, cancel_requested=True)
    assert told(decided(row, event=Reviewed())) == "cancelled"


def test_a_job_that_stops_the_worker_again_and_again_is_given_up() -> None:
    row = job("preparing", lease_left=-1.0, claimed_alone=True, crashes=6, crashes_alone=3)
    assert told(decided(row, event=Reviewed())) == "lease_expired"
    last = job("preparing", lease_left=-1.0, claimed_alone=True, crashes=7, crashes_alone=4)
    decision = decided(last, event=Reviewed())
    assert told(decision) == "failed:too_many_crashes"
    assert decision.change.job["crashes_alone"] == 5
    beside_others = job("preparing", lease_left=-1.0, claimed_alone=False, crashes_alone=4)
    assert told(decided(beside_others, event=Reviewed())) == "lease_expired"


@pytest.mark.parametrize(("row", "poll_in", "gone"), [
    (None, -1.0, True), (None, 1.0, False), (job("submitted"), -1.0, True),
    (CLAIMED, -1.0, False), (EXPIRED, 99.0, True),
])  # fmt: skip
def test_a_post_whose_sender_is_gone_becomes_unknown(
    row: Job | None, poll_in: float, gone: bool
) -> None:
    """The lease tells; where the row has none any more, the time that was set before the POST."""
    decision = decided(row, sub("submitting", next_poll_in=poll_in), event=Reviewed())
    states = [change.values.get("state") for change in decision.change.submissions]
    assert states == (["unknown"] if gone else [])


def test_a_cancel_without_a_run_ends_at_once() -> None:
    """The rule of the trigger; tests/sql/test_cancel_rule.py holds both equal."""
    row = job("queued", cancel_requested=True)
    assert told(decided(row, event=Reviewed())) == "cancelled"


def test_an_unknown_submission_ends_when_the_setting_says_so() -> None:
    policy = replace(POLICY, unknown_wait=500.0)
    row = job("preparing", phase="confirming_submission")
    waits = decided(row, sub("unknown", age=499.0), event=Reviewed(), policy=policy)
    assert told(waits) == "confirming"
    over = decided(row, sub("unknown", age=500.0), event=Reviewed(), policy=policy)
    assert told(over) == "resent"


def test_a_video_that_a_webhook_brings_ends_the_claim() -> None:
    decision = decided(CLAIMED, sub("expired"), event=seen("completed"))
    assert told(decision) == "completed"
