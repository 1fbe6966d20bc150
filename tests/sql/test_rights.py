"""Who may do what, asked of Postgres itself, as PostgREST would for each kind of token."""

from uuid import UUID, uuid4

import psycopg
import pytest

from tests.postgres import Database
from tests.sql.worker import Worker, ended, submitted

OWNER = UUID("11111111-1111-1111-1111-111111111111")
OTHER = UUID("22222222-2222-2222-2222-222222222222")
DENIED = psycopg.errors.InsufficientPrivilege
APP_COLUMNS = {
    "id", "user_id", "image_url", "audio_url", "width", "height", "quality", "prompt",
    "negative_prompt", "seed", "steps", "idempotency_key", "metadata", "cancel_requested",
}  # fmt: skip
TABLES = [
    "video_jobs",
    "video_job_attempts",
    "video_job_events",
    "video_job_migrations",
    "video_job_buckets",
]
RIGHTS = {
    ("authenticated", "video_jobs"): {"SELECT"},
    ("service_role", "video_jobs"): {"SELECT", "INSERT", "UPDATE", "DELETE"},
    ("service_role", "video_job_attempts"): {"SELECT", "INSERT", "UPDATE", "DELETE"},
    ("service_role", "video_job_events"): {"SELECT", "INSERT", "DELETE"},
    ("service_role", "video_job_migrations"): {"SELECT"},
    ("service_role", "video_job_buckets"): {"SELECT"},
}
EVERY_RIGHT = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_each_role_has_the_named_rights_on_tables_and_no_other(
    database: Database, role: str, table: str
) -> None:
    found = {
        right
        for right in EVERY_RIGHT
        if database.row(
            "select has_table_privilege(%s, %s, %s) as yes", role, f"public.{table}", right
        )["yes"]
    }
    assert found == RIGHTS.get((role, table), set())


@pytest.mark.parametrize(
    ("right", "columns"), [("INSERT", APP_COLUMNS), ("UPDATE", {"cancel_requested"})]
)
def test_a_browser_writes_only_the_columns_of_the_app(
    database: Database, right: str, columns: set[str]
) -> None:
    rows = database.sql(
        "select attname from pg_attribute where attrelid = 'public.video_jobs'::regclass"
        " and attnum > 0 and has_column_privilege('authenticated', attrelid, attnum, %s)",
        right,
    )
    assert {row["attname"] for row in rows} == columns


def test_no_function_is_open_to_everybody_and_browsers_have_only_these(database: Database) -> None:
    rows = database.sql(
        "select p.proname, r.rolname from pg_proc p, pg_roles r"
        " where p.pronamespace = 'public'::regnamespace and r.rolname in ('anon', 'authenticated')"
        " and has_function_privilege(r.oid, p.oid, 'execute')"
    )
    assert {(row["proname"], row["rolname"]) for row in rows} == {
        ("retry_video_job_v1", "authenticated"),
        # Asked by a policy about the caller alone; computed for an index when a browser inserts.
        ("video_job_may_upload_v1", "authenticated"),
        ("video_job_object_v1", "authenticated"),
    }


def test_every_function_fixes_its_search_path(database: Database) -> None:
    """Otherwise a caller's own schema could stand in for ours."""
    rows = database.sql(
        "select proname from pg_proc where pronamespace = 'public'::regnamespace"
        " and not coalesce(proconfig @> array['search_path=\"\"'], false)"
    )
    assert rows == []


def test_the_owner_inserts_reads_and_cancels(database: Database) -> None:
    """`returning *` is what insert().select() of the official clients asks for."""
    (row,) = database.role(
        "authenticated",
        "insert into public.video_jobs (image_url, audio_url) values ('i', 'a') returning *",
        user=OWNER,
    )
    assert (row["user_id"], row["status"], row["quality"]) == (OWNER, "queued", "hd")
    read = database.role("authenticated", "select * from public.video_jobs", user=OWNER)
    assert [found["id"] for found in read] == [row["id"]]
    (row,) = database.role(
        "authenticated",
        "update public.video_jobs set cancel_requested = true where id = %s returning *",
        row["id"],
        user=OWNER,
    )
    assert row["status"] == "cancelled"


@pytest.mark.parametrize("user", [OTHER, None])
def test_another_user_sees_and_cancels_nothing(database: Database, user: UUID | None) -> None:
    database.insert(user_id=OWNER)
    database.insert()
    for statement in (
        "select * from public.video_jobs",
        "update public.video_jobs set cancel_requested = true returning *",
    ):
        assert database.role("authenticated", statement, user=user) == []


