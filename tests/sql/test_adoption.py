"""A run that shows up after it was given up, while another attempt is under way."""

from tests.postgres import Database, Row
from tests.sql.worker import Worker


def given_up(database: Database, worker: Worker) -> tuple[Row, Row]:
    """The first claim, whose POST was given up, and the second, now in hand."""
    database.insert()
    first = worker.claim_one()
    worker.begin(first)
    worker.end(first, "preparing", phase="confirming_submission", submission="unknown")
    worker.end_run(first["id"], 1, "expired", status="queued", phase="in_line")
    return first, worker.claim_one()


def test_the_claim_in_hand_ends_with_it(database: Database, worker: Worker) -> None:
    """Otherwise the row could end as failed or cancelled while that run renders."""
    first, second = given_up(database, worker)
    (answer,) = worker.record(first, "run-late")
    assert answer["wanted"]
    assert worker.begin(second) == []
    assert worker.end(second, "failed", error_code="audio_unreadable") == []
    assert database.job(first["id"])["status"] == "submitted"


def test_the_run_that_the_row_has_already_makes_another_unwanted(
    database: Database, worker: Worker
) -> None:
    first, second = given_up(database, worker)
    worker.begin(second)
    assert worker.record(first, "run-late")[0]["wanted"]
    assert not worker.record(second, "run-2")[0]["wanted"]
    late, other = database.submissions(first["id"])
    assert (late["state"], other["state"]) == ("queued", "queued")
    assert late["cancel_asked_at"] is None
    assert other["cancel_asked_at"] is not None


def test_a_refusal_of_the_second_does_not_count(database: Database, worker: Worker) -> None:
    first, second = given_up(database, worker)
    worker.begin(second)
    worker.record(first, "run-late")
    assert database.job(first["id"])["submissions"] == 2
    assert worker.end(second, "queued", submission="refused") == []
    assert database.job(first["id"])["submissions"] == 1
    assert database.job(first["id"])["status"] == "submitted"


def test_a_run_of_an_ending_job_is_not_wanted(database: Database, worker: Worker) -> None:
    first, _ = given_up(database, worker)
    worker.change(first["id"], ending_code="queue_timeout")
    assert not worker.record(first, "run-late")[0]["wanted"]
