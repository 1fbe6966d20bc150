"""sql/expected.json is what `doctor` finds in a project that has just been migrated."""

from devstack.postgres import Postgres
from tests.postgres import TEMPLATE
from tests.sql.schema import EXPECTED, expected


def test_the_file_is_the_look_at_a_migrated_database(postgres: Postgres) -> None:
    """`make schema` was run after the last change of a migration."""
    assert EXPECTED.read_text("utf-8") == expected(postgres.url(TEMPLATE))
