"""What dispatch and reconcile need from the outside; the adapters fit by structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from worker.jobs.change import Change
from worker.jobs.health import Health
from worker.jobs.job import Case, Job
from worker.jobs.run import RunUpdate
from worker.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimLimits:
    """What a claim must not exceed."""

    max_in_flight: int
    max_queued_runs: int
    max_in_flight_per_user: int
    max_submissions_per_user_per_day: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What is written before POST /run; `columns` go into the row, `plan` onto the submission."""

    max_submissions: int
    endpoint_id: str
    ttl_seconds: float
    template_hash: str
    plan: Mapping[str, Any]
    columns: Mapping[str, Any]
    input_objects: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimEnding:
    """How a claim ends without a known run; `submission`: refused, unknown, or none begun."""

    status: str
    phase: str = "in_line"
    phase_detail: str | None = None
    retry_seconds: float = 0.0
    submission: str | None = None
    raw_error: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A run id was recorded; `wanted` is false when nobody waits for that run any more."""

    wanted: bool
    case: Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Whether a change took, and the case as it is now."""

    job_id: str
    took: bool
    case: Case


class JobStore(Protocol):
    """The table: StoreUnavailable when it is away, StoreRefused when it refuses one write."""

    async def claim(
        self, want: int, limits: ClaimLimits, *, holding: Sequence[str] = ()
    ) -> list[Job]: ...

    async def recover(self) -> list[Job]: ...

    async def renew(self, job_ids: Sequence[str]) -> list[Job]: ...

    async def begin(self, job: Job, beginning: Beginning) -> Job | None: ...

    async def record(self, job_id: str, attempt: int, run_id: str) -> Recorded | None: ...

    async def end_claim(self, job: Job, ending: ClaimEnding) -> Job | None: ...

    async def take_due(self, want: int, *, everything_after: str | None = None) -> list[Case]: ...

    async def case(self, job_id: str) -> Case | None: ...

    async def write(self, changes: Sequence[Change]) -> list[Written]: ...

    async def refresh_queue(self, places: int) -> int: ...


class RunPod(Protocol):
    """RunPod's job API for one endpoint; run ids of other endpoints may be asked for, too."""

    @property
    def endpoint_id(self) -> str: ...

    async def submit(self, body: Mapping[str, object]) -> RunUpdate: ...

    async def status(self, run_id: str, *, endpoint_id: str | None = None) -> RunUpdate: ...

    async def cancel(self, run_id: str, *, endpoint_id: str | None = None) -> None: ...

    async def health(self, *, endpoint_id: str | None = None) -> Health: ...


class PublishedInputs(Protocol):
    """Where the GPU worker finds the inputs; never stored, since the URLs may be signed."""

    @property
    def image_url(self) -> str: ...

    @property
    def audio_url(self) -> str: ...

    @property
    def objects(self) -> tuple[str, ...]: ...


class Media(Protocol):
    """Fetches, checks and publishes a job's inputs."""

    def open(
        self, *, image_url: str | None, audio_url: str | None, user_id: str | None
    ) -> AbstractAsyncContextManager[Any]: ...

    async def publish(
        self, media: Any, plan: Plan, *, job_id: str, attempt: int, ttl_seconds: int
    ) -> PublishedInputs: ...

    async def discard(self, objects: Sequence[str]) -> None: ...
