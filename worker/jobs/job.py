"""A job, its submissions, and both together as one case: what every decision is made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from worker.jobs.run import RunUpdate


class JobStatus(StrEnum):
    """What the browser sees; the moves between them are in sql/migrations/0002_guards.sql."""

    QUEUED = "queued"
    PREPARING = "preparing"
    SUBMITTED = "submitted"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether only a retry by people leaves this status."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class SubmissionState(StrEnum):
    """What is known of one POST /run and the run it may have started."""

    SUBMITTING = "submitting"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    EXPIRED = "expired"

    @property
    def live(self) -> bool:
        """Whether RunPod has accepted it and it has not ended."""
        return self in (SubmissionState.QUEUED, SubmissionState.RUNNING)

    @property
    def open(self) -> bool:
        """Whether it may still cost money."""
        return self.live or self in (SubmissionState.SUBMITTING, SubmissionState.UNKNOWN)


MAX_SECONDS = 1e9
"""A plan that expects more was not made by us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of video_jobs, as far as the worker decides on it; inputs may be garbage."""

    id: str
    user_id: str | None
    status: JobStatus
    phase: str
    attempt: int
    try_number: int
    revision: int
    cancel_requested: bool = False
    progress: int = 0
    progress_source: str | None = None
    phase_detail: str | None = None
    error_code: str | None = None
    crashes: int = 0
    crashes_alone: int = 0
    claimed_alone: bool = False
    input_tries: int = 0
    input_seconds: int = 0
    lease_left: float | None = None
    started_at: str | None = None
    ending_code: str | None = None
    ending_message: str | None = None
    image_url: str | None = None
    audio_url: str | None = None
    width: int | None = None
    height: int | None = None
    quality: str | None = "hd"
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    runpod_job_id: str | None = None
    cost_usd: Decimal | None = None
    created_at: str | None = None
    updated_at: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Job:
        """Build from a row as PostgREST sends it; columns that are not ours are ignored."""
        known = {name: row[name] for name in cls.__slots__ if name in row}
        return cls(
            **{
                **known,
                "status": JobStatus(row["status"]),
                "cost_usd": _decimal(row.get("cost_usd")),
            }
        )

    @property
    def waited(self) -> float | None:
        """Seconds from the insert to the last write, both by the database's clock."""
        if self.created_at is None or self.updated_at is None:
            return None
        written = datetime.fromisoformat(self.updated_at)
        return (written - datetime.fromisoformat(self.created_at)).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One row of video_job_attempts; ages are seconds by the database's clock."""

    job_id: str
    attempt: int
    try_number: int
    endpoint_id: str
    state: SubmissionState
    runpod_job_id: str | None = None
    plan: Mapping[str, Any]
    input_objects: tuple[str, ...] = ()
    video_url: str | None = None
    execution_ms: int | None = None
    cost_usd: Decimal | None = None
    error_code: str | None = None
    error_message: str | None = None
    resend: bool = False
    raw_error: str | None = None
    age: float = 0.0
    queued_for: float = 0.0
    ttl_left: float = 0.0
    missing_for: float | None = None
    missing_looks: int = 0
    incomplete_for: float | None = None
    reported: RunUpdate | None = None
    reported_ago: float | None = None
    cancel_asked_ago: float | None = None
    next_poll_in: float = 0.0
    endpoint_started_ago: float | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Submission:
        """Build from a row with the ages that video_job_case_v1 adds."""
        known = {name: row[name] for name in cls.__slots__ if name in row}
        return cls(
            **{
                **known,
                "state": SubmissionState(row["state"]),
                "plan": row["plan"] if isinstance(row.get("plan"), Mapping) else {},
                "input_objects": tuple(row.get("input_objects") or ()),
                "reported": RunUpdate.from_json(row["reported"]) if row.get("reported") else None,
                "cost_usd": _decimal(row.get("cost_usd")),
            }
        )

    @property
    def nameless(self) -> bool:
        """Whether nobody can be asked about it: unknown, or its run's id was cleared by hand."""
        unnamed = self.state.live and self.runpod_job_id is None
        return self.state is SubmissionState.UNKNOWN or unnamed

    @property
    def counts(self) -> bool:
        """Whether it may have been paid."""
        return self.state is not SubmissionState.REFUSED

    @property
    def expected_seconds(self) -> float | None:
        """GPU seconds that the plan expected."""
        value = self.plan.get("expected_seconds")
        if isinstance(value, int | float) and 0 < value < MAX_SECONDS:
            return float(value)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A job (None when its row was deleted) with the submissions that matter to it."""

    job_id: str
    job: Job | None
    submissions: tuple[Submission, ...] = ()

    @classmethod
    def from_json(cls, job_id: str, data: Mapping[str, Any]) -> Case:
        """Build from what video_job_case_v1 returns."""
        job = data.get("job")
        return cls(
            job_id=job_id,
            job=None if job is None else Job.from_row(job),
            submissions=tuple(Submission.from_row(row) for row in data.get("submissions") or ()),
        )

    def submission(self, attempt: int) -> Submission | None:
        """The submission that belongs to an attempt."""
        return next((sub for sub in self.submissions if sub.attempt == attempt), None)

    @property
    def present(self) -> tuple[Submission, ...]:
        """The submissions of the present try; none when the row is gone."""
        if self.job is None:
            return ()
        return tuple(sub for sub in self.submissions if sub.try_number == self.job.try_number)

    @property
    def submission_count(self) -> int:
        """Submissions of the present try that may have been paid: what MAX_SUBMISSIONS limits."""
        return sum(sub.counts for sub in self.present)

    @property
    def states(self) -> dict[str, str]:
        """Open submissions by attempt: what a write checks that it still finds."""
        return {str(sub.attempt): sub.state.value for sub in self.submissions if sub.state.open}


def _decimal(value: object) -> Decimal | None:
    return None if value is None else Decimal(str(value))
