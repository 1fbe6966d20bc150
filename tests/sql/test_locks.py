"""A row that somebody holds locked is left alone by a write, and holds up no other."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.postgres import Database, Row
from tests.sql.worker import Worker, change, submitted

ROW = "select from public.video_jobs where id = %s for update"
SUBMISSION = "select from public.video_job_attempts where job_id = %s for update"


@pytest.fixture(autouse=True)
def no_endless_wait(worker: Worker) -> None:
    """A write that waits for the other session fails; both are in this thread."""
    worker.connection.execute("set statement_timeout = '5s'")


@contextmanager
def locked(database: Database, statement: str, job: Row) -> Iterator[None]:
    """Somebody's transaction that was never ended."""
    with database.connect() as person, person.transaction():
        person.execute(statement.encode(), [job["id"]])
        yield


def changes(worker: Worker, jobs: list[Row], **columns: object) -> list[dict[str, Any]]:
    return [change(worker.case(job["id"]), job=columns) for job in jobs]


@pytest.mark.parametrize("statement", [ROW, SUBMISSION], ids=["row", "submission"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_locked_row_holds_up_no_other_and_is_written_once_it_is_released(
    database: Database, worker: Worker, statement: str, place: int
) -> None:
    jobs = sorted((submitted(database, worker) for _ in range(3)), key=lambda job: job["id"])
    decided = changes(worker, jobs, status="running")
    with locked(database, statement, jobs[place]):
        answers = worker.write(*reversed(decided))
    expected = [number != place for number in range(3)]
    assert [answer["job_id"] for answer in answers] == [job["id"] for job in jobs]
    assert [answer["took"] for answer in answers] == expected
    assert [not answer["locked"] for answer in answers] == expected
    assert [database.job(job["id"])["status"] == "running" for job in jobs] == expected
    case = answers[place]["case"]
    assert (case["job"]["id"], case["job"]["status"]) == (str(jobs[place]["id"]), "submitted")
    (again,) = worker.write(decided[place])
    assert (again["took"], again["locked"]) == (True, False)


def test_nothing_of_a_locked_rows_change_is_written(database: Database, worker: Worker) -> None:
    """Its submission is free, but both belong together."""
    job = submitted(database, worker)
    part = {"attempt": 1, "set": {"state": "running"}, "instants": {}}
    decided = change(worker.case(job["id"]), job={"status": "running"}, submissions=[part])
    with locked(database, ROW, job):
        (answer,) = worker.write(decided)
    assert (answer["took"], answer["locked"]) == (False, True)
    assert database.submissions(job["id"])[0]["state"] == "queued"


def test_a_write_keeps_no_lock_on_what_it_left(database: Database, worker: Worker) -> None:
    """The row was locked first, then its submission was not to be had."""
    job = submitted(database, worker)
    with locked(database, SUBMISSION, job), worker.connection.transaction():
        (answer,) = worker.write(*changes(worker, [job], progress=5))
        assert answer["locked"]
        with database.connect() as person:
            person.execute(f"{ROW} nowait".encode(), [job["id"]])


def test_an_ended_submission_that_is_locked_holds_up_no_other(
    database: Database, worker: Worker
) -> None:
    """A late run is recorded on a submission that was given up."""
    late, other = submitted(database, worker), submitted(database, worker)
    worker.end_run(late["id"], 1, "expired", status="queued", phase="in_line")
    part = {"attempt": 1, "set": {"state": "queued"}, "instants": {"ended_at": None}}
    reopened = change(worker.case(late["id"]), job={"status": "submitted"}, submissions=[part])
    with locked(database, SUBMISSION, late):
        answers = worker.write(reopened, *changes(worker, [other], progress=5))
    took = {answer["job_id"]: (answer["took"], answer["locked"]) for answer in answers}
    assert took == {late["id"]: (False, True), other["id"]: (True, False)}
    assert database.job(late["id"])["status"] == "queued"
    assert worker.write(reopened)[0]["took"]


def test_a_change_of_what_was_decided_on_is_no_lock(database: Database, worker: Worker) -> None:
    job = submitted(database, worker)
    decided = changes(worker, [job], progress=5)
    worker.change(job["id"], progress=4)
    (answer,) = worker.write(*decided)
    assert (answer["took"], answer["locked"]) == (False, False)


def test_a_shared_lock_of_readers_is_a_lock_too(database: Database, worker: Worker) -> None:
    """Postgres does not tell them apart: the write needs the row for itself."""
    job = submitted(database, worker)
    with locked(database, ROW.replace("for update", "for share"), job):
        assert worker.write(*changes(worker, [job], progress=5))[0]["locked"]


def test_the_short_wait_ends_with_the_write(database: Database, worker: Worker) -> None:
    """Nothing else of the session gives up that early."""
    job = submitted(database, worker)
    worker.change(job["id"], progress=5)
    assert database.row("show lock_timeout")["lock_timeout"] == "0"


def test_the_other_sessions_own_write_stands(database: Database, worker: Worker) -> None:
    """Somebody cancels in a long transaction; the worker's change is then decided anew."""
    job = submitted(database, worker)
    decided = changes(worker, [job], progress=5)
    with database.connect() as person, person.transaction():
        person.execute(
            "update public.video_jobs set cancel_requested = true where id = %s", [job["id"]]
        )
        assert worker.write(*decided)[0]["locked"]
    (answer,) = worker.write(*decided)
    assert (answer["took"], answer["locked"]) == (False, False)
    assert answer["case"]["job"]["cancel_requested"]


def test_a_refused_value_is_still_loud_beside_a_locked_row(
    database: Database, worker: Worker
) -> None:
    jobs = [submitted(database, worker) for _ in range(2)]
    held, wrong = changes(worker, jobs[:1], progress=5), changes(worker, jobs[1:], progress=500)
    with locked(database, ROW, jobs[0]), pytest.raises(psycopg.errors.CheckViolation):
        worker.write(*held, *wrong)
