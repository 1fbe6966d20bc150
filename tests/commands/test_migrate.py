"""`migrate`, and the same files with psql: in any combination, any number of times."""

import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from devstack.launch import find_binaries
from devstack.postgres import SUPERUSER, Postgres
from devstack.supabase.database import prepare
from tests.postgres import Database
from tests.sql.schema import dump
from worker.commands.migrate import OtherSchema, apply, problem_of, register
from worker.runtime.migrations import files as migrations
from worker.runtime.migrations import hash_of, hashes

NAMES = [path.stem for path in migrations()]


@pytest.fixture
def empty(postgres: Postgres, new_database: Callable[[str], Database]) -> Database:
    """A new project's database, without our tables."""
    name = "without_tables"
    with psycopg.connect(postgres.url("postgres", user=SUPERUSER)) as connection:
        row = connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone()
    if row is None:
        prepare(postgres, name, None)
    return new_database(name)


@pytest.fixture
def by_migrate(empty: Database, new_database: Callable[[str], Database]) -> str:
    """The schema that `migrate` alone creates in a new project."""
    database = new_database("without_tables")
    apply(database.url)
    return dump(database.url)


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["migrate", *arguments])


def psql(url: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run psql as a person does, without ON_ERROR_STOP."""
    files = [word for path in paths for word in ("-f", str(path))]
    command = [str(find_binaries() / "psql"), "-X", "-q", url, *files]
    quiet = {"PGOPTIONS": "-c client_min_messages=warning"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)


def test_twice_in_a_row_does_no_harm(empty: Database) -> None:
    assert apply(empty.url) == NAMES
    row = empty.insert()
    before = dump(empty.url)
    assert apply(empty.url) == []
    assert psql(empty.url, *migrations()).stderr == ""
    assert dump(empty.url) == before
    assert empty.job(row["id"]) == row


def test_two_at_the_same_moment_apply_each_file_once(empty: Database) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: apply(empty.url), range(3)))
    assert sorted(done) == [[], [], NAMES]


def test_psql_at_the_same_moment_waits_its_turn(empty: Database, by_migrate: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        by_psql = [pool.submit(psql, empty.url, *migrations()) for _ in range(2)]
        apply(empty.url)
    assert [done.result().stderr for done in by_psql] == ["", ""]
    assert dump(empty.url) == by_migrate


def test_psql_and_migrate_can_be_mixed(empty: Database, by_migrate: str) -> None:
    assert psql(empty.url, *migrations()[:2]).stderr == ""
    assert apply(empty.url) == NAMES[2:]
    assert dump(empty.url) == by_migrate


def test_a_file_applied_too_early_is_refused(empty: Database) -> None:
    for path in migrations()[1:]:
        with pytest.raises((psycopg.errors.UndefinedTable, psycopg.errors.RaiseException)):
            empty.connection.execute(path.read_bytes())
        empty.connection.rollback()


@pytest.mark.parametrize("table", ["video_jobs", "video_job_attempts", "video_job_events"])
def test_a_foreign_table_stops_it_with_a_sentence_and_is_unchanged(
    empty: Database, table: str
) -> None:
    """With psql too, which continues after an error by default."""
    empty.sql(f"create table public.{table} (id integer primary key, image_url text)")
    empty.sql(f"grant select on public.{table} to anon")
    before = dump(empty.url)
    with pytest.raises(psycopg.errors.RaiseException, match=f"public.{table} exists already"):
        apply(empty.url)
    done = psql(empty.url, *migrations())
    assert f"public.{table} exists already and is not from this project" in done.stderr
    assert dump(empty.url) == before


def test_a_database_of_the_first_version_stops_it_with_a_sentence(empty: Database) -> None:
    """Its tables have the same names, and functions with the same arguments answer otherwise."""
    empty.sql("create table public.video_jobs (id uuid primary key, submissions integer)")
    empty.sql("comment on table public.video_jobs is 'talking-head-worker: one row is one video.'")
    done = psql(empty.url, *migrations())
    assert "made by a version before 0.2" in done.stderr
    assert "drop table public.video_jobs" in done.stderr
    assert columns_of(empty) == {"id", "submissions"}


def columns_of(database: Database) -> set[str]:
    """The columns of video_jobs."""
    query = "select column_name as name from information_schema.columns where table_name = %s"
    return {str(row["name"]) for row in database.sql(query, "video_jobs")}


def test_the_command_says_what_it_did(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", empty.url)
    assert run("--dry-run").stdout.splitlines() == [f"missing: {name}" for name in NAMES]
    assert run().stdout.splitlines() == [f"applied: {name}" for name in NAMES]
    again = run()
    assert (again.exit_code, again.stdout) == (0, "The database is up to date.\n")


def test_the_command_without_a_database_is_no_failure() -> None:
    """As a release command it must not stop a deployment."""
    done = run()
    assert done.exit_code == 0
    assert "DATABASE_URL is not set" in done.stdout


def test_the_command_fails_with_a_sentence_and_without_a_traceback(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty.url)
    empty.sql("create table public.video_jobs (id integer)")
    done = run()
    assert done.exit_code == 1
    assert "not from this project" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_cannot_be_reached_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://postgres@127.0.0.1:1/none")
    done = run()
    assert done.exit_code == 1
    assert done.stderr.startswith("The database cannot be reached")
    assert "Traceback" not in done.stderr


def test_an_invalid_connection_string_is_refused_and_not_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It contains a password, and deployments log the output."""
    for url in ("postgres//u:hidden@h/d", "hidden", "postgresql://u:hidden@[h/d"):
        monkeypatch.setenv("DATABASE_URL", url)
        done = run()
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("DATABASE_URL is invalid; expected postgresql://")
        assert "hidden" not in done.stderr


def test_a_role_that_does_not_own_the_publication_is_told_what_to_do(empty: Database) -> None:
    with empty.connect(superuser=True) as admin:
        admin.execute("alter publication supabase_realtime owner to supabase_admin")
    with pytest.raises(psycopg.errors.RaiseException, match="may not change the publication"):
        apply(empty.url)
    empty.connection.execute("select 1 from public.video_jobs")


def test_a_bypassing_role_is_not_needed(empty: Database) -> None:
    """In older projects `postgres` may lack bypassrls; the rights of the owner are enough."""
    with empty.connect(superuser=True) as admin:
        admin.execute("create role plain_owner login createrole")
        try:
            admin.execute("grant anon, authenticated, service_role to plain_owner")
            admin.execute("grant usage, create on schema public to plain_owner")
            admin.execute("grant usage on schema auth, storage to plain_owner")
            admin.execute("alter publication supabase_realtime owner to plain_owner")
            admin.execute(
                "do $$ begin execute format('grant create on database %I to plain_owner',"
                " current_database()); end $$"
            )
            apply(empty.postgres.url(empty.name, user="plain_owner"))
            row = empty.role(
                "service_role", "insert into public.video_jobs default values returning id"
            )
            assert len(row) == 1
            events = empty.role("service_role", "select event from public.video_job_events")
            assert events == [{"event": "inserted"}]
        finally:
            admin.execute("drop owned by plain_owner cascade")
            admin.execute("drop role plain_owner")


@pytest.mark.parametrize(
    ("password", "escaped"),
    [("hid@den", "@ as %40"), ("hid/den", "/ as %2F"), ("h@id/den", "@ as %40 and / as %2F"),
     ("hid?d@en", "@ as %40"), ("hid%pen", "% as %25"), ("@hidden", "@ as %40"),
     ("hi@@den", "%40")],
)  # fmt: skip
def test_a_password_that_is_not_escaped_is_named_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, password: str, escaped: str
) -> None:
    url = f"postgresql://postgres:{password}@db.abc.supabase.co:5432/postgres?sslmode=require"
    monkeypatch.setenv("DATABASE_URL", url)
    done = run()
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("The password in DATABASE_URL contains ")
    assert escaped in done.stderr
    for part in re.split(r"[^a-z]+", password):
        assert len(part) < 3 or part not in done.stderr


