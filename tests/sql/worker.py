"""What the daemon does to the table, for tests: its functions, and the real decide() between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from tests.harness import POLICY
from tests.postgres import Database, Row, call
from worker.jobs.change import Decision
from worker.jobs.events import (
    Accepted,
    Event,
    OutcomeUnknown,
    Refused,
    Rejected,
    Released,
    Reviewed,
)
from worker.jobs.job import Case
from worker.jobs.lifecycle import decide
from worker.jobs.waiting import UserLimits, sentences

ENDPOINT = "abc123"
LIMITS = {
    "p_max_in_flight": 100,
    "p_max_queued_runs": 100,
    "p_max_preparing": 100,
}
USER_LIMITS = UserLimits(
    max_in_flight_per_user=100,
    max_submissions_per_user_per_day=50,
    max_failed_preparations_per_user_per_hour=10,
    max_rows_per_user_per_day=200,
)


@dataclass(slots=True, kw_only=True)
class Worker:
    """One owner of leases; `connection` is its own session or the test's.

    `crowded`: others write in the same moment, so that a change may have to be decided again.
    """

    connection: psycopg.Connection[DictRow]
    owner: UUID = field(default_factory=uuid4)
    crowded: bool = False

    def __call__(self, function: str, **arguments: object) -> list[Row]:
        return call(self.connection, function, **arguments)

    def claim(
        self, want: int = 1, *, holding: Sequence[UUID] | None = None, **limits: int
    ) -> list[Row]:
        """Claim rows; returns them as they are now. Limits of users are written first."""
        per_user = USER_LIMITS.as_row()
        per_user |= {name: limits.pop(name) for name in list(limits) if name in per_user}
        self("set_video_job_limits_v1", p_limits=per_user)
        rows = self(
            "claim_video_jobs_v1",
            p_owner=self.owner,
            p_want=want,
            p_lease_seconds=60,
            p_endpoint_id=ENDPOINT,
            p_holding=holding,
            **LIMITS | {f"p_{name}": value for name, value in limits.items()},
        )
        return [_row(row["claim_video_jobs_v1"]["job"]) for row in rows]

    def refresh_queue(self, places: int = 100) -> int:
        """What a sweep writes for people; returns how many rows changed."""
        (row,) = self(
            "refresh_video_job_queue_v1", p_places=places, p_sentences=dict(sentences(USER_LIMITS))
        )
        changed: int = row["refresh_video_job_queue_v1"]
        return changed

    def claim_one(self) -> Row:
        (row,) = self.claim()
        return row

    def begin(
        self,
        job: Row,
        *,
        max_submissions: int = 3,
        max_in_flight: int = 100,
        max_queued_runs: int = 100,
        **columns: object,
    ) -> list[Row]:
        """Commit a submission; returns the row as it is now, or nothing."""
        rows = self(
            "begin_video_job_submission_v1",
            p_job_id=job["id"],
            p_attempt=job["attempt"],
            p_owner=self.owner,
            p_lease_seconds=60,
            p_max_submissions=max_submissions,
            p_endpoint_id=ENDPOINT,
            p_max_in_flight=max_in_flight,
            p_max_queued_runs=max_queued_runs,
            p_ttl_seconds=7200,
            p_template_hash="hash",
            p_plan={"expected_seconds": 100},
            p_columns={"frames": 81, **columns},
            p_input_objects=["o1"],
        )
        answers = [row["begin_video_job_submission_v1"] for row in rows]
        return [_row(answer["job"]) for answer in answers if answer.get("room") is not False]

    def record(self, job: Row, run_id: str) -> Decision:
        """RunPod, or a webhook, named the run."""
        return self.happen(job["id"], Accepted(attempt=job["attempt"], run_id=run_id))

    def refuse(self, job: Row, *, retry_seconds: float = 0.0, code: str | None = None) -> Decision:
        """Nothing was sent, or RunPod did not take it."""
        event = Refused(attempt=job["attempt"], reason="no", retry_seconds=retry_seconds, code=code)
        return self.happen(job["id"], event)

    def doubt(self, job: Row) -> Decision:
        """The answer to the POST was lost."""
        event = OutcomeUnknown(attempt=job["attempt"], reason="read timeout")
        return self.happen(job["id"], event)

    def release(
        self, job: Row, *, retry_seconds: float = 0.0, detail: str | None = None
    ) -> Decision:
        """The claim ends with nothing sent."""
        event = Released(attempt=job["attempt"], retry_seconds=retry_seconds, detail=detail)
        return self.happen(job["id"], event)

    def reject(self, job: Row, code: str = "audio_missing") -> Decision:
        """The claimed job can never succeed."""
        event = Rejected(attempt=job["attempt"], code=code, message="No.")
        return self.happen(job["id"], event)

    def recover(self) -> list[Decision]:
        """One sweep: what is stranded is reviewed."""
        return [self.happen(job_id, Reviewed()) for job_id in self.stranded()]

    def stranded(self, want: int = 100, *, after: UUID | None = None) -> list[UUID]:
        """The ids of the cases that no poll brings up."""
        rows = self("stranded_video_jobs_v1", p_want=want, p_after=after)
        return [UUID(row["stranded_video_jobs_v1"]["job_id"]) for row in rows]

    def happen(self, job_id: UUID, event: Event) -> Decision:
        """Something happens: decided and written as the daemon does; it must take."""
        for _ in range(50 if self.crowded else 1):
            decision = decide(self.known(job_id), event, POLICY)
            if decision.change.empty:
                return decision
            (written,) = self.write(decision.change.as_json())
            if written["took"]:
                return decision
        raise AssertionError(f"The change never took; the case is {written['case']}")

    def known(self, job_id: UUID) -> Case:
        """The case as the daemon reads it; empty when neither row nor submissions exist."""
        found = self.case(job_id) or {"job": None, "submissions": []}
        return Case.from_json(str(job_id), json.loads(json.dumps(found, default=str)))

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
        """Write columns of a row on what it is now; must take."""
        (written,) = self.write(change(self.case(job_id), job=columns))
        assert written["took"]
        return written["case"]["job"]

    def end_run(self, job_id: UUID, attempt: int, state: str, **columns: object) -> Row:
        """The end of a run, and with `columns` of its job, written as it is."""
        part = {"attempt": attempt, "set": {"state": state}, "instants": {"ended_at": 0}}
        ended = columns.get("status") in ("completed", "failed", "cancelled")
        data = change(
            self.case(job_id),
            job=columns,
            submissions=[part],
            job_instants={"completed_at": 0} if ended else {},
        )
        (written,) = self.write(data)
        assert written["took"]
        return written["case"]


def _row(job: Mapping[str, Any]) -> Row:
    """A row as JSON, with its ids as the driver would give them."""
    ids = {name: job[name] and UUID(job[name]) for name in ("id", "user_id", "lease_owner")}
    return {**job, **ids}


def change(case: Any, **more: object) -> dict[str, object]:
    """A change that was decided on this case."""
    job, submissions = case["job"], case["submissions"]
    still_open = ("submitting", "unknown", "queued", "running")
    return {
        "job_id": job["id"] if job else submissions[0]["job_id"],
        "revision": job["revision"] if job else None,
        "states": {str(s["attempt"]): s["state"] for s in submissions if s["state"] in still_open},
        "job": {},
        "job_instants": {},
        "submissions": [],
        **more,
    }


def submitted(
    database: Database, worker: Worker, *, run_id: str | None = None, **columns: object
) -> Row:
    """A job whose run RunPod has accepted."""
    database.insert(**columns)
    job = worker.claim_one()
    assert worker.begin(job)
    worker.record(job, run_id or f"run-{job['id']}")
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


def by_hand(database: Database, statement: str, *values: object) -> None:
    """What a superuser does with all triggers off."""
    with database.connect(superuser=True) as admin:
        admin.execute("set session_replication_role = replica")
        admin.execute(statement.encode(), values)


def expire_lease(database: Database, job_id: UUID) -> None:
    """Let time pass for a row: its lease is over."""
    alter(database, job_id, "lease_expires_at = now() - interval '1 second'")


def age(database: Database, job_id: UUID, column: str, seconds: float) -> None:
    """Move an instant of a job's submissions into the past."""
    statement = f"update public.video_job_attempts set {column} = now() - make_interval(secs => %s)"
    database.sql(f"{statement} where job_id = %s", seconds, job_id)
