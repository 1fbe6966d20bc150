"""Small stand-ins for flow tests: a table with the SQL's guards, a scripted RunPod, fixed media."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from worker.jobs.change import Change
from worker.jobs.errors import RunGone, StoreRefused, StoreUnavailable
from worker.jobs.health import Health
from worker.jobs.job import Case, Job, JobStatus, Submission, SubmissionState
from worker.jobs.run import RunState, RunUpdate
from worker.plan.media_facts import AudioFacts, ImageFacts, PublishedInputs
from worker.plan.plan import Plan
from worker.ports import Beginning, ClaimEnding, ClaimLimits, Recorded, Written

JOB = "00000000-0000-4000-8000-00000000000{}"


def health(in_queue: int = 0, in_progress: int = 0, completed: int = 0, failed: int = 0) -> Health:
    """What /health may say."""
    return Health(
        in_queue=in_queue, in_progress=in_progress, completed=completed, failed=failed, retried=0,
        workers={},
    )  # fmt: skip


def job_id(number: int = 1) -> str:
    """A row's id."""
    return JOB.format(number)


@dataclass
class Times:
    """A submission's instants, by the table's clock."""

    created: float
    expires: float
    poll_at: float
    submitted: float | None = None
    started: float | None = None
    missing: float | None = None
    incomplete: float | None = None
    cancel_asked: float | None = None


