"""video_job_columns_v1 says who writes which column; a column that it does not name is closed."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.postgres import TEMPLATE, Database, Row
from tests.sql.worker import Worker, by_hand, change, ended, submitted

REFUSED = psycopg.errors.RaiseException
# Written by video_jobs_before_insert and begin_video_job_submission_v1 alone.
FIXED_AT_BEGIN = {
    "job_id", "attempt", "try_number", "user_id", "endpoint_id", "plan", "template_hash",
    "input_objects", "created_at", "expires_at",
}  # fmt: skip
# Values that no new row has; a column's own value goes before that of its type.
BY_TYPE = {
    "integer": "7", "smallint": "7", "bigint": "7", "numeric": "7.5", "boolean": "true",
    "text": "'x'", "uuid": "gen_random_uuid()", "timestamptz": "'2001-02-03'", "jsonb": "'[7]'",
}  # fmt: skip
BY_NAME = {
    "status": "'failed'", "phase": "'generating'", "progress_source": "'reported'",
    "quality": "'sd'", "width": "800", "height": "800", "steps": "5", "metadata": "'{\"a\": 1}'",
    "inserted_by": "'user'",
}  # fmt: skip


@pytest.fixture
def with_new_column(new_database: Callable[[str], Database]) -> Database:
    """A database whose video_jobs has got a column that no group names."""
    database = new_database(TEMPLATE)
    database.sql("alter table public.video_jobs add column gpu_type text default 'any'")
    return database


def columns(database: Database, table: str) -> dict[str, str]:
    """The columns of a table with their types."""
    rows = database.sql(
        "select attname as name, format_type(atttypid, null) as type from pg_attribute"
        " where attrelid = %s::regclass and attnum > 0 and not attisdropped",
        f"public.{table}",
    )
    short = {"timestamp with time zone": "timestamptz"}
    types = {str(row["name"]): str(row["type"]) for row in rows}
    return {name: short.get(kind, kind) for name, kind in types.items()}


def groups(database: Database) -> dict[str, list[str]]:
    """Every group that video_job_columns_v1 knows."""
    source = database.row("select prosrc from pg_proc where proname = 'video_job_columns_v1'")[
        "prosrc"
    ]
    return {
        name: database.row("select public.video_job_columns_v1(%s) as names", name)["names"]
        for name in re.findall(r"when '(\w+)'", source)
    }


def may(database: Database, right: str) -> set[str]:
    """The columns of video_jobs for which a signed-in user has a right."""
    rows = database.sql(
        "select attname from pg_attribute where attrelid = 'public.video_jobs'::regclass"
        " and attnum > 0 and has_column_privilege('authenticated', attrelid, attnum, %s)",
        right,
    )
    return {row["attname"] for row in rows}


def test_every_column_of_a_job_is_in_exactly_one_group(database: Database) -> None:
    found = groups(database)
    found.pop("submission")
    assert set(found) == {"input", "owner", "people", "plan", "progress", "history", "record"}
    named = [column for names in found.values() for column in names]
    assert sorted(named) == sorted(columns(database, "video_jobs"))


def test_the_worker_writes_every_column_of_a_submission_that_begin_does_not_fix(
    database: Database,
) -> None:
    named = groups(database)["submission"]
    assert len(named) == len(set(named))
    assert set(named) == set(columns(database, "video_job_attempts")) - FIXED_AT_BEGIN


def test_a_group_that_does_not_exist_has_no_columns(database: Database) -> None:
    assert database.row("select public.video_job_columns_v1('plans') as names")["names"] is None


def test_a_browser_inserts_the_inputs_and_changes_only_the_cancel(database: Database) -> None:
    found = groups(database)
    own = {"id", "metadata", "cancel_requested"}
    assert may(database, "INSERT") == {*found["input"], *found["owner"], *own}
    assert may(database, "UPDATE") == {"cancel_requested"}


def test_what_only_the_worker_writes_is_closed_to_people_column_by_column(
    database: Database, worker: Worker
) -> None:
    """Also while the inputs may still be corrected."""
    found = groups(database)
    types = columns(database, "video_jobs")
    failed, waiting = ended(database, worker, "failed"), database.insert()
    closed = {*found["plan"], *found["progress"], *found["history"], *found["record"]}
    for column in sorted(closed - {"id", "created_at", "updated_at", "revision", "status"}):
        value = BY_NAME.get(column, BY_TYPE[types[column]])
        for job in (failed, waiting):
            with pytest.raises(REFUSED, match=f"by the worker alone: {column}[.]"):
                database.sql(
                    f"update public.video_jobs set {column} = {value} where id = %s", job["id"]
                )


def test_people_cannot_set_the_columns_of_the_record(database: Database) -> None:
    job = database.insert()
    record = "updated_at = '2001-02-03', revision = 70"
    database.sql(f"update public.video_jobs set {record} where id = %s", job["id"])
    assert database.job(job["id"]) == job
    database.sql(f"update public.video_jobs set {record}, seed = 3 where id = %s", job["id"])
    row = database.job(job["id"])
    assert row["revision"] == job["revision"] + 1
    assert row["updated_at"] > job["updated_at"]


def test_several_closed_columns_are_all_named(database: Database) -> None:
    job = database.insert()
    statement = "update public.video_jobs set progress = 9, cost_usd = 0, attempt = 4 where id = %s"
    with pytest.raises(REFUSED, match=r"alone: attempt, cost_usd, progress[.]"):
        database.sql(statement, job["id"])


def filled(database: Database, job: Row) -> Row:
    """A failed job in which every column holds something that no new row holds."""
    values = {
        name: BY_NAME.get(name, BY_TYPE[kind])
        for name, kind in columns(database, "video_jobs").items()
        if name != "id"
    }
    assignments = ", ".join(f"{name} = {value}" for name, value in values.items())
    by_hand(database, f"update public.video_jobs set {assignments} where id = %s", job["id"])
    row = database.job(job["id"])
    new = database.insert()
    same = {name for name in row if row[name] == new[name]}
    assert same == set(), "the test needs another value for these"
    return row


def test_a_retry_keeps_what_the_groups_say_and_makes_the_rest_new(database: Database) -> None:
    before = filled(database, database.insert())
    new = database.insert()
    (after,) = database.sql("select * from public.retry_video_job_v1(%s)", before["id"])
    found = groups(database)
    kept = {
        *found["input"], *found["owner"], *found["history"], "metadata", "priority",
        "id", "created_at", "attempt", "inserted_by", "claimed_at",
    }  # fmt: skip
    counted = {"try_number", "revision", "updated_at", "available_at", "turn", "delayed"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    rest = set(after) - kept - counted
    assert rest == {*found["plan"], *found["progress"], "cancel_requested"} - counted
    assert {name: after[name] for name in rest} == {name: new[name] for name in rest}
    assert (after["try_number"], after["revision"]) == (8, 8)
    assert after["available_at"] == after["updated_at"] > new["created_at"]
    assert (after["turn"], after["delayed"]) == (1, False)


# A new column -----------------------------------------------------------------------------------


def test_a_new_column_is_not_written_by_hand(with_new_column: Database) -> None:
    database = with_new_column
    worker = Worker(connection=database.connection)
    waiting, failed = database.insert(), ended(database, worker, "failed")
    for job in (waiting, failed):
        with pytest.raises(REFUSED, match=r"by the worker alone: gpu_type[.]"):
            database.sql("update public.video_jobs set gpu_type = 'x' where id = %s", job["id"])


def test_an_insert_does_not_set_a_new_column(with_new_column: Database) -> None:
    database = with_new_column
    assert database.insert(gpu_type="x")["gpu_type"] == "any"
    statement = "insert into public.video_jobs (gpu_type) values ('x') returning gpu_type"
    assert database.role("service_role", statement) == [{"gpu_type": "any"}]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.role("authenticated", statement, user=uuid4())


def test_a_retry_clears_a_new_column(with_new_column: Database) -> None:
    database = with_new_column
    job = ended(database, Worker(connection=database.connection), "failed")
    by_hand(database, "update public.video_jobs set gpu_type = 'x' where id = %s", job["id"])
    assert database.job(job["id"])["gpu_type"] == "x"
    (row,) = database.sql("select * from public.retry_video_job_v1(%s)", job["id"])
    assert (row["status"], row["gpu_type"]) == ("queued", "any")


@pytest.mark.parametrize(
    "column",
    ["gpu_type text not null default 'any'", "rank integer not null default 3 + 4", "note text"],
)
def test_a_new_column_of_any_kind_does_not_stop_the_table(
    new_database: Callable[[str], Database], column: str
) -> None:
    """An operator's own column, with its default, does no harm."""
    database = new_database(TEMPLATE)
    database.sql(f"alter table public.video_jobs add column {column}")
    worker = Worker(connection=database.connection)
    job = ended(database, worker, "failed")
    (row,) = database.sql("select * from public.retry_video_job_v1(%s)", job["id"])
    assert row["status"] == "queued"


