"""What dispatch and reconcile need from the outside; the adapters fit by structure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from worker.jobs.change import Change
from worker.jobs.health import Health
from worker.jobs.job import Case, Job
from worker.jobs.run import RunUpdate
from worker.plan.media_facts import PublishedInputs
from worker.plan.plan import Plan

Clock = Callable[[], float]
"""Seconds that only ever grow; which clock it is stands at the parameter."""
Jitter = Callable[[], float]
"""A random number from 0 to 1."""
Sleep = Callable[[float], Awaitable[None]]
"""asyncio.sleep, or a test's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimLimits:
    """What claims and submissions must not exceed; what users may have is in video_job_limits."""

    max_in_flight: int
    max_queued_runs: int
    max_preparing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSubmission:
    """What is committed before POST /run; `columns` go into the row, `plan` onto the submission."""

    max_submissions: int
    endpoint_id: str
    ttl_seconds: float
    template_hash: str
    plan: Mapping[str, Any]
    columns: Mapping[str, Any]
    input_objects: Sequence[str] = ()


class NotBegun(Enum):
    """Why a submission was not committed."""

    CLAIM_LOST = "claim_lost"
    NO_ROOM = "no_room"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovablePage:
    """Objects of one bucket that nobody needs; `after` asks for the next page, None at the end."""

    bucket: str
    paths: Sequence[str]
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of a change, and the case as it is now.

    `took`: it was written. `locked`: somebody else holds the row; nothing was compared.
    """

    job_id: str
    took: bool
    case: Case
    locked: bool = False


class JobStore(Protocol):
    """The table: StoreUnavailable when it is away, StoreRefused when it refuses one write."""

    async def claim(
        self, want: int, limits: ClaimLimits, *, holding: Sequence[str] = ()
    ) -> list[Case]: ...

    async def renew(self, job_ids: Sequence[str]) -> list[Job]: ...

    async def begin(
        self, job: Job, submission: NewSubmission, limits: ClaimLimits
    ) -> Case | NotBegun: ...

    async def take_due(self, want: int, *, everything_after: str | None = None) -> list[Case]: ...

    async def stranded(self, want: int, *, after: str | None = None) -> list[Case]: ...

    async def case(self, job_id: str) -> Case | None: ...

    async def write(self, changes: Sequence[Change]) -> list[Written]: ...


class RunPod(Protocol):
    """RunPod's job API for one endpoint; run ids of other endpoints may be asked for, too."""

    @property
    def endpoint_id(self) -> str: ...

    async def submit(self, body: Mapping[str, object]) -> RunUpdate: ...

    async def status(self, run_id: str, *, endpoint_id: str | None = None) -> RunUpdate: ...

    async def cancel(self, run_id: str, *, endpoint_id: str | None = None) -> None: ...

    async def health(self, *, endpoint_id: str | None = None) -> Health: ...


class Media(Protocol):
    """Fetches, checks and publishes a job's inputs."""

    def open(
        self, *, image_url: str | None, audio_url: str | None, user_id: str | None, seconds: float
    ) -> AbstractAsyncContextManager[Any]: ...

    async def publish(
        self, media: Any, plan: Plan, *, job_id: str, attempt: int, ttl_seconds: int
    ) -> PublishedInputs: ...

    async def discard(self, objects: Sequence[str]) -> None: ...