@given(
    st.text(st.characters(codec="ascii", min_codepoint=32, exclude_characters="\x7f"), max_size=12)
)
def test_any_escaped_password_is_accepted_and_no_other_part_of_it_is_shown(text: str) -> None:
    good = f"postgresql://postgres:{quote(text, safe='')}@db.abc.supabase.co:5432/postgres?a=b@c"
    assert problem_of(good.removesuffix("?a=b@c")) is None
    unescaped = f"postgresql://postgres:{text}q7@z@db.abc.supabase.co:5432/postgres"
    said = problem_of(unescaped)
    assert said is not None
    assert "q7" not in said


def test_the_dashboards_placeholder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "DATABASE_URL", "postgresql://postgres:[YOUR-PASSWORD]@db.a.co:5432/postgres"
    )
    done = run()
    assert done.exit_code == 2
    assert "still holds [YOUR-PASSWORD]" in done.stderr


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ('FATAL: password authentication failed for user "postgres"', "refuses the password"),
        ("failed to resolve host 'h': [Errno -2] Name or service not known", "cannot be resolved"),
        ("could not translate host name", "session pooler"),
        ("Temporary failure in name resolution", "DNS does not answer"),
        ("connection timeout expired", "No connection within the time limit"),
        ("Network is unreachable", "no network route"),
        ("server does not support SSL, but SSL was required", "TLS failed"),
    ],
)
def test_each_reason_of_a_failed_connection_has_its_sentence(
    monkeypatch: pytest.MonkeyPatch, said: str, advice: str
) -> None:
    def fails(*_arguments: object, **_more: object) -> None:
        raise psycopg.OperationalError(said)

    monkeypatch.setattr(psycopg, "connect", fails)
    monkeypatch.setenv("DATABASE_URL", "postgresql://postgres:hidden@h:5432/postgres")
    done = run()
    assert done.exit_code == 1
    assert done.stderr.startswith("The database cannot be reached")
    assert advice in done.stderr


