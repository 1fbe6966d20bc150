"""sql/schema.sql and sql/expected.json are what the migrations make."""

from collections.abc import Iterator

import pytest

from devstack.postgres import Postgres
from devstack.supabase.database import prepare
from tests.sql.schema import EXPECTED, SCHEMA, dump, expected


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server of its own."""
    server = Postgres()
    server.start()
    yield server
    server.remove()


def test_the_schema_files_are_those_of_a_migrated_database(postgres: Postgres) -> None:
    """`make schema` was run after the last change of a migration."""
    url = prepare(postgres, "migrated")
    assert SCHEMA.read_text("utf-8") == dump(url)
    assert EXPECTED.read_text("utf-8") == expected(url)
