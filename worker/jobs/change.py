"""The words of the way back: what was observed, and the change of rows that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from worker.jobs.job import Submission
from worker.jobs.run import RunUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the settings say about patience; all durations in seconds."""

    max_submissions: int = 3
    queue_deadline: float = 3600.0
    poll: float = 30.0
    slow_poll: float = 300.0
    soon: float = 5.0
    missing: float = 60.0
    missing_looks: int = 3
    incomplete: float = 60.0
    cancel_again: float = 30.0
    unknown_wait: float | None = None
    retry_first: float = 15.0
    retry_most: float = 600.0
    gpu_price_per_second: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """GET /status answered (or an authenticated webhook, where /status answers 404)."""

    update: RunUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """GET /status answered 404; `healthy`: /health of that endpoint answered meanwhile."""

    healthy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NotAccepted:
    """Evidence says that an unknown submission never reached RunPod's queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """No news: look at deadlines and wishes only."""


Observation = Seen | Gone | NotAccepted | Nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionChange:
    """New values for one submission; flags become instants in the database (None: as it was)."""

    attempt: int
    set: Mapping[str, Any] = field(default_factory=dict)
    started: bool = False
    ended: bool = False
    missing: bool | None = None
    incomplete: bool | None = None
    cancel_asked: bool = False
    seen: bool = False
    poll_seconds: float = 30.0

    def as_json(self) -> dict[str, Any]:
        """The form that write_video_job_changes_v1 reads."""
        return {
            "attempt": self.attempt,
            "set": dict(self.set),
            "started": self.started,
            "ended": self.ended,
            "missing": self.missing,
            "incomplete": self.incomplete,
            "cancel_asked": self.cancel_asked,
            "seen": self.seen,
            "poll_seconds": self.poll_seconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A permitted update; it takes only while the case is still what it was decided on."""

    job_id: str
    revision: int | None
    states: Mapping[str, str]
    job: Mapping[str, Any] | None = None
    submissions: tuple[SubmissionChange, ...] = ()
    started: bool = False
    completed: bool = False
    retry_seconds: float | None = None
    eta_seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The form that write_video_job_changes_v1 reads."""
        data: dict[str, Any] = {
            "job_id": self.job_id,
            "revision": self.revision,
            "states": dict(self.states),
            "job": None if self.job is None else dict(self.job),
            "submissions": [one.as_json() for one in self.submissions],
            "started": self.started,
            "completed": self.completed,
        }
        if self.retry_seconds is not None:
            data["retry_seconds"] = self.retry_seconds
        if self.eta_seconds is not None:
            data["eta_seconds"] = self.eta_seconds
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A change to write, runs to cancel at RunPod, and what it was about (for logs and metrics)."""

    change: Change
    cancel: tuple[Submission, ...] = ()
    outcome: str = "unchanged"
