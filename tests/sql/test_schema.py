"""sql/schema.sql is what the migrations make."""

from collections.abc import Iterator

import pytest

from devstack.postgres import Postgres
from devstack.supabase.database import prepare
from tests.sql.schema import SCHEMA, dump


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server of its own."""
    server = Postgres()
    server.start()
    yield server
    server.remove()


def test_the_schema_file_is_the_dump_of_a_migrated_database(postgres: Postgres) -> None:
    """`make schema` was run after the last change of a migration."""
    assert SCHEMA.read_text("utf-8") == dump(prepare(postgres, "migrated"))