def test_each_file_is_recorded_with_its_hash(empty: Database) -> None:
    apply(empty.url)
    rows = empty.sql("select name, hash from public.video_job_migrations")
    assert {row["name"]: row["hash"] for row in rows} == dict(hashes())


def test_a_file_that_psql_applied_has_no_hash_and_is_accepted(empty: Database) -> None:
    assert psql(empty.url, *migrations()).stderr == ""
    rows = empty.sql("select hash from public.video_job_migrations")
    assert {row["hash"] for row in rows} == {None}
    assert apply(empty.url) == []
    assert apply(empty.url, again=True) == NAMES
    assert apply(empty.url) == []


def test_the_files_apply_again_after_a_text_column_was_dropped(empty: Database) -> None:
    """Postgres keeps a dropped column in its catalogs, under a name that no statement may use."""
    apply(empty.url)
    empty.sql("alter table public.video_jobs add column title text")
    empty.sql("alter table public.video_jobs drop column title")
    assert apply(empty.url, again=True) == NAMES


@pytest.mark.parametrize(
    "older",
    [
        "update public.video_job_migrations set hash = 'other' where name = '0002_guards'",
        "alter table public.video_job_migrations drop column hash",
    ],
)
def test_a_database_of_other_files_is_left_alone_with_a_sentence(
    empty: Database, monkeypatch: pytest.MonkeyPatch, older: str
) -> None:
    apply(empty.url)
    empty.sql(older)
    before = dump(empty.url)
    monkeypatch.setenv("DATABASE_URL", empty.url)
    for options in ([], ["--again"], ["--dry-run"]):
        done = run(*options)
        assert (done.exit_code, done.stdout) == (1, "")
        assert "made by other migration files than those of this version" in done.stderr
        assert 'run "drop table if exists public.video_job_migrations, ' in done.stderr
    assert dump(empty.url) == before


def test_the_advice_for_such_a_database_is_enough(empty: Database) -> None:
    apply(empty.url)
    empty.sql("update public.video_job_migrations set hash = 'other'")
    with pytest.raises(OtherSchema) as refused:
        apply(empty.url)
    (statement,) = re.findall(r'run "(drop table .*?)"', refused.value.message)
    empty.sql(statement)
    left = empty.sql("select tablename from pg_tables where tablename like 'video\\_job%%'")
    assert left == []
    assert apply(empty.url) == NAMES


def test_line_ends_of_a_file_do_not_change_its_hash(tmp_path: Path) -> None:
    """As git writes them on Windows."""
    unix, windows = tmp_path / "a.sql", tmp_path / "b.sql"
    unix.write_bytes(b"select 1;\nselect 2;\n")
    windows.write_bytes(b"select 1;\r\nselect 2;\r\n")
    assert hash_of(unix) == hash_of(windows)
