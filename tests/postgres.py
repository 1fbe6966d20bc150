"""Fixtures: one Postgres for each test process, and an empty migrated database for each test."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from devstack.postgres import SUPERUSER, Postgres
from devstack.supabase.database import prepare

TEMPLATE = "migrated"
SHARED = "shared"
# Sessions that a test forgot would hold locks; triggers would write new rows.
EMPTY = b"""
select pg_terminate_backend(pid) from pg_stat_activity
  where datname = current_database() and pid <> pg_backend_pid();
set session_replication_role = replica;
delete from public.video_jobs;
delete from public.video_job_attempts;
delete from public.video_job_events;
delete from public.video_job_users;
delete from public.video_job_stale_users;
delete from public.video_job_turns;
delete from public.video_job_limits;
insert into public.video_job_limits default values;
delete from storage.objects;
"""
Row = dict[str, Any]
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One migrated database; `sql` speaks as the operator, `role` as somebody else."""

    postgres: Postgres
    name: str
    connection: psycopg.Connection[DictRow]

    @property
    def url(self) -> str:
        return self.postgres.url(self.name)

    def connect(self, *, superuser: bool = False) -> psycopg.Connection[DictRow]:
        """Another session, for what two do at the same time."""
        user = SUPERUSER if superuser else "postgres"
        url = self.postgres.url(self.name, user=user)
        return psycopg.connect(url, autocommit=True, row_factory=dict_row)

    def sql(self, statement: str, *values: object) -> list[Row]:
        """Run one statement as the owner of the tables, as the dashboard does."""
        return _run(self.connection, statement, values)

    def row(self, statement: str, *values: object) -> Row:
        """The one row that a statement answers with."""
        (row,) = self.sql(statement, *values)
        return row

    def role(
        self, role: str, statement: str, *values: object, user: UUID | None = None
    ) -> list[Row]:
        """Run one statement as PostgREST does for a token of this role and user."""
        claims: dict[str, object] = {"role": role}
        if user is not None:
            claims["sub"] = str(user)
        with self.connection.transaction():
            self.connection.execute(
                "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)",
                [role, json.dumps(claims)],
            )
            return _run(self.connection, statement, values)

    def call(self, function: str, **arguments: object) -> list[Row]:
        """Call a worker function as the service role, by the names of its parameters."""
        return call(self.connection, function, **arguments)

    def insert(self, **columns: object) -> Row:
        """A new job; inputs that nobody reads are filled in."""
        columns = {
            "image_url": "https://a.example/i.jpg",
            "audio_url": "https://a.example/a.mp3",
        } | columns
        names = ", ".join(columns)
        marks = ", ".join(["%s"] * len(columns))
        statement = f"insert into public.video_jobs ({names}) values ({marks}) returning *"
        return self.row(statement, *columns.values())

    def job(self, job_id: object) -> Row:
        return self.row("select * from public.video_jobs where id = %s", job_id)

    def submissions(self, job_id: object) -> list[Row]:
        return self.sql(
            "select * from public.video_job_attempts where job_id = %s order by attempt", job_id
        )

    def events(self, job_id: object) -> list[str]:
        """The job's timeline, by the events' names."""
        rows = self.sql(
            "select event from public.video_job_events where job_id = %s order by id", job_id
        )
        return [row["event"] for row in rows]


def call(connection: psycopg.Connection[DictRow], function: str, **arguments: object) -> list[Row]:
    """Call a worker function in one transaction as the service role."""
    names = ", ".join(f"{name} => %s" for name in arguments)
    with connection.transaction():
        connection.execute("set local role service_role")
        return _run(connection, f"select * from public.{function}({names})", arguments.values())


def _run(
    connection: psycopg.Connection[DictRow], statement: str, values: Iterable[object]
) -> list[Row]:
    adapted = [Jsonb(one) if isinstance(one, dict) else one for one in values]
    cursor = connection.execute(statement.encode(), adapted or None)
    # A row may have no column (`select from`), and then nothing is described.
    return cursor.fetchall() if cursor.rownumber is not None else []


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for this test process, with a migrated database to copy."""
    server = Postgres()
    server.start()
    try:
        prepare(server, TEMPLATE)
        yield server
    finally:
        server.remove()


@pytest.fixture
def new_database(postgres: Postgres) -> Iterator[Callable[[str], Database]]:
    """Makes databases from a template; they are dropped after the test."""
    opened: list[Database] = []

    def make(template: str) -> Database:
        name = f"test_{next(_numbers)}_{uuid4().hex[:6]}"
        postgres.create_database(name, template=template)
        connection = psycopg.connect(postgres.url(name), autocommit=True, row_factory=dict_row)
        opened.append(Database(postgres=postgres, name=name, connection=connection))
        return opened[-1]

    yield make
    for database in opened:
        database.connection.close()
        postgres.drop_database(database.name)


@pytest.fixture(scope="session")
def _shared(postgres: Postgres) -> Iterator[psycopg.Connection[DictRow]]:
    postgres.create_database(SHARED, template=TEMPLATE)
    url = postgres.url(SHARED, user=SUPERUSER)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as admin:
        yield admin


@pytest.fixture
def database(postgres: Postgres, _shared: psycopg.Connection[DictRow]) -> Iterator[Database]:
    """A migrated database without rows: emptied after each test, which costs less than a copy."""
    url = postgres.url(SHARED)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        yield Database(postgres=postgres, name=SHARED, connection=connection)
    _shared.execute(EMPTY)
