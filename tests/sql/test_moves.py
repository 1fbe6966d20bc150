"""Which moves a row may make, for every writer."""

from typing import Any

import psycopg
import pytest

from tests.postgres import Database
from tests.sql.worker import Worker, age, alter, ended, submitted

REFUSED = psycopg.errors.RaiseException
STATUSES = ("queued", "preparing", "submitted", "running", "completed", "failed", "cancelled")
OPEN = STATUSES[:4]
LEGAL = {
    "queued": {"preparing", "submitted", "running", "completed", "failed", "cancelled"},
    "preparing": {"queued", "submitted", "running", "completed", "failed", "cancelled"},
    "submitted": {"queued", "running", "completed", "failed", "cancelled"},
    "running": {"queued", "completed", "failed", "cancelled"},
    "completed": set(),
    "failed": {"queued"},
    "cancelled": {"queued"},
}


def in_status(database: Database, status: str) -> Any:
    """A job that was put into a status, with no submission on record."""
    job = database.insert()
    alter(database, job["id"], "video_url = 'v', error_code = 'run_failed'")
    path = [] if status == "queued" else ["preparing"]
    path += ["running"] if status == "running" else []
    path += [] if status in ("queued", "preparing", "running") else [status]
    for step in path:
        extra = ", attempt = 1, lease_expires_at = now()" if step == "preparing" else ""
        alter(database, job["id"], f"status = '{step}'{extra}")
    return database.job(job["id"])


def set_by(database: Database, writer: str, job_id: object, status: str) -> str:
    """The row's status after a writer set it; raises when it was refused."""
    with database.connection.transaction():
        database.sql("select set_config('video_jobs.writer', %s, true)", writer)
        row = database.row(
            "update public.video_jobs set status = %s where id = %s returning status",
            status,
            job_id,
        )
    return str(row["status"])


@pytest.mark.parametrize("before", STATUSES)
def test_the_worker_makes_legal_moves_only(database: Database, before: str) -> None:
    for after in STATUSES:
        if before == after:
            continue
        job = in_status(database, before)
        if after in LEGAL[before]:
            assert set_by(database, "worker", job["id"], after) == after
        else:
            with pytest.raises(REFUSED, match=rf"A job (that is|cannot go from) {before}"):
                set_by(database, "worker", job["id"], after)


@pytest.mark.parametrize("before", STATUSES)
def test_people_may_only_cancel_and_retry_by_the_status(database: Database, before: str) -> None:
    for after in STATUSES:
        if before == after or (after == "cancelled" and before in OPEN):
            continue
        job = in_status(database, before)
        if after == "queued" and before in ("failed", "cancelled"):
            assert set_by(database, "", job["id"], after) == after
        else:
            with pytest.raises(REFUSED, match=f"A job that is {before} cannot be set to {after}"):
                set_by(database, "", job["id"], after)


@pytest.mark.parametrize("how", ["cancel_requested = true", "status = 'cancelled'"])
def test_cancelling_a_waiting_job_ends_it_at_once(database: Database, how: str) -> None:
    job = database.insert()
    row = database.row(f"update public.video_jobs set {how} where id = %s returning *", job["id"])
    assert (row["status"], row["phase"], row["cancel_requested"]) == ("cancelled", "done", True)
    assert row["completed_at"] is not None


@pytest.mark.parametrize("how", ["cancel_requested = true", "status = 'cancelled'"])
@pytest.mark.parametrize("status", ["preparing", "submitted", "running"])
def test_cancelling_a_job_in_work_is_a_request(
    database: Database, worker: Worker, status: str, how: str
) -> None:
    """`cancelled` is written when it is certain that nothing runs any more."""
    if status == "preparing":
        database.insert()
        job = worker.claim_one()
    else:
        job = submitted(database, worker)
    if status == "running":
        worker.end_run(job["id"], 1, "running", status="running")
    row = database.row(f"update public.video_jobs set {how} where id = %s returning *", job["id"])
    assert (row["status"], row["phase"], row["cancel_requested"]) == (status, "cancelling", True)