def test_a_generated_column_does_not_stop_people(
    new_database: Callable[[str], Database],
) -> None:
    """Postgres computes it after the guard has looked."""
    database = new_database(TEMPLATE)
    column = "seconds integer generated always as (coalesce(frames, 0) / 25) stored"
    database.sql(f"alter table public.video_jobs add column {column}")
    job = submitted(database, Worker(connection=database.connection))
    cancel = "update public.video_jobs set cancel_requested = true where id = %s returning phase"
    assert database.sql(cancel, job["id"]) == [{"phase": "cancelling"}]


def test_a_write_of_a_new_column_is_refused_and_writes_nothing(with_new_column: Database) -> None:
    database = with_new_column
    worker = Worker(connection=database.connection)
    job = submitted(database, worker)
    with pytest.raises(REFUSED, match=r"The worker may not write gpu_type[.]"):
        worker.change(job["id"], gpu_type="x", progress=50)
    assert database.job(job["id"]) == job


def test_a_plan_with_a_new_column_begins_nothing(with_new_column: Database) -> None:
    database = with_new_column
    worker = Worker(connection=database.connection)
    database.insert()
    job = worker.claim_one()
    with pytest.raises(REFUSED, match=r"A plan may not write .*gpu_type"):
        worker.begin(job, gpu_type="x")
    assert database.submissions(job["id"]) == []