class FakeStore:
    """video_jobs and video_job_attempts as sql/migrations/0003 treats them; `now` is the clock."""

    def __init__(self, owner: str = "me", lease_seconds: float = 60.0) -> None:
        self.owner, self.lease_seconds = owner, lease_seconds
        self.now = 0.0
        self.away = False
        self.refused: set[str] = set()
        self.meddle: Callable[[str], None] = lambda function: None
        self.calls: list[str] = []
        self.jobs: dict[str, Job] = {}
        self.leases: dict[str, tuple[str, float]] = {}
        self.available: dict[str, float] = {}
        self.subs: dict[tuple[str, int], Submission] = {}
        self.times: dict[tuple[str, int], Times] = {}

    def insert(self, number: int = 1, **values: Any) -> Job:
        """A row as the app inserts it."""
        row = Job(
            id=job_id(number), user_id=None, status=JobStatus.QUEUED, phase="in_line", attempt=0,
            try_number=1, submissions=0, revision=0, image_url="https://h/i", audio_url="https://h/a",
        )  # fmt: skip
        self.jobs[row.id] = replace(row, **values)
        return self.jobs[row.id]

    def job(self, number: int = 1) -> Job:
        """The row as it is."""
        return self.jobs[job_id(number)]

    def sub(self, attempt: int = 1, number: int = 1) -> Submission:
        """A submission as it is."""
        return self.subs[job_id(number), attempt]

    def cancel(self, number: int = 1) -> None:
        """What a person's cancel does to the row."""
        row = self.job(number)
        free = row.status is JobStatus.QUEUED and not self._open(row.id)
        self._set(
            row.id, cancel_requested=True, **({"status": JobStatus.CANCELLED} if free else {})
        )
        for key in self._open(row.id):
            self.times[key].poll_at = self.now

    def _enter(self, function: str) -> None:
        self.calls.append(function)
        if self.away:
            raise StoreUnavailable("Supabase does not answer.")
        self.meddle(function)

    def _set(self, key: str, **values: Any) -> Job:
        old = self.jobs[key]
        self.jobs[key] = replace(old, **values, revision=old.revision + 1)
        return self.jobs[key]

    def _open(self, key: str) -> list[tuple[str, int]]:
        return [one for one, sub in self.subs.items() if one[0] == key and sub.state.open]

    def _holds(self, job: Job) -> bool:
        owner, until = self.leases.get(job.id, ("", -1.0))
        row = self.jobs.get(job.id)
        mine = row is not None and row.status is JobStatus.PREPARING and row.attempt == job.attempt
        return mine and owner == self.owner and until >= self.now

    async def claim(
        self, want: int, limits: ClaimLimits, *, holding: Sequence[str] = ()
    ) -> list[Job]:
        self._enter("claim")
        for row in list(self.jobs.values()):
            mine = (
                row.status is JobStatus.PREPARING
                and self.leases.get(row.id, ("",))[0] == self.owner
            )
            if mine and row.id not in holding and not self._open(row.id):
                self._set(row.id, status=JobStatus.QUEUED, lease_left=None)
        waiting = [
            one for one in self.jobs.values()
            if one.status is JobStatus.QUEUED and not self._open(one.id)
            and self.available.get(one.id, 0.0) <= self.now
        ]  # fmt: skip
        taken = []
        for row in waiting[:want]:
            self.leases[row.id] = (self.owner, self.now + self.lease_seconds)
            taken.append(
                self._set(
                    row.id, status=JobStatus.PREPARING, phase="checking_media",
                    attempt=row.attempt + 1, lease_left=self.lease_seconds,
                )
            )  # fmt: skip
        return taken

    async def recover(self) -> list[Job]:
        self._enter("recover")
        found = []
        for row in list(self.jobs.values()):
            if (
                row.status is JobStatus.PREPARING
                and self.leases.get(row.id, ("", 1e9))[1] < self.now
            ):
                del self.leases[row.id]
                sub = self.subs.get((row.id, row.attempt))
                if sub is None or not sub.state.open:
                    found.append(self._set(row.id, status=JobStatus.QUEUED, lease_left=None))
                    continue
                self.subs[row.id, row.attempt] = replace(sub, state=SubmissionState.UNKNOWN)
                found.append(self._set(row.id, phase="confirming_submission", lease_left=None))
        return found

    async def renew(self, job_ids: Sequence[str]) -> list[Job]:
        self._enter("renew")
        held = [
            self.jobs[one] for one in job_ids if one in self.jobs and self._holds(self.jobs[one])
        ]
        for row in held:
            self.leases[row.id] = (self.owner, self.now + self.lease_seconds)
        return held

    async def begin(self, job: Job, beginning: Beginning) -> Job | None:
        self._enter("begin")
        row = self.jobs.get(job.id)
        if row is None or not self._holds(job) or row.cancel_requested or self._open(row.id):
            return None
        key = (row.id, row.attempt)
        self.subs[key] = Submission(
            job_id=row.id, attempt=row.attempt, try_number=row.try_number,
            endpoint_id=beginning.endpoint_id, state=SubmissionState.SUBMITTING,
            plan=beginning.plan, input_objects=tuple(beginning.input_objects),
        )  # fmt: skip
        self.times[key] = Times(self.now, self.now + beginning.ttl_seconds, self.now)
        self.leases[row.id] = (self.owner, self.now + self.lease_seconds)
        return self._set(row.id, submissions=row.submissions + 1)

    async def record(self, job_id: str, attempt: int, run_id: str) -> Recorded | None:
        self._enter("record")
        key = (job_id, attempt)
        sub, row = self.subs.get(key), self.jobs.get(job_id)
        if sub is None or sub.runpod_job_id not in (None, run_id):
            return None
        if sub.runpod_job_id is None:
            self.subs[key] = replace(sub, runpod_job_id=run_id, state=SubmissionState.QUEUED)
            self.times[key].submitted = self.now
            moves = row and row.status in (JobStatus.QUEUED, JobStatus.PREPARING)
            if row and moves and row.try_number == sub.try_number:
                self.leases.pop(job_id, None)
                row = self._set(
                    job_id, status=JobStatus.SUBMITTED, runpod_job_id=run_id, lease_left=None
                )
        wanted = row is not None and not row.status.terminal and row.try_number == sub.try_number
        wanted = wanted and row is not None and row.runpod_job_id == run_id
        wanted = wanted and row is not None and not row.cancel_requested
        if not wanted:
            self.times[key].cancel_asked = self.now
        return Recorded(wanted=wanted, case=self.look(job_id))

    async def end_claim(self, job: Job, ending: ClaimEnding) -> Job | None:
        self._enter("end_claim")
        key = (job.id, job.attempt)
        row, sub = self.jobs.get(job.id), self.subs.get(key)
        status, left = JobStatus(ending.status), 0
        if ending.submission is not None:
            if sub is None or sub.state.value not in ("submitting", "unknown"):
                return None
            state = SubmissionState(ending.submission)
            self.subs[key] = replace(sub, state=state, raw_error=ending.raw_error)
            left = int(state is SubmissionState.REFUSED)
        elif not self._holds(job) or (sub is not None and sub.state.open):
            return None
        if row is None or row.status is not JobStatus.PREPARING or row.attempt != job.attempt:
            return None
        if row.cancel_requested and ending.submission != "unknown":
            status = JobStatus.CANCELLED
        self.leases.pop(row.id, None)
        self.available[row.id] = self.now + ending.retry_seconds
        return self._set(
            row.id, status=status, phase=ending.phase, phase_detail=ending.phase_detail,
            lease_left=None,
            submissions=row.submissions - left, ending_code=ending.error_code,
            ending_message=ending.error_message,
        )  # fmt: skip

    def look(self, key: str) -> Case:
        """The case as video_job_case_v1 makes it."""
        row = self.jobs.get(key)
        present = row.try_number if row else None
        return Case(
            job_id=key,
            job=row,
            submissions=tuple(
                self._aged(sub) for one, sub in sorted(self.subs.items())
                if one[0] == key and (sub.state.open or sub.try_number == present)
            ),
        )  # fmt: skip

    def _aged(self, sub: Submission) -> Submission:
        at = self.times[sub.job_id, sub.attempt]
        starts = [one.started for one in self.times.values() if one.started is not None]

        def ago(instant: float | None) -> float | None:
            return None if instant is None else self.now - instant

        return replace(
            sub, age=self.now - at.created, ttl_left=at.expires - self.now,
            queued_for=self.now - (at.created if at.submitted is None else at.submitted),
            missing_for=ago(at.missing), incomplete_for=ago(at.incomplete),
            cancel_asked_ago=ago(at.cancel_asked),
            endpoint_started_ago=ago(max(starts, default=None)),
        )  # fmt: skip

    async def take_due(self, want: int, *, everything_after: str | None = None) -> list[Case]:
        self._enter("take_due" if everything_after is None else "take_page")
        due = [
            key for key, sub in sorted(self.subs.items())
            if sub.state.open and sub.state is not SubmissionState.SUBMITTING
            and (key[0] > everything_after if everything_after is not None
                 else self.times[key].poll_at <= self.now)
        ][:want]  # fmt: skip
        for key in due:
            self.times[key].poll_at = self.now + 30.0
        return [self.look(key) for key in sorted({key for key, _ in due})]

    async def case(self, job_id: str) -> Case | None:
        self._enter("case")
        case = self.look(job_id)
        return case if case.job is not None or case.submissions else None

    async def write(self, changes: Sequence[Change]) -> list[Written]:
        self._enter("write")
        if any(change.job_id in self.refused for change in changes):
            raise StoreRefused("A job cannot go there. (P0001)")
        return [self._write(change) for change in changes]

    def _write(self, change: Change) -> Written:
        row, case = self.jobs.get(change.job_id), self.look(change.job_id)
        took = (row and row.revision) == change.revision and case.states == dict(change.states)
        if took:
            for part in change.submissions:
                self._write_part(change.job_id, part.as_json())
            if row is not None and change.job is not None:
                assert not row.status.terminal, "a terminal row is left by nothing but a retry"
                known = {k: v for k, v in change.job.items() if k in Job.__slots__}
                values = dict(known, status=JobStatus(str(known.get("status", row.status))))
                if values.get("cost_usd"):
                    values["cost_usd"] = Decimal(str(values["cost_usd"]))
                self._set(row.id, **values, lease_left=None)
                self.leases.pop(row.id, None)
                if change.retry_seconds is not None:
                    self.available[row.id] = self.now + change.retry_seconds
        return Written(job_id=change.job_id, took=took, case=self.look(change.job_id))

    def _write_part(self, job_id: str, part: Mapping[str, Any]) -> None:
        key = (job_id, part["attempt"])
        at, sub = self.times[key], self.subs[key]
        values = {
            name: value for name, value in part["set"].items() if name in Submission.__slots__
        }
        if "state" in values:
            values["state"] = SubmissionState(values["state"])
        looks = {True: sub.missing_looks + 1, False: 0, None: sub.missing_looks}[part["missing"]]
        self.subs[key] = replace(sub, **values, missing_looks=looks)
        for name in ("missing", "incomplete"):
            since = getattr(at, name)
            new = {True: self.now if since is None else since, False: None, None: since}
            setattr(at, name, new[part[name]])
        at.started = self.now if part["started"] and at.started is None else at.started
        at.cancel_asked = self.now if part["cancel_asked"] else at.cancel_asked
        at.poll_at = self.now + part["poll_seconds"]

    async def refresh_queue(self, places: int) -> int:
        self._enter("refresh_queue")
        return 0


