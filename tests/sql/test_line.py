"""Nobody makes the line so long that claims grow slow."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from tests.postgres import Database

INSERT = """
insert into public.video_jobs (user_id, image_url) select %s, 'i' from generate_series(1, %s)
"""


def test_a_user_may_have_two_hundred_jobs_waiting_and_no_more(database: Database) -> None:
    user = uuid4()
    database.role("authenticated", INSERT, user, 200, user=user)
    with pytest.raises(psycopg.errors.RaiseException, match="200 jobs waiting"):
        database.role("authenticated", INSERT, user, 1, user=user)
    other = uuid4()
    database.role("authenticated", INSERT, other, 1, user=other)


def test_a_service_key_may_insert_as_many_as_it_likes(database: Database) -> None:
    user = uuid4()
    database.role("service_role", INSERT, user, 250)
