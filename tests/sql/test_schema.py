"""sql/schema.sql is what the migrations make."""

from devstack.postgres import Postgres
from tests.postgres import TEMPLATE
from tests.sql.schema import SCHEMA, dump


def test_the_schema_file_is_the_dump_of_a_migrated_database(postgres: Postgres) -> None:
    """`make schema` was run after the last change of a migration."""
    assert SCHEMA.read_text("utf-8") == dump(postgres.url(TEMPLATE))
