"""A daemon's stand-in for the tests of the SQL."""

import pytest

from tests.postgres import Database
from tests.sql.worker import Worker


@pytest.fixture
def worker(database: Database) -> Worker:
    """A worker that shares the test's session."""
    return Worker(connection=database.connection)
