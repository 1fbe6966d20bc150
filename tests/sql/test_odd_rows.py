"""States that only accidents and hands make: none stops other rows or stays forever."""

from typing import Any
from uuid import uuid4

from tests.postgres import Database
from tests.sql.worker import Worker, age, by_hand, expire_lease, submitted


def begun(database: Database, worker: Worker, **columns: object) -> Any:
    database.insert(**columns)
    job = worker.claim_one()
    assert worker.begin(job)
    return job


def test_a_claim_whose_post_has_begun_cannot_end_as_if_it_had_not(
    database: Database, worker: Worker
) -> None:
    job = begun(database, worker)
    assert worker.release(job).change.empty
    assert worker.reject(job).change.empty
    assert database.job(job["id"])["status"] == "preparing"
    worker.refuse(job)
    assert database.job(job["id"])["status"] == "queued"


def test_a_row_that_somebody_has_locked_does_not_hold_up_the_next(
    database: Database, worker: Worker
) -> None:
    """Say, an update in a transaction that was never ended."""
    first = database.insert(prompt="first")
    database.insert(prompt="second")
    with database.connect() as person, person.transaction():
        person.execute("select from public.video_jobs where id = %s for update", [first["id"]])
        assert [row["prompt"] for row in worker.claim(1)] == ["second"]
        assert worker.claim(1) == []
    assert [row["prompt"] for row in worker.claim(1)] == ["first"]


def test_locked_rows_do_not_let_a_claim_take_more_than_it_may(
    database: Database, worker: Worker
) -> None:
    for _ in range(6):
        database.insert()
    assert len(worker.claim(3)) == 3
    assert len(worker.claim(9, max_in_flight=4)) == 1


def test_a_waiting_row_with_an_open_submission_does_not_hold_up_the_next(
    database: Database, worker: Worker
) -> None:
    job = begun(database, worker, prompt="first")
    worker.doubt(job)
    by_hand(database, "update public.video_jobs set status = 'queued' where id = %s", job["id"])
    database.insert(prompt="second")
    assert [row["prompt"] for row in worker.claim(1)] == ["second"]


def test_a_submission_under_way_whose_row_has_no_lease_becomes_unknown_in_time(
    database: Database, worker: Worker
) -> None:
    job = begun(database, worker)
    by_hand(
        database,
        "update public.video_jobs set lease_owner = null, lease_expires_at = null where id = %s",
        job["id"],
    )
    worker.recover()
    assert database.submissions(job["id"])[0]["state"] == "submitting"
    age(database, job["id"], "next_poll_at", 1)
    worker.recover()
    assert database.submissions(job["id"])[0]["state"] == "unknown"


def test_a_cancelled_row_whose_submissions_were_deleted_ends_as_cancelled(
    database: Database, worker: Worker
) -> None:
    job = submitted(database, worker)
    database.sql("update public.video_jobs set cancel_requested = true where id = %s", job["id"])
    database.sql("delete from public.video_job_attempts where job_id = %s", job["id"])
    by_hand(
        database,
        "update public.video_jobs set updated_at = now() - interval '2 minutes' where id = %s",
        job["id"],
    )
    worker.recover()
    row = database.job(job["id"])
    assert (row["status"], row["error_code"]) == ("cancelled", None)


def test_a_post_whose_sender_is_gone_counts_for_its_user_before_it_is_recovered(
    database: Database, worker: Worker
) -> None:
    """Between the lease's end and the next sweep nobody knows yet; the run may be live."""
    ann = uuid4()
    job = begun(database, worker, user_id=ann)
    database.insert(user_id=ann)
    expire_lease(database, job["id"])
    assert worker.claim(max_in_flight_per_user=1) == []
    assert worker.claim(max_submissions_per_user_per_day=1) == []
    worker.recover()
    assert worker.claim(max_in_flight_per_user=1) == []
