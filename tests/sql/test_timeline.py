"""Afterwards anybody can tell what happened to a job, when and why."""

import pytest

from tests.postgres import Database
from tests.sql.worker import Worker, ended, expire_lease, submitted


def test_a_whole_life_leaves_a_line_for_each_step(database: Database, worker: Worker) -> None:
    job = database.insert()
    worker.release(worker.claim_one(), detail="The store is away.")
    claim = worker.claim_one()
    worker.begin(claim)
    worker.record(claim, "run-1")
    worker.change(job["id"], status="running", phase="loading_models")
    worker.change(job["id"], phase="generating", progress=30)
    worker.change(job["id"], progress=31)
    worker.end_run(job["id"], 2, "failed", status="failed", phase="done", error_code="run_failed")
    database.sql(
        "update public.video_jobs set status = 'queued', prompt = 'again' where id = %s", job["id"]
    )
    database.sql("delete from public.video_jobs")
    assert database.events(job["id"]) == [
        "inserted", "claimed", "released", "claimed", "submission_submitting",
        "submission_queued", "submitted", "running", "generating", "submission_failed", "failed",
        "retried", "deleted",
    ]  # fmt: skip


def test_each_line_says_which_try_and_attempt_and_why(database: Database, worker: Worker) -> None:
    job = ended(database, worker, "failed")
    row = database.row(
        "select * from public.video_job_events where job_id = %s and event = 'failed'", job["id"]
    )
    assert (row["try_number"], row["attempt"], row["status"]) == (1, 1, "failed")
    assert row["detail"] == {
        "error_code": "run_failed",
        "error_message": "It broke.",
        "runpod_job_id": f"run-{job['id']}",
    }


def test_a_crash_a_cancel_and_corrected_inputs_are_told_apart(
    database: Database, worker: Worker
) -> None:
    job = database.insert()
    database.sql("update public.video_jobs set prompt = 'new' where id = %s", job["id"])
    worker.claim_one()
    expire_lease(database, job["id"])
    worker.recover()
    worker.claim_one()
    database.sql("update public.video_jobs set cancel_requested = true where id = %s", job["id"])
    assert database.events(job["id"]) == [
        "inserted", "inputs_changed", "claimed", "lease_expired", "claimed", "cancel_requested",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "state",
    ["unknown", "refused", "running", "completed", "failed", "cancelled", "lost", "expired"],
)
def test_each_state_of_a_submission_leaves_a_line(
    database: Database, worker: Worker, state: str
) -> None:
    job = submitted(database, worker)
    before = database.events(job["id"])
    for _ in range(2):
        worker.end_run(job["id"], job["attempt"], state)
    assert database.events(job["id"]) == [*before, f"submission_{state}"]


def test_nothing_worth_telling_writes_no_line(database: Database, worker: Worker) -> None:
    """Progress and lease renewals come by the thousand."""
    job = submitted(database, worker)
    before = database.events(job["id"])
    worker.change(job["id"], progress=3)
    worker.change(job["id"], phase_detail="still waiting")
    assert database.events(job["id"]) == before
