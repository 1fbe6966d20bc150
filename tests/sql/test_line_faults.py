"""The line when something is in its way: locked rows, rows that vanished, jumped clocks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.postgres import Database, Row
from tests.sql.worker import ENDPOINT, LIMITS, USER_LIMITS, Worker, by_hand, change, submitted

ANN, BEN = uuid4(), uuid4()
USERS = "select from public.video_job_users where user_id = %s for update"


def claim(worker: Worker, want: int = 9) -> int:
    """Claim under the limits that are in force; return how many rows."""
    return len(worker("claim_video_jobs_v1", p_owner=worker.owner, p_want=want, p_lease_seconds=60,
                      p_endpoint_id=ENDPOINT, **LIMITS))  # fmt: skip


def set_limits(worker: Worker, **limits: int) -> None:
    worker("set_video_job_limits_v1", p_limits=USER_LIMITS.as_row() | limits)


def user_row(database: Database, user: UUID) -> Row:
    return database.row("select * from public.video_job_users where user_id = %s", user)


@contextmanager
def held(database: Database, statement: str, *values: object) -> Iterator[None]:
    """Somebody's transaction that was never ended."""
    with database.connect() as person, person.transaction():
        person.execute(statement.encode(), values)
        yield


# Limits -----------------------------------------------------------------------------------------


def test_the_first_claim_of_a_new_user_is_limited_too(database: Database, worker: Worker) -> None:
    set_limits(worker, max_in_flight_per_user=2)
    for _ in range(5):
        database.insert(user_id=ANN)
    assert claim(worker) == 2
    assert claim(worker) == 0


def test_a_user_whose_counts_are_locked_is_passed_over(database: Database, worker: Worker) -> None:
    """They may be about to change: a claim that trusts them could overrun the limit."""
    set_limits(worker, max_in_flight_per_user=2)
    for _ in range(3):
        database.insert(user_id=ANN)
    database.insert(user_id=BEN)
    assert claim(worker, 1) == 1
    with held(database, USERS, ANN):
        assert claim(worker) == 1
        assert claim(worker) == 0
    assert claim(worker) == 1
    assert claim(worker) == 0


def test_a_count_that_was_left_out_is_made_before_the_next_row_is_taken(
    database: Database, worker: Worker
) -> None:
    """However many wait to be counted before it."""
    job = submitted(database, worker, user_id=ANN)
    set_limits(worker, max_in_flight_per_user=1)
    by_hand(
        database,
        "update public.video_job_users set room = 1, in_flight = 0, held = null,"
        " limits_version = (select version from public.video_job_limits)",
    )
    by_hand(database, "delete from public.video_job_stale_users")
    note = "insert into public.video_job_stale_users (user_id)"
    by_hand(database, f"{note} select gen_random_uuid() from generate_series(1, 300)")
    by_hand(database, f"{note} values (%s)", ANN)
    database.insert(user_id=ANN)
    assert claim(worker) == 0
    worker.end_run(job["id"], 1, "failed", status="failed", error_code="x")
    assert claim(worker) == 1


def test_a_user_who_is_locked_and_noted_is_passed_over(database: Database, worker: Worker) -> None:
    set_limits(worker, max_in_flight_per_user=1)
    database.insert(user_id=ANN)
    assert claim(worker, 0) == 0
    note = "insert into public.video_job_stale_users (user_id) values (%s)"
    by_hand(database, note, ANN)
    with held(database, USERS, ANN):
        assert claim(worker) == 0
        assert database.sql("select user_id from public.video_job_stale_users") == [
            {"user_id": ANN}
        ]
    assert claim(worker) == 1


def test_a_run_whose_row_was_deleted_while_it_was_sent_counts(
    database: Database, worker: Worker
) -> None:
    """Otherwise whoever deletes rows at that moment has more runs than permitted."""
    for _ in range(2):
        database.insert(user_id=ANN)
    job = worker.claim_one()
    worker.begin(job)
    set_limits(worker, max_in_flight_per_user=1)
    database.sql("delete from public.video_jobs where id = %s", job["id"])
    assert claim(worker) == 0
    assert user_row(database, ANN)["in_flight"] == 1


def test_a_job_counts_once_in_each_of_its_steps(database: Database, worker: Worker) -> None:
    database.insert(user_id=ANN)
    counts = []
    job = worker.claim_one()
    counts.append(user_row(database, ANN)["in_flight"])
    worker.begin(job)
    counts.append(user_row(database, ANN)["in_flight"])
    worker.doubt(job)
    counts.append(user_row(database, ANN)["in_flight"])
    worker.record(job, "run-1")
    counts.append(user_row(database, ANN)["in_flight"])
    assert counts == [1, 1, 1, 1]


def test_changed_limits_hold_though_the_clock_was_set_back(
    database: Database, worker: Worker
) -> None:
    for _ in range(3):
        database.insert(user_id=ANN)
    assert claim(worker, 1) == 1
    worker.reject(database.row("select * from public.video_jobs where status = 'preparing'"))
    by_hand(database, "update public.video_job_users set refreshed_at = now() + interval '1 day'")
    set_limits(worker, max_in_flight_per_user=1)
    assert claim(worker) == 1


# Locks ------------------------------------------------------------------------------------------


def test_many_rows_that_somebody_holds_stop_nobody_behind_them(
    database: Database, worker: Worker
) -> None:
    for _ in range(40):
        database.insert(user_id=uuid4())
    database.insert(user_id=BEN, prompt="behind")
    with held(
        database, "select from public.video_jobs where prompt is distinct from 'behind' for update"
    ):
        (job,) = worker.claim()
    assert job["prompt"] == "behind"


