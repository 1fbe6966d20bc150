"""A run that shows up after it was given up, while another attempt is under way."""

from tests.postgres import Database, Row
from tests.sql.worker import Worker


def given_up(database: Database, worker: Worker) -> tuple[Row, Row]:
    """The first claim, whose POST was given up, and the second, which is held now."""
    database.insert()
    first = worker.claim_one()
    worker.begin(first)
    worker.doubt(first)
    worker.end_run(first["id"], 1, "expired", status="queued", phase="in_line")
    return first, worker.claim_one()


def test_the_present_claim_ends_with_it(database: Database, worker: Worker) -> None:
    """Otherwise the row could end as failed or cancelled while that run renders."""
    first, second = given_up(database, worker)
    assert worker.record(first, "run-late").effects.cancel == ()
    row = database.job(first["id"])
    assert (row["status"], row["runpod_job_id"]) == ("submitted", "run-late")
    assert (row["lease_owner"], row["lease_expires_at"]) == (None, None)
    assert worker.begin(second) == []
    assert worker.reject(second, "audio_unreadable").change.empty
    assert worker.release(second).change.empty
    assert database.job(first["id"]) == row


def test_the_run_that_the_row_has_already_makes_another_unwanted(
    database: Database, worker: Worker
) -> None:
    first, second = given_up(database, worker)
    worker.begin(second)
    assert worker.record(first, "run-late").effects.cancel == ()
    assert [sub.runpod_job_id for sub in worker.record(second, "run-2").effects.cancel] == ["run-2"]
    late, other = database.submissions(first["id"])
    assert (late["state"], other["state"]) == ("queued", "queued")
    assert late["cancel_asked_at"] is None
    assert other["cancel_asked_at"] is not None
    assert database.job(first["id"])["runpod_job_id"] == "run-late"


def test_a_refusal_of_the_second_does_not_count(database: Database, worker: Worker) -> None:
    first, second = given_up(database, worker)
    worker.begin(second)
    worker.record(first, "run-late")
    assert worker.known(first["id"]).submission_count == 2
    before = database.job(first["id"])
    worker.refuse(second)
    assert worker.known(first["id"]).submission_count == 1
    assert database.job(first["id"]) == before
    assert before["status"] == "submitted"


def test_a_run_of_an_ending_job_is_not_wanted(database: Database, worker: Worker) -> None:
    first, _ = given_up(database, worker)
    worker.change(first["id"], ending_code="queue_timeout")
    assert [sub.attempt for sub in worker.record(first, "run-late").effects.cancel] == [1]
    assert database.submissions(first["id"])[0]["cancel_asked_at"] is not None