# A submission's columns -------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["plan", "user_id", "expires_at", "attempt", "status", "looks"])
def test_a_write_of_what_begin_fixed_or_nobody_knows_is_refused(
    database: Database, worker: Worker, column: str
) -> None:
    job = submitted(database, worker)
    before = database.submissions(job["id"])
    parts: list[dict[str, Any]] = [
        {"attempt": 1, "set": {"state": "running", column: None}, "instants": {}},
        {"attempt": 1, "set": {"state": "running"}, "instants": {column: 0}},
    ]
    for part in parts:
        with pytest.raises(REFUSED, match=f"The worker may not write {column}[.]"):
            worker.write(change(worker.case(job["id"]), submissions=[part]))
    assert database.submissions(job["id"]) == before


def test_a_new_column_of_submissions_is_refused_too(new_database: Any) -> None:
    database: Database = new_database(TEMPLATE)
    database.sql("alter table public.video_job_attempts add column gpu_type text")
    worker = Worker(connection=database.connection)
    job = submitted(database, worker)
    part = {"attempt": 1, "set": {"gpu_type": "x"}, "instants": {}}
    with pytest.raises(REFUSED, match=r"The worker may not write gpu_type[.]"):
        worker.write(change(worker.case(job["id"]), submissions=[part]))


@pytest.mark.parametrize("column", ["missing_looks", "state", "execution_ms"])
def test_a_submissions_columns_are_not_a_jobs(
    database: Database, worker: Worker, column: str
) -> None:
    job = submitted(database, worker)
    with pytest.raises(REFUSED, match=f"The worker may not write {column}[.]"):
        worker.change(job["id"], **{column: 1})
