"""Objects of Storage for the tests of the SQL: only their rows, since nobody reads the files."""

from __future__ import annotations

from datetime import timedelta

from tests.postgres import Database

OLD = timedelta(days=100)


def put(database: Database, bucket: str, *names: str, age: timedelta = OLD) -> None:
    """Objects that were uploaded some time ago, by the database's clock."""
    database.sql(
        "insert into storage.objects (bucket_id, name, created_at, updated_at)"
        " select %s, n, now() - %s, now() - %s from unnest(%s::text[]) n",
        bucket, age, age, list(names),
    )  # fmt: skip


def orphans(
    database: Database, keep_days: int = 7, *, examine: int = 1000, want: int = 1000
) -> set[str]:
    """Every orphaned upload as `bucket/path`, page by page as the worker asks."""
    found: list[str] = []
    after: str | None = None
    while True:
        (row,) = database.call(
            "orphaned_video_job_uploads_v1",
            p_keep_days=keep_days, p_after=after, p_examine=examine, p_want=want,
        )  # fmt: skip
        page = row["orphaned_video_job_uploads_v1"]
        assert len(page["paths"]) <= want
        found += [f"{page['bucket']}/{path}" for path in page["paths"]]
        after = page.get("after")
        if after is None:
            assert len(found) == len(set(found))
            return set(found)


def unneeded(
    database: Database,
    keep_hours: float = 24,
    *,
    bucket: str = "video-prepared",
    examine: int = 1000,
    want: int = 1000,
) -> set[str]:
    """The paths of all prepared inputs that may go."""
    found: list[str] = []
    after: str | None = None
    while True:
        (row,) = database.call(
            "unneeded_video_job_inputs_v1",
            p_bucket=bucket, p_keep_hours=keep_hours, p_after=after, p_examine=examine, p_want=want,
        )  # fmt: skip
        page = row["unneeded_video_job_inputs_v1"]
        found += page["paths"]
        after = page.get("after")
        if after is None:
            assert len(found) == len(set(found))
            return set(found)
