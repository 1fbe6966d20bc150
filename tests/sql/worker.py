"""What the daemon does to the table, for tests: its functions with everyday arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from tests.postgres import Database, Row, call

ENDPOINT = "abc123"
LIMITS = {
    "p_max_in_flight": 100,
    "p_max_queued_runs": 100,
    "p_max_in_flight_per_user": 100,
    "p_max_submissions_per_user_per_day": 50,
}


@dataclass(slots=True, kw_only=True)
class Worker:
    """One owner of leases; `connection` is its own session or the test's."""

    connection: psycopg.Connection[DictRow]
    owner: UUID = field(default_factory=uuid4)

    def __call__(self, function: str, **arguments: object) -> list[Row]:
        return call(self.connection, function, **arguments)

    def claim(self, want: int = 1, *, holding: Sequence[UUID] | None = None, **limits: int) -> Any:
        return self(
            "claim_video_jobs_v1",
            p_owner=self.owner,
            p_want=want,
            p_lease_seconds=60,
            p_endpoint_id=ENDPOINT,
            p_holding=holding,
            **LIMITS | {f"p_{name}": value for name, value in limits.items()},
        )

    def claim_one(self) -> Row:
        (row,) = self.claim()
        return row

    def begin(self, job: Row, *, max_submissions: int = 3, **columns: object) -> list[Row]:
        return self(
            "begin_video_job_submission_v1",
            p_job_id=job["id"],
            p_attempt=job["attempt"],
            p_owner=self.owner,
            p_lease_seconds=60,
            p_max_submissions=max_submissions,
            p_endpoint_id=ENDPOINT,
            p_ttl_seconds=7200,
            p_template_hash="hash",
            p_plan={"expected_seconds": 100},
            p_columns={"frames": 81, **columns},
            p_input_objects=["o1"],
        )

    def record(self, job: Row, run_id: str) -> list[Row]:
        return self(
            "record_video_job_submission_v1",
            p_job_id=job["id"],
            p_attempt=job["attempt"],
            p_runpod_job_id=run_id,
        )

    def end(self, job: Row, status: str = "queued", **more: object) -> list[Row]:
        given = {
            "phase": "in_line",
            "phase_detail": None,
            "retry_seconds": 0,
            "submission": None,
            "raw_error": None,
            "error_code": None,
            "error_message": None,
            "columns": {},
        } | more
        return self(
            "end_video_job_claim_v1",
            p_job_id=job["id"],
            p_attempt=job["attempt"],
            p_owner=self.owner,
            p_status=status,
            **{f"p_{name}": value for name, value in given.items()},
        )

    def case(self, job_id: UUID) -> Any:
        rows = self("get_video_job_case_v1", p_job_id=job_id)
        return rows[0]["get_video_job_case_v1"] if rows else None

    def take_due(
        self, want: int = 100, *, everything: bool = False, after: UUID | None = None
    ) -> Any:
        rows = self(
            "take_due_video_job_submissions_v1",
            p_want=want,
            p_poll_seconds=30,
            p_all=everything,
            p_after=after,
        )
        return [row["take_due_video_job_submissions_v1"] for row in rows]

    def write(self, *changes: Mapping[str, object]) -> list[Row]:
        return self("write_video_job_changes_v1", p_changes=Jsonb(list(changes)))

    def change(self, job_id: UUID, **columns: object) -> Row:
        """Write columns of a row as the way back does, on what it is now; must take."""
        (written,) = self.write(change(self.case(job_id), job=columns))
        assert written["took"]
        return written["case"]["job"]

    def end_run(self, job_id: UUID, attempt: int, state: str, **columns: object) -> Row:
        """The end of a run, and with `columns` of its job."""
        part = {"attempt": attempt, "set": {"state": state}, "ended": True}
        ended = columns.get("status") in ("completed", "failed", "cancelled")
        data = change(
            self.case(job_id), job=columns or None, submissions=[part], completed=bool(ended)
        )
        (written,) = self.write(data)
        assert written["took"]
        return written["case"]

    def recover(self) -> list[Row]:
        return self("recover_video_jobs_v1")


def change(case: Any, **more: object) -> dict[str, object]:
    """A change that was decided on this case."""
    job, submissions = case["job"], case["submissions"]
    still_open = ("submitting", "unknown", "queued", "running")
    return {
        "job_id": job["id"] if job else submissions[0]["job_id"],
        "revision": job["revision"] if job else None,
        "states": {str(s["attempt"]): s["state"] for s in submissions if s["state"] in still_open},
        "job": None,
        "submissions": [],
        "completed": False,
        **more,
    }


def submitted(
    database: Database, worker: Worker, *, run_id: str | None = None, **columns: object
) -> Row:
    """A job whose run RunPod has accepted."""
    database.insert(**columns)
    job = worker.claim_one()
    assert worker.begin(job)
    assert worker.record(job, run_id or f"run-{job['id']}")
    return database.job(job["id"])


def ended(database: Database, worker: Worker, status: str) -> Row:
    """A job that ended after one run."""
    job = submitted(database, worker)
    columns: dict[str, object] = {"status": status, "phase": "done"}
    if status == "completed":
        columns |= {"video_url": "https://v.example/v.mp4", "progress": 100}
    if status == "failed":
        columns |= {"error_code": "run_failed", "error_message": "It broke."}
    worker.end_run(job["id"], job["attempt"], status, **columns)
    return database.job(job["id"])


def alter(database: Database, job_id: UUID, assignment: str) -> None:
    """Change any column of a row, which only the worker's own session may."""
    with database.connection.transaction():
        database.sql("select set_config('video_jobs.writer', 'worker', true)")
        database.sql(f"update public.video_jobs set {assignment} where id = %s", job_id)


def expire_lease(database: Database, job_id: UUID) -> None:
    """Let time pass for a row: its lease is over."""
    alter(database, job_id, "lease_expires_at = now() - interval '1 second'")


def age(database: Database, job_id: UUID, column: str, seconds: float) -> None:
    """Move an instant of a job's submissions into the past."""
    statement = f"update public.video_job_attempts set {column} = now() - make_interval(secs => %s)"
    database.sql(f"{statement} where job_id = %s", seconds, job_id)