@pytest.mark.parametrize(
    "statement",
    [
        "insert into public.video_jobs (user_id) values ('22222222-2222-2222-2222-222222222222')",
        "insert into public.video_jobs (user_id) values (null)",
        "insert into public.video_jobs (status) values ('completed')",
        "insert into public.video_jobs (priority) values (9)",
        "insert into public.video_jobs (lease_owner) values (gen_random_uuid())",
        "update public.video_jobs set status = 'completed', video_url = 'x'",
        "update public.video_jobs set status = 'queued'",
        "update public.video_jobs set user_id = '22222222-2222-2222-2222-222222222222'",
        "update public.video_jobs set image_url = 'x'",
        "update public.video_jobs set progress = 100",
        "update public.video_jobs set metadata = '{}'",
        "delete from public.video_jobs",
        "select * from public.video_job_attempts",
        "select * from public.video_job_events",
        "insert into public.video_job_attempts (job_id, attempt) values (gen_random_uuid(), 1)",
        "select * from public.stranded_video_jobs_v1(1, null)",
        "select public.video_job_columns_v1('input')",
        "select public.video_job_set_v1(gen_random_uuid(), null, array['plan'], '{}', '{}')",
        "select public.video_job_check_people_v1(null, null)",
        "select * from public.write_video_job_changes_v1('[]')",
        "select public.video_job_case_v1(gen_random_uuid())",
        "select public.video_job_has_open_submission_v1(gen_random_uuid())",
        "truncate public.video_jobs",
    ],
)
def test_a_browser_is_refused_what_is_not_its_own(database: Database, statement: str) -> None:
    database.insert(user_id=OWNER)
    for role, user in (("authenticated", OWNER), ("anon", None)):
        with pytest.raises(DENIED):
            database.role(role, statement, user=user)


def test_an_update_of_everything_changes_only_ones_own(database: Database) -> None:
    """Without a condition Postgres asks the policy of updates alone."""
    theirs = database.insert(user_id=OWNER)
    mine = database.insert(user_id=OTHER)
    database.role(
        "authenticated", "update public.video_jobs set cancel_requested = true", user=OTHER
    )
    assert database.job(theirs["id"])["status"] == "queued"
    assert database.job(mine["id"])["status"] == "cancelled"


@pytest.mark.parametrize(
    "table", ["video_job_attempts", "video_job_events", "video_job_migrations"]
)
def test_a_grant_by_mistake_still_shows_nothing(
    database: Database, worker: Worker, table: str
) -> None:
    """As on older projects, whose defaults grant new tables to everybody."""
    submitted(database, worker, user_id=OWNER)
    count = f"select count(*) as found from public.{table}"
    assert database.row(count)["found"] > 0
    with database.connection.transaction(force_rollback=True):
        database.sql(f"grant select on public.{table} to authenticated")
        assert database.role("authenticated", count, user=OWNER) == [{"found": 0}]


def test_anonymous_callers_get_nothing_at_all(database: Database) -> None:
    for statement in (
        "select * from public.video_jobs",
        "insert into public.video_jobs (image_url) values ('i')",
        "select * from public.retry_video_job_v1(gen_random_uuid())",
    ):
        with pytest.raises(DENIED):
            database.role("anon", statement)


def test_the_service_key_inserts_for_anybody_and_deletes(database: Database) -> None:
    for user in (OWNER, None):
        (row,) = database.role(
            "service_role",
            "insert into public.video_jobs (user_id, priority) values (%s, 5) returning *",
            user,
        )
        assert (row["user_id"], row["priority"]) == (user, 5)
    deleted = database.role("service_role", "delete from public.video_jobs returning id")
    assert len(deleted) == 2


def test_nobody_chooses_what_the_worker_writes(database: Database) -> None:
    """Even a service key's insert starts clean."""
    row = database.insert(progress=50, attempt=7, video_url="x", lease_owner=uuid4(), cost_usd=3)
    values = [row[name] for name in ("progress", "attempt", "video_url", "lease_owner", "cost_usd")]
    assert values == [0, 0, None, None, None]
    with pytest.raises(psycopg.errors.RaiseException, match="starts as queued, not as completed"):
        database.insert(status="completed", video_url="x")


def test_only_the_worker_changes_the_workers_columns(database: Database, worker: Worker) -> None:
    job = submitted(database, worker)
    statement = "update public.video_jobs set progress = 99 where id = %s"
    with pytest.raises(psycopg.errors.RaiseException, match="by the worker alone: progress"):
        database.role("service_role", statement, job["id"])


def test_retry_is_for_the_owner_a_service_key_and_the_operator(
    database: Database, worker: Worker
) -> None:
    retry = "select * from public.retry_video_job_v1(%s)"
    job = ended(database, worker, "failed")
    unowned = job["id"]
    for user in (OWNER, None):
        with pytest.raises(psycopg.errors.RaiseException, match="not yours"):
            database.role("authenticated", retry, unowned, user=user)
    owned = ended_of(database, worker, OWNER)
    with pytest.raises(psycopg.errors.RaiseException, match="not yours"):
        database.role("authenticated", retry, owned, user=OTHER)
    (row,) = database.role("authenticated", retry, owned, user=OWNER)
    assert row["status"] == "queued"
    (row,) = database.role("service_role", retry, unowned)
    assert row["status"] == "queued"
    (row,) = database.sql(retry, ended_of(database, worker, OTHER))
    assert row["status"] == "queued"


def ended_of(database: Database, worker: Worker, user: UUID) -> UUID:
    """A cancelled job of a user."""
    row = database.insert(user_id=user)
    database.sql("update public.video_jobs set cancel_requested = true where id = %s", row["id"])
    identity: UUID = row["id"]
    return identity
