"""Which prepared inputs are removed: by the database's clock, never one that a run may need."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.postgres import Database, Row
from tests.sql.storage import put, unneeded
from tests.sql.worker import Worker, by_hand

BUCKET = "video-prepared"
HOUR = timedelta(hours=1)
OPEN = ("submitting", "unknown", "queued", "running")
CLOSED = ("refused", "completed", "failed", "cancelled", "lost", "expired")


def submission(
    database: Database, worker: Worker, *, state: str = "running", age: timedelta = 10 * HOUR
) -> tuple[Row, str]:
    """A claimed job with a submission and its prepared image; both were made some time ago."""
    database.insert()
    job = worker.claim_one()
    name = f"inputs/{job['id']}/{job['attempt']}/0123/image.jpg"
    put(database, BUCKET, name, age=age)
    assert worker.begin(job)
    by_hand(
        database,
        "update public.video_job_attempts set state = %s, input_objects = %s,"
        " created_at = now() - %s, ended_at = case when %s then now() - %s end where job_id = %s",
        state, [f"{BUCKET}/{name}"], age, state in CLOSED, age, job["id"],
    )  # fmt: skip
    return job, name


def end(database: Database, job: Row, status: str = "cancelled") -> None:
    by_hand(
        database,
        "update public.video_jobs set status = %s, error_code = 'e', video_url = 'v',"
        " lease_owner = null, lease_expires_at = null where id = %s",
        status, job["id"],
    )  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    state=st.sampled_from([*OPEN, *CLOSED]),
    status=st.sampled_from([
        "preparing", "submitted", "running", "queued", "completed", "failed", "cancelled",
        "deleted", "tried again",
    ]),
    hours=st.sampled_from([0.0, 0.5, 30.0, 2000.0]),
    keep=st.sampled_from([0.0, 1.0, 1000.0]),
)  # fmt: skip
def test_never_anything_that_a_live_run_needs(
    database: Database, worker: Worker, state: str, status: str, hours: float, keep: float
) -> None:
    """Whatever the retention and the age: the submission and its try must have ended."""
    for table in ("public.video_job_attempts", "public.video_jobs", "storage.objects"):
        by_hand(database, f"delete from {table}")
    job, name = submission(database, worker, state=state, age=hours * HOUR)
    if status == "deleted":
        by_hand(database, "delete from public.video_jobs")
    elif status == "tried again":
        end(database, job, "queued")
        by_hand(database, "update public.video_jobs set try_number = try_number + 1")
    else:
        end(database, job, status)
    over = status in ("completed", "failed", "cancelled", "deleted", "tried again")
    expected = {name} if state in CLOSED and over and hours >= keep else set()
    assert unneeded(database, keep) == expected


def test_retention_zero_deletes_nothing_of_a_live_run(database: Database, worker: Worker) -> None:
    job, name = submission(database, worker, state="running", age=500 * HOUR)
    assert unneeded(database, 0) == set()
    by_hand(database, "delete from public.video_jobs where id = %s", job["id"])
    assert unneeded(database, 0) == set()
    by_hand(database, "update public.video_job_attempts set state = 'failed', ended_at = now()")
    assert unneeded(database, 0) == {name}


def test_a_claim_at_work_keeps_what_it_has_uploaded(database: Database, worker: Worker) -> None:
    """Its submission is not committed yet, so nothing names the objects."""
    database.insert()
    job = worker.claim_one()
    name = f"inputs/{job['id']}/{job['attempt']}/0123/image.jpg"
    put(database, BUCKET, name, age=1000 * HOUR)
    assert unneeded(database, 0) == set()
    worker.release(job)
    assert unneeded(database, 0) == {name}


@pytest.mark.parametrize(("hours", "gone"), [(23, False), (25, True)])
def test_what_no_submission_names_goes_when_it_is_a_day_old(
    database: Database, hours: int, gone: bool
) -> None:
    """Whatever the retention: the row or its submission may be committed in a moment."""
    name = "inputs/11111111-1111-1111-1111-111111111111/3/0123/audio.flac"
    put(database, BUCKET, name, age=hours * HOUR)
    assert unneeded(database, 0) == ({name} if gone else set())
    assert unneeded(database, 1000) == set()


def test_a_second_copy_under_the_same_attempt_is_of_no_submission(
    database: Database, worker: Worker
) -> None:
    """A claim whose answer was lost is handed out again, and prepared again."""
    job, name = submission(database, worker, state="running")
    copy = name.replace("0123", "4567")
    put(database, BUCKET, copy, age=48 * HOUR)
    end(database, job, "running")
    assert unneeded(database, 0) == {copy}


def test_objects_that_are_not_ours_stay(database: Database) -> None:
    put(
        database, BUCKET, "doctor/1.png", "inputs/readme.txt", "inputs/x/1/a.jpg", "inputs/",
        "inputs/11111111-1111-1111-1111-111111111111/a.jpg", "zzz",
    )  # fmt: skip
    put(database, "inputs", "inputs/11111111-1111-1111-1111-111111111111/3/0/audio.flac")
    assert unneeded(database, 0) == set()


def test_pages_reach_everything(database: Database) -> None:
    names = [f"inputs/11111111-1111-1111-1111-111111111111/{n}/0/a.flac" for n in range(1, 24)]
    put(database, BUCKET, *names)
    for examine, want in ((5, 2), (5, 100), (100, 3), (23, 23)):
        assert unneeded(database, examine=examine, want=want) == set(names)
