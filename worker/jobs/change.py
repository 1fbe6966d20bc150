"""What a decision says: a permitted change of the rows, and what else is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from worker.jobs.job import Submission
from worker.jobs.text import visible_values

FREE = frozenset({"queued", "completed", "failed", "cancelled"})
Values = Mapping[str, Any]
Instants = Mapping[str, float | None]
"""Seconds from now by column; None clears the column. Only Postgres has a clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionChange:
    """New values for one submission."""

    attempt: int
    values: Values = field(default_factory=dict)
    instants: Instants = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the form that write_video_job_changes_v1 reads; texts are visible()."""
        return {
            "attempt": self.attempt,
            "set": visible_values(self.values),
            "instants": dict(self.instants),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A permitted update; it takes only while the case is still what it was decided on."""

    job_id: str
    revision: int | None
    states: Mapping[str, str]
    job: Values = field(default_factory=dict)
    job_instants: Instants = field(default_factory=dict)
    submissions: tuple[SubmissionChange, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.job or self.job_instants or self.submissions)

    def as_json(self) -> dict[str, Any]:
        """Return the form that write_video_job_changes_v1 reads; texts are visible()."""
        return {
            "job_id": self.job_id,
            "revision": self.revision,
            "states": dict(self.states),
            "job": visible_values(self.job),
            "job_instants": dict(self.job_instants),
            "submissions": [change.as_json() for change in self.submissions],
        }


class Kind(StrEnum):
    """What became of the job: for logs and metrics, never for control flow."""

    UNCHANGED = "unchanged"
    LEFT_TO_CLAIM = "left_to_claim"
    UNWANTED_RUN = "unwanted_run"
    RELEASED = "released"
    LEASE_EXPIRED = "lease_expired"
    CONFIRMING = "confirming"
    WAITING_GPU = "waiting_gpu"
    RUNNING = "running"
    RESENT = "resent"
    QUEUE_TIMEOUT = "queue_timeout"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ends_job(self) -> bool:
        """Whether the row is terminal now."""
        return self in (Kind.COMPLETED, Kind.FAILED, Kind.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What to do once the change took. A crash may lose it: a cancel is asked again while the run
    is seen alive, and inputs that stay behind are removed by their age.
    """

    cancel: tuple[Submission, ...] = ()
    """Runs to cancel at RunPod."""
    discard: tuple[Submission, ...] = ()
    """Submissions whose prepared inputs nobody needs any more."""
    ended: tuple[int, ...] = ()
    """Attempts whose submission has ended."""
    lease_expired: bool = False
    """Whether the claim ended because its holder is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A change to write, what it is about, the error code of a failed job, and the effects."""

    change: Change
    kind: Kind = Kind.UNCHANGED
    code: str | None = None
    effects: Effects = field(default_factory=Effects)

    @property
    def frees_room(self) -> bool:
        """Whether another row may be claimed now."""
        return bool(self.effects.ended) or self.change.job.get("status") in FREE
