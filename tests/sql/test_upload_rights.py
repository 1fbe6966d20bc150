"""What a browser may do in the buckets for uploads, asked of Postgres as Storage asks it."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from devstack.postgres import Postgres
from devstack.supabase.database import bootstrap, migrate
from tests.postgres import TEMPLATE, Database
from tests.sql.storage import put

UPLOADS = ("video-images", "video-audio", "inputs")
DENIED = psycopg.errors.InsufficientPrivilege
INSERT = "insert into storage.objects (bucket_id, name) values (%s, %s)"


def allow(database: Database, most: int) -> None:
    database.sql("update public.video_job_buckets set max_objects_per_user = %s", most)


@pytest.fixture(autouse=True)
def _restored(database: Database) -> Iterator[None]:
    yield
    allow(database, 100)


def test_the_buckets_are_private_and_bounded(database: Database) -> None:
    """The bytes of a user are the number of his objects times the bucket's limit."""
    rows = database.sql("select * from storage.buckets where id = any(%s)", [*UPLOADS])
    assert {row["id"]: row["file_size_limit"] for row in rows} == {
        "video-images": 10 * 1024 * 1024,
        "video-audio": 50 * 1024 * 1024,
        "inputs": 50 * 1024 * 1024,
    }
    (prepared,) = database.sql("select * from storage.buckets where id = 'video-prepared'")
    assert not any(row["public"] for row in (*rows, prepared))
    types = {row["id"]: row["allowed_mime_types"] for row in rows}
    assert "image/svg+xml" not in types["video-images"]
    assert "audio/*" in types["video-audio"]
    # What a browser says of a HEIC picture that its system does not know.
    unknown = "application/octet-stream"
    assert all(unknown in types[bucket] for bucket in ("video-images", "video-audio"))


@pytest.mark.parametrize("bucket", UPLOADS)
def test_a_user_reads_writes_and_deletes_in_his_own_folder_alone(
    database: Database, bucket: str
) -> None:
    me, other = uuid4(), uuid4()
    put(database, bucket, f"{other}/theirs.jpg")
    database.role("authenticated", INSERT, bucket, f"{me}/mine.jpg", user=me)
    for name in (f"{other}/x.jpg", "loose.jpg", f"x/{me}/a.jpg"):
        with pytest.raises(DENIED):
            database.role("authenticated", INSERT, bucket, name, user=me)
    seen = database.role("authenticated", "select name from storage.objects", user=me)
    assert [row["name"] for row in seen] == [f"{me}/mine.jpg"]
    change = "update storage.objects set name = name || '2' returning name"
    assert database.role("authenticated", change, user=me) == []
    with pytest.raises(DENIED):
        database.role("anon", INSERT, bucket, f"{me}/a.jpg", user=me)


def test_prepared_inputs_are_closed_to_every_browser(database: Database) -> None:
    me = uuid4()
    put(database, "video-prepared", f"{me}/a.jpg")
    assert database.role("authenticated", "select name from storage.objects", user=me) == []
    for name in (f"{me}/b.jpg", "inputs/b.jpg"):
        with pytest.raises(DENIED):
            database.role("authenticated", INSERT, "video-prepared", name, user=me)


def test_a_full_folder_takes_nothing_more_until_something_goes(database: Database) -> None:
    """The limit is for each user and bucket, and comes from one table."""
    me, other = uuid4(), uuid4()
    allow(database, 2)
    # Neighbours in the order of names: neither counts as mine.
    put(database, "video-images", f"{me}", f"{me}0/a", f"{str(me)[:-1]}/a", f"{other}/a")
    for name in ("a", "b"):
        database.role("authenticated", INSERT, "video-images", f"{me}/{name}", user=me)
    with pytest.raises(DENIED):
        database.role("authenticated", INSERT, "video-images", f"{me}/c", user=me)
    database.role("authenticated", INSERT, "video-audio", f"{me}/c", user=me)
    database.role("authenticated", INSERT, "video-images", f"{other}/c", user=other)
    with database.connection.transaction():
        database.sql("select set_config('storage.allow_delete_query', 'true', true)")
        database.sql("delete from storage.objects where name = %s", f"{me}/a")
    database.role("authenticated", INSERT, "video-images", f"{me}/c", user=me)


def test_what_is_not_listed_is_refused(database: Database) -> None:
    """A bucket without a row has no limit to compare with; a call without a user no folder."""
    ask = "select public.video_job_may_upload_v1(%s) as may"
    me = uuid4()
    answers = [
        database.role("authenticated", ask, bucket, user=user)[0]["may"]
        for bucket, user in (("video-images", me), ("elsewhere", me), ("video-images", None))
    ]
    assert answers == [True, False, False]


def test_a_bucket_that_was_there_already_is_not_cleaned(postgres: Postgres) -> None:
    """It may hold other files of the app; an operator may say that it does not."""
    postgres.create_database("older")
    try:
        bootstrap(postgres, "older")
        with psycopg.connect(postgres.url("older"), autocommit=True) as connection:
            connection.execute("insert into storage.buckets (id, name) values ('inputs', 'inputs')")
            migrate(postgres, "older")
            migrate(postgres, "older")
            rows = connection.execute("select id, clean from public.video_job_buckets").fetchall()
    finally:
        postgres.drop_database("older")
    assert dict(rows) == {"inputs": False, "video-images": True, "video-audio": True}
    with psycopg.connect(postgres.url(TEMPLATE)) as connection:
        rows = connection.execute("select id, clean from public.video_job_buckets").fetchall()
    assert dict(rows) == dict.fromkeys(UPLOADS, True)