def test_a_write_does_not_wait_for_somebody_who_notes_the_same_user(
    database: Database, worker: Worker
) -> None:
    job = submitted(database, worker, user_id=ANN)
    part = {"attempt": 1, "set": {"state": "running"}, "instants": {}}
    decided = change(worker.case(job["id"]), job={"status": "running"}, submissions=[part])
    note = "insert into public.video_job_stale_users (user_id) values (%s)"
    with held(database, USERS, ANN), held(database, note, ANN):
        (answer,) = worker.write(decided)
    assert answer["took"]


def test_a_begin_that_waits_for_its_row_holds_up_no_claim(
    database: Database, worker: Worker
) -> None:
    database.insert(user_id=ANN)
    job = worker.claim_one()
    database.insert(user_id=BEN)
    with database.connect() as session:
        other = Worker(connection=session, owner=worker.owner)
        begun: list[Row] = []
        thread = threading.Thread(target=lambda: begun.extend(other.begin(job)))
        with held(database, "select from public.video_jobs where id = %s for update", job["id"]):
            thread.start()
            waits_for_lock(database, session.info.backend_pid)
            worker.connection.execute("set statement_timeout = '5s'")
            assert claim(worker) == 1
        thread.join()
    assert len(begun) == 1


def waits_for_lock(database: Database, pid: int) -> None:
    """Return once that session waits for a lock."""
    waiting = "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
    while not database.sql(waiting, pid):
        pass


def test_two_inserts_at_once_do_not_both_get_the_last_place_in_line(database: Database) -> None:
    worker = Worker(connection=database.connection)
    set_limits(worker, max_rows_per_user_per_day=1000)
    many = (
        "insert into public.video_jobs (user_id, image_url)"
        " select %s, 'i' from generate_series(1, %s)"
    )
    database.role("authenticated", many, ANN, 199, user=ANN)
    refused: list[str] = []

    def insert() -> None:
        other = Database(postgres=database.postgres, name=database.name, connection=session)
        try:
            other.role("authenticated", many, ANN, 1, user=ANN)
        except psycopg.errors.RaiseException as error:
            refused.append(str(error))

    thread = threading.Thread(target=insert)
    with database.connect() as session, database.connect() as first:
        with first.transaction():
            first.execute(many.encode(), [ANN, 1])
            thread.start()
            waits_for_lock(database, session.info.backend_pid)
        thread.join()
    assert len(refused) == 1
    assert "200 jobs waiting" in refused[0]


# Many rows in one statement ---------------------------------------------------------------------


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_browsers_statement_of_many_rows_is_limited_too(
    database: Database, worker: Worker, cancelled: bool
) -> None:
    """Events, by which the limit counts, are written at the end of the statement."""
    set_limits(worker, max_rows_per_user_per_day=3)
    statement = (
        "insert into public.video_jobs (user_id, image_url, cancel_requested)"
        " select %s, 'i', %s from generate_series(1, %s)"
    )
    with pytest.raises(psycopg.errors.RaiseException, match="started 3 jobs within 24 hours"):
        database.role("authenticated", statement, ANN, cancelled, 4, user=ANN)
    database.role("authenticated", statement, ANN, cancelled, 2, user=ANN)
    with pytest.raises(psycopg.errors.RaiseException, match="started 3 jobs within 24 hours"):
        database.role("authenticated", statement, ANN, cancelled, 2, user=ANN)
    database.role("authenticated", statement, ANN, cancelled, 1, user=ANN)


@pytest.mark.parametrize(
    "statement",
    ["update public.video_jobs set cancel_requested = true", "delete from public.video_jobs"],
)
def test_a_statement_of_many_rows_counts_each_user_once(database: Database, statement: str) -> None:
    """Each count passes over what the statement removed: by row, its time grows with the square."""
    for user in (ANN, ANN, ANN, BEN, BEN, None):
        database.insert(user_id=user)
    with database.connect(superuser=True) as admin, admin.transaction():
        admin.execute("set local track_functions = 'all'")
        admin.execute(statement.encode())
        (row,) = admin.execute(
            "select calls from pg_stat_xact_user_functions"
            " where funcname = 'video_job_recount_user_v1'"
        )
    assert row["calls"] == 2
    assert user_row(database, ANN)["head_id"] is None


# What vanished ----------------------------------------------------------------------------------


def test_users_whose_rows_were_emptied_stand_in_nobodys_way(
    database: Database, worker: Worker
) -> None:
    submitted(database, worker, user_id=ANN)
    database.insert(user_id=BEN)
    with database.connect(superuser=True) as admin:
        admin.execute("truncate public.video_jobs")
        assert database.sql("select from public.video_job_users where head_id is not null") == []
        assert user_row(database, ANN)["in_flight"] == 1
        admin.execute("truncate public.video_job_attempts")
        assert user_row(database, ANN)["in_flight"] == 0


def test_first_rows_that_are_gone_are_noticed_by_claims(database: Database, worker: Worker) -> None:
    """Somebody removed thousands with triggers off; their users were before all others."""
    by_hand(
        database,
        "insert into public.video_job_users"
        " (user_id, head_priority, head_turn, head_created_at, head_id, limits_version)"
        " select gen_random_uuid(), 0, 0, now(), gen_random_uuid(), 1"
        " from generate_series(1, 3000)",
    )
    database.insert(user_id=ANN)
    assert sum(claim(worker, 1) for _ in range(10)) == 1


def test_waiting_rows_whose_user_was_lost_are_found_by_the_sweep(
    database: Database, worker: Worker
) -> None:
    for user in (ANN, BEN):
        database.insert(user_id=user)
    by_hand(database, "delete from public.video_job_users where user_id = %s", ANN)
    by_hand(database, "update public.video_job_users set head_id = null where user_id = %s", BEN)
    assert claim(worker) == 0
    worker("recount_video_job_users_v1", p_want=50)
    assert claim(worker) == 2
