"""Which uploads are removed: never one that a live job needs, whatever names it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.postgres import Database
from tests.sql.storage import orphans, put
from tests.sql.test_object_names import addresses
from tests.sql.worker import Worker, by_hand, ended

KEEP = 7
OPEN = ("queued", "preparing", "submitted", "running")
ENDINGS = ("failed", "cancelled", "completed")


def row(
    database: Database, status: str, *, days: float = 0, image: str = "x", audio: str = "x"
) -> None:
    """A job in this state; if it has ended, some days ago."""
    job: UUID = database.insert(image_url=image, audio_url=audio)["id"]
    by_hand(
        database,
        "update public.video_jobs set status = %s, video_url = 'v', error_code = 'e',"
        " created_at = now() - interval '300 days', updated_at = now() - interval '300 days',"
        " completed_at = case when %s then now() - make_interval(secs => %s) end where id = %s",
        status, status in ENDINGS, days * 86_400, job,
    )  # fmt: skip


def empty(database: Database) -> None:
    for table in ("public.video_jobs", "storage.objects"):
        by_hand(database, f"delete from {table}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_never_anything_that_a_live_job_needs(database: Database, data: st.DataObject) -> None:
    """Some objects of any age, and jobs in any state that name them in any way."""
    empty(database)
    bucket = data.draw(st.sampled_from(["video-images", "video-audio", "inputs"]))
    names = [f"{uuid4()}/{letter} ü.jpg" for letter in "abcd"]
    ages = [data.draw(st.sampled_from([0.1, 2.0, 6.9, 7.1, 50.0])) for _ in names]
    for name, age in zip(names, ages, strict=True):
        put(database, bucket, name, age=timedelta(days=age))
    wanted: set[str] = set()
    for _ in range(data.draw(st.integers(0, 4))):
        name = data.draw(st.sampled_from(names))
        status = data.draw(st.sampled_from([*OPEN, *ENDINGS]))
        days = data.draw(st.sampled_from([0.0, 6.9, 7.1]))
        column = data.draw(st.sampled_from(["image", "audio"]))
        row(database, status, days=days, **{column: data.draw(addresses(bucket, name))})
        if status in OPEN or (status != "completed" and days < KEEP):
            wanted.add(name)
    removable = {n for n, age in zip(names, ages, strict=True) if age > KEEP} - wanted
    sizes = {"examine": data.draw(st.integers(1, 5)), "want": data.draw(st.integers(1, 5))}
    assert orphans(database, KEEP, **sizes) == {f"{bucket}/{name}" for name in removable}


def test_pages_reach_every_bucket_that_is_cleaned(database: Database) -> None:
    names = [f"{uuid4()}/{n}" for n in range(25)]
    for bucket in ("inputs", "video-audio", "video-images", "video-prepared", "results"):
        by_hand(
            database,
            "insert into storage.buckets (id, name) values ('results', 'results')"
            " on conflict do nothing",
        )
        put(database, bucket, *names)
    found = orphans(database, examine=10, want=3)
    cleaned = ("inputs", "video-audio", "video-images")
    assert found == {f"{bucket}/{name}" for bucket in cleaned for name in names}


def test_without_uploads_there_is_nothing_to_do(database: Database) -> None:
    assert orphans(database) == set()


def test_an_upload_of_today_stays_whatever_the_setting(database: Database) -> None:
    """Its row may be inserted in a moment."""
    put(database, "inputs", "a/now.jpg", age=timedelta(hours=23))
    assert orphans(database, 0) == set()


def test_a_replaced_file_is_as_young_as_its_replacement(database: Database) -> None:
    put(database, "inputs", "a/b.jpg")
    database.sql("update storage.objects set updated_at = now()")
    assert orphans(database) == set()


def test_a_folder_beyond_its_limit_is_emptied_after_a_day(database: Database) -> None:
    """Signed upload URLs are checked when they are made: many may be made before one is used."""
    crowded, kept = uuid4(), uuid4()
    put(database, "inputs", *(f"{crowded}/{n}" for n in range(101)), age=timedelta(days=2))
    put(database, "inputs", *(f"{kept}/{n}" for n in range(100)), age=timedelta(days=2))
    row(database, "queued", image=f"storage://inputs/{crowded}/7")
    found = orphans(database)
    assert found == {f"inputs/{crowded}/{n}" for n in range(101) if n != 7}


def test_a_cancelled_job_that_is_tried_again_keeps_its_files(
    database: Database, worker: Worker
) -> None:
    job = ended(database, worker, "failed")
    by_hand(
        database,
        "update public.video_jobs set image_url = 'storage://inputs/a/b',"
        " completed_at = now() - interval '8 days'",
    )
    put(database, "inputs", "a/b")
    assert orphans(database) == {"inputs/a/b"}
    database.sql("select * from public.retry_video_job_v1(%s)", job["id"])
    assert orphans(database) == set()


def test_the_look_reads_the_index_of_names_not_all_jobs(database: Database) -> None:
    """100,000 jobs must not be read for each page of uploads."""
    by_hand(
        database,
        "insert into public.video_jobs (image_url, audio_url, user_id) select"
        " 'storage://inputs/u/' || n, 'https://a.example/' || n, gen_random_uuid()"
        " from generate_series(1, 3000) n",
    )
    put(database, "inputs", *(f"u/{n}" for n in range(1, 3001)))
    by_hand(database, "analyze public.video_jobs, storage.objects")
    with database.connection.transaction():
        assert orphans(database) == set()
        read = database.row(
            "select seq_scan, idx_scan from pg_stat_xact_user_tables where relname = 'video_jobs'"
        )
    assert read["seq_scan"] == 0
    assert read["idx_scan"] >= 3000


@pytest.mark.parametrize(("status", "days", "gone"), [
    ("completed", 31, True), ("failed", 31, True), ("cancelled", 31, True), ("failed", 29, False),
    *((status, 31, False) for status in OPEN),
])  # fmt: skip
def test_only_jobs_that_ended_long_ago_are_deleted(
    database: Database, worker: Worker, status: str, days: float, gone: bool
) -> None:
    row(database, status, days=days)
    (answer,) = worker("prune_video_jobs_v1", p_keep_days=30, p_want=10)
    assert answer["prune_video_jobs_v1"] == (1 if gone else 0)
    assert len(database.sql("select id from public.video_jobs")) == (0 if gone else 1)


def test_a_job_with_an_open_submission_is_never_deleted(database: Database, worker: Worker) -> None:
    job = ended(database, worker, "cancelled")
    by_hand(database, "update public.video_jobs set completed_at = now() - interval '90 days'")
    by_hand(database, "update public.video_job_attempts set state = 'unknown'")
    (answer,) = worker("prune_video_jobs_v1", p_keep_days=30, p_want=10)
    assert answer["prune_video_jobs_v1"] == 0
    by_hand(database, "update public.video_job_attempts set state = 'lost'")
    (answer,) = worker("prune_video_jobs_v1", p_keep_days=30, p_want=10)
    assert answer["prune_video_jobs_v1"] == 1
    assert database.events(job["id"])[-1] == "deleted"