@dataclass
class FakeRunPod:
    """RunPod that answers what the test wrote down; an exception is raised instead."""

    endpoint_id: str = "endpoint"
    answers: deque[RunUpdate | Exception] = field(default_factory=deque)
    runs: dict[str, RunUpdate | Exception] = field(default_factory=dict)
    health_says: Health | Exception = field(default_factory=lambda: health())
    posts: list[Mapping[str, object]] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    probes: int = 0
    posting: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event | None = None

    async def submit(self, body: Mapping[str, object]) -> RunUpdate:
        self.posts.append(body)
        self.posting.set()
        if self.gate is not None:
            await self.gate.wait()
        run_id = f"run-{len(self.posts)}"
        answer = self.answers.popleft() if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        self.runs.setdefault(run_id, RunUpdate(run_id=run_id, state=RunState.QUEUED))
        return answer or RunUpdate(run_id=run_id, state=RunState.QUEUED)

    async def status(self, run_id: str, *, endpoint_id: str | None = None) -> RunUpdate:
        self.looks.append(run_id)
        answer = self.runs.get(run_id, RunGone(run_id))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def cancel(self, run_id: str, *, endpoint_id: str | None = None) -> None:
        self.cancelled.append(run_id)

    async def health(self, *, endpoint_id: str | None = None) -> Health:
        self.probes += 1
        if isinstance(self.health_says, Exception):
            raise self.health_says
        return self.health_says


class FakeMedia:
    """A portrait and 21 s of speech for every job; `problems` are raised first."""

    def __init__(self) -> None:
        self.problems: deque[Exception] = deque()
        self.opened = 0
        self.discarded: list[str] = []
        self.opening = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.storage_away = False

    @asynccontextmanager
    async def open(
        self, *, image_url: str | None, audio_url: str | None, user_id: str | None
    ) -> AsyncIterator[Any]:
        self.opened += 1
        self.opening.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.problems:
            raise self.problems.popleft()
        audio = AudioFacts(seconds=Fraction(21), sample_rate=44_100, channels=1, codec="mp3")
        image = ImageFacts(width=720, height=1280, format="JPEG")
        yield SimpleNamespace(audio=audio, image=image, warnings=())

    async def publish(
        self, media: Any, plan: Plan, *, job_id: str, attempt: int, ttl_seconds: int
    ) -> PublishedInputs:
        objects = (f"{job_id}/{attempt}/a",)
        return PublishedInputs(image_url="https://s/i", audio_url="https://s/a", objects=objects)

    async def discard(self, objects: Sequence[str]) -> None:
        if self.storage_away:
            raise StoreUnavailable("Storage does not answer.")
        self.discarded += objects