@pytest.mark.parametrize("how", ["cancel_requested = true", "status = 'cancelled'"])
@pytest.mark.parametrize("status", ["preparing", "submitted", "running"])
def test_cancelling_a_job_that_nobody_works_on_ends_it_at_once(
    database: Database, status: str, how: str
) -> None:
    """No lease and no open submission: nothing can cost money any more."""
    job = in_status(database, status)
    row = database.row(f"update public.video_jobs set {how} where id = %s returning *", job["id"])
    assert (row["status"], row["phase"], row["cancel_requested"]) == ("cancelled", "done", True)
    assert row["completed_at"] is not None


def test_a_waiting_job_whose_old_run_may_live_waits_for_it(
    database: Database, worker: Worker
) -> None:
    job = submitted(database, worker)
    worker.change(job["id"], status="queued", phase="in_line")
    row = database.row(
        "update public.video_jobs set cancel_requested = true where id = %s returning *", job["id"]
    )
    assert (row["status"], row["phase"]) == ("queued", "cancelling")


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_cancel_that_comes_too_late_is_harmless(
    database: Database, worker: Worker, status: str
) -> None:
    job = ended(database, worker, status)
    statement = "update public.video_jobs set cancel_requested = true where id = %s returning id"
    assert database.sql(statement, job["id"]) == []
    assert database.job(job["id"]) == job


def test_a_cancel_is_not_undone(database: Database, worker: Worker) -> None:
    job = submitted(database, worker)
    database.sql("update public.video_jobs set cancel_requested = true where id = %s", job["id"])
    with pytest.raises(REFUSED, match="A cancel cannot be undone"):
        database.sql(
            "update public.video_jobs set cancel_requested = false where id = %s", job["id"]
        )


def test_cancelling_and_deleting_make_the_open_runs_due_at_once(
    database: Database, worker: Worker
) -> None:
    for statement in (
        "update public.video_jobs set cancel_requested = true where id = %s",
        "delete from public.video_jobs where id = %s",
    ):
        job = submitted(database, worker)
        age(database, job["id"], "next_poll_at", -300)
        assert worker.take_due() == []
        database.sql(statement, job["id"])
        assert [case["job_id"] for case in worker.take_due()] == [str(job["id"])]


INPUTS = {
    "image_url": "'x'",
    "audio_url": "'x'",
    "width": "800, height = 800",
    "quality": "'sd'",
    "prompt": "'x'",
    "negative_prompt": "'x'",
    "seed": "5",
    "steps": "5",
    "user_id": "gen_random_uuid()",
}


@pytest.mark.parametrize("column", INPUTS)
def test_inputs_are_fixed_from_the_claim_to_the_end(database: Database, column: str) -> None:
    statement = f"update public.video_jobs set {column} = {INPUTS[column]} where id = %s"
    for status in STATUSES:
        job = in_status(database, status)
        if status in ("queued", "failed", "cancelled"):
            database.sql(statement, job["id"])
            continue
        with pytest.raises(REFUSED, match=f"fixed once the worker has taken it .status {status}"):
            database.sql(statement, job["id"])


def test_inputs_stay_fixed_when_the_job_is_in_line_again(
    database: Database, worker: Worker
) -> None:
    """A submission of these inputs may have been made, and its video may still come."""
    database.insert()
    job = worker.claim_one()
    worker.release(job)
    assert database.job(job["id"])["status"] == "queued"
    with pytest.raises(REFUSED, match="inputs of a job are fixed"):
        database.sql("update public.video_jobs set prompt = 'x' where id = %s", job["id"])


def test_inputs_are_corrected_in_the_same_update_that_retries(
    database: Database, worker: Worker
) -> None:
    job = ended(database, worker, "failed")
    row = database.row(
        "update public.video_jobs set status = 'queued', audio_url = 'better' where id = %s"
        " returning *",
        job["id"],
    )
    assert (row["status"], row["audio_url"], row["error_code"]) == ("queued", "better", None)


def test_a_retry_resets_what_belongs_to_the_old_try_and_nothing_else(
    database: Database, worker: Worker
) -> None:
    failed = ended(database, worker, "failed")
    alter(
        database,
        failed["id"],
        "progress = 70, cost_usd = 0.5, warnings = '[{}]', seed_used = 4, crashes = 2,"
        " runpod_job_id = 'r', metadata = '{\"order\": 7}', priority = 3",
    )
    before = database.job(failed["id"])
    (after,) = database.sql("select * from public.retry_video_job_v1(%s)", failed["id"])
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "status", "phase", "phase_detail", "progress", "frames", "warnings", "seed_used",
        "error_code", "error_message", "runpod_job_id", "completed_at", "try_number", "crashes",
        "available_at", "updated_at", "revision",
    }  # fmt: skip
    assert (after["status"], after["phase"], after["progress"]) == ("queued", "in_line", 0)
    assert (after["try_number"], after["attempt"]) == (2, 1)
    assert worker.known(failed["id"]).submission_count == 0
    assert len(database.submissions(failed["id"])) == 1
    assert worker.claim_one()["attempt"] == 2


@pytest.mark.parametrize(
    "status", [name for name in STATUSES if name not in ("failed", "cancelled")]
)
def test_only_a_failed_or_cancelled_job_is_tried_again(database: Database, status: str) -> None:
    job = in_status(database, status)
    with pytest.raises(REFUSED, match=f"this one is {status}"):
        database.sql("select * from public.retry_video_job_v1(%s)", job["id"])


@pytest.mark.parametrize("state", ["submitting", "unknown", "queued", "running"])
def test_no_second_try_while_a_run_may_be_live(
    database: Database, worker: Worker, state: str
) -> None:
    job = ended(database, worker, "failed")
    database.sql("update public.video_job_attempts set state = %s", state)
    for statement in (
        "select * from public.retry_video_job_v1(%s)",
        "update public.video_jobs set status = 'queued' where id = %s",
    ):
        with pytest.raises(REFUSED, match="may still be live"):
            database.sql(statement, job["id"])


def test_an_id_that_has_submissions_is_not_used_again(database: Database, worker: Worker) -> None:
    """Otherwise the old run's video could land in the new job."""
    job = submitted(database, worker)
    database.sql("delete from public.video_jobs")
    with pytest.raises(REFUSED, match="belonged to an earlier job"):
        database.insert(id=job["id"])


def test_an_insert_that_is_cancelled_already_never_starts(
    database: Database, worker: Worker
) -> None:
    assert database.insert(cancel_requested=True)["status"] == "cancelled"
    assert worker.claim() == []


def test_progress_never_falls_within_a_try(database: Database, worker: Worker) -> None:
    job = submitted(database, worker)
    seen = [
        worker.change(job["id"], status="running", phase="generating", progress=value)["progress"]
        for value in (10, 40, 5, 41)
    ]
    assert seen == [10, 40, 40, 41]
    requeued = worker.end_run(job["id"], 1, "lost", status="queued", phase="in_line", progress=0)
    assert requeued["job"]["progress"] == 41


def test_identity_and_birth_never_change(database: Database) -> None:
    job = database.insert()
    for assignment in ("id = gen_random_uuid()", "created_at = now() - interval '1 day'"):
        with pytest.raises(REFUSED, match="never change"):
            database.sql(f"update public.video_jobs set {assignment} where id = %s", job["id"])


def test_what_people_may_change_at_any_time(database: Database, worker: Worker) -> None:
    job = submitted(database, worker)
    row = database.row(
        "update public.video_jobs set priority = 9, metadata = '{\"a\": 1}' where id = %s"
        " returning *",
        job["id"],
    )
    assert (row["priority"], row["metadata"], row["status"]) == (9, {"a": 1}, "submitted")


def test_an_ended_job_keeps_no_place_in_line_and_no_forecast(
    database: Database, worker: Worker
) -> None:
    job = database.insert()
    worker.refresh_queue()
    assert database.job(job["id"])["queue_position"] == 1
    alter(database, job["id"], "status = 'submitted', eta_at = now(), ending_code = 'x'")
    assert database.job(job["id"])["queue_position"] is None
    alter(database, job["id"], "status = 'completed', video_url = 'v'")
    row = database.job(job["id"])
    assert (row["eta_at"], row["ending_code"]) == (None, None)
