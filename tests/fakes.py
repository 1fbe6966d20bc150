"""Small stand-ins for flow tests: a table with the SQL's guards, a scripted RunPod, fixed media."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from tests.migrations import columns, moves
from worker.jobs.change import Change
from worker.jobs.errors import RunGone, StoreRefused, StoreUnavailable
from worker.jobs.health import Health
from worker.jobs.job import Case, Job, Submission
from worker.jobs.run import RunState, RunUpdate
from worker.plan.media_facts import AudioFacts, ImageFacts, PublishedInputs
from worker.plan.plan import Plan
from worker.ports import ClaimLimits, NewSubmission, NotBegun, Written

JOB = "00000000-0000-4000-8000-00000000000{}"


def health(in_queue: int = 0, in_progress: int = 0, completed: int = 0, failed: int = 0) -> Health:
    """What /health may say."""
    return Health(
        in_queue=in_queue, in_progress=in_progress, completed=completed, failed=failed,
        workers={},
    )  # fmt: skip


def job_id(number: int = 1) -> str:
    """A row's id."""
    return JOB.format(number)


OPEN = ("submitting", "unknown", "queued", "running")
ENDED = ("completed", "failed", "cancelled")
JOB_COLUMNS = columns("plan", "progress", "history")
SUBMISSION_COLUMNS = columns("submission")
MOVES = moves()
Columns = dict[str, Any]


class FakeStore:
    """video_jobs and video_job_attempts as the migrations treat them; instants are `now`'s.

    tests/supabase/test_store_contract.py holds it to the real one.
    """

    def __init__(self, owner: str = "me", lease_seconds: float = 60.0) -> None:
        self.owner, self.lease_seconds = owner, lease_seconds
        self.now = 0.0
        self.away = False
        self.refused: set[str] = set()
        self.locked: set[str] = set()
        self.meddle: Callable[[str], None] = lambda function: None
        self.calls: list[str] = []
        self.rows: dict[str, Columns] = {}
        self.attempts: dict[tuple[str, int], Columns] = {}

    # What people do.

    def insert(self, number: int = 1, **values: Any) -> Job:
        """A row as the app inserts it."""
        key = job_id(number)
        self.rows[key] = {
            "id": key, "user_id": None, "status": "queued", "phase": "in_line", "attempt": 0,
            "try_number": 1, "revision": 0, "image_url": "https://h/i", "audio_url": "https://h/a",
            "quality": "hd", "metadata": {}, "cancel_requested": False, "progress": 0,
            "crashes": 0, "crashes_alone": 0, "claimed_alone": False, "available_at": self.now,
            "input_tries": 0, "input_seconds": 0,
            "lease_owner": None, "lease_expires_at": None, "started_at": None, "cost_usd": None,
            "written_at": self.now,
        } | values  # fmt: skip
        return self.job(number)

    def cancel(self, number: int = 1) -> None:
        """A person's cancel, as the trigger treats it."""
        row = self.rows[job_id(number)]
        if row["status"] in ENDED:
            return
        present = [sub for sub in self._open(row["id"]) if sub["try_number"] == row["try_number"]]
        idle = row["lease_owner"] is None and not present
        values = {"status": "cancelled", "phase": "done"} if idle else {"phase": "cancelling"}
        self.set(number, cancel_requested=True, phase_detail=None, **values)
        self._poll_now(row["id"])

    def delete(self, number: int = 1) -> None:
        """A person deletes the row."""
        del self.rows[job_id(number)]
        self._poll_now(job_id(number))

    # What tests look at, and how they let time pass.

    def job(self, number: int = 1) -> Job:
        """The row as it is."""
        return self._job(self.rows[job_id(number)])

    @property
    def jobs(self) -> list[Job]:
        """Every row."""
        return [self._job(row) for row in self.rows.values()]

    def sub(self, attempt: int = 1, number: int = 1) -> Submission:
        """A submission as it is."""
        return self._sub(self.attempts[job_id(number), attempt])

    def set(self, number: int = 1, **values: Any) -> None:
        """Change a row behind everybody's back."""
        row = self.rows[job_id(number)]
        row |= values
        self._touch(row)

    def set_sub(self, attempt: int = 1, number: int = 1, **values: Any) -> None:
        """Change a submission behind everybody's back."""
        self.attempts[job_id(number), attempt] |= values

    def submission_count(self, number: int = 1) -> int:
        """Submissions of the present try that may have been paid."""
        return self.look(job_id(number)).submission_count

    def wait_of(self, number: int = 1) -> float:
        """Seconds until the row may be claimed."""
        return float(self.rows[job_id(number)]["available_at"] - self.now)

    # The store.

    def _touch(self, row: Columns) -> None:
        row["revision"] += 1
        row["written_at"] = self.now

    def _enter(self, function: str) -> None:
        self.calls.append(function)
        if self.away:
            raise StoreUnavailable("Supabase does not answer.")
        self.meddle(function)

    def _open(self, key: str) -> list[Columns]:
        return [
            sub for (owner, _), sub in sorted(self.attempts.items())
            if owner == key and sub["state"] in OPEN
        ]  # fmt: skip

    def _poll_now(self, key: str) -> None:
        for sub in self._open(key):
            if sub["state"] != "submitting":
                sub["next_poll_at"] = self.now

    def _job(self, row: Columns) -> Job:
        until = row["lease_expires_at"]
        return Job.from_row(row | {"lease_left": None if until is None else until - self.now})

    def _sub(self, sub: Columns) -> Submission:
        starts = [
            one["started_at"] for one in self.attempts.values() if one["started_at"] is not None
        ]

        def ago(instant: float | None) -> float | None:
            return None if instant is None else self.now - instant

        submitted = sub["created_at"] if sub["submitted_at"] is None else sub["submitted_at"]
        return Submission.from_row(sub | {
            "age": self.now - sub["created_at"], "queued_for": self.now - submitted,
            "ttl_left": sub["expires_at"] - self.now, "missing_for": ago(sub["missing_since"]),
            "incomplete_for": ago(sub["incomplete_since"]),
            "reported_ago": ago(sub["reported_at"]),
            "cancel_asked_ago": ago(sub["cancel_asked_at"]),
            "next_poll_in": sub["next_poll_at"] - self.now,
            "endpoint_started_ago": ago(max(starts, default=None)),
        })  # fmt: skip

    def look(self, key: str) -> Case:
        """The case as video_job_case_v1 makes it."""
        row = self.rows.get(key)
        present = row["try_number"] if row else None
        return Case(
            job_id=key,
            job=None if row is None else self._job(row),
            submissions=tuple(
                self._sub(sub) for (owner, _), sub in sorted(self.attempts.items())
                if owner == key and (sub["state"] in OPEN or sub["try_number"] == present)
            ),
        )  # fmt: skip

    def _leased(self, row: Columns | None) -> bool:
        return (
            row is not None and row["status"] == "preparing" and row["lease_owner"] == self.owner
            and row["lease_expires_at"] >= self.now
        )  # fmt: skip

    async def claim(
        self, want: int, limits: ClaimLimits, *, holding: Sequence[str] = ()
    ) -> list[Case]:
        self._enter("claim")
        unanswered = [
            row for key, row in sorted(self.rows.items())
            if self._leased(row) and key not in holding and not self._open(key)
        ][:want]  # fmt: skip
        waiting = [
            row for key, row in self.rows.items()
            if row["status"] == "queued" and not self._open(key)
            and row["available_at"] <= self.now
        ][: want - len(unanswered)]  # fmt: skip
        for row in waiting:
            row |= {
                "status": "preparing", "phase": "checking_media", "phase_detail": None,
                "attempt": row["attempt"] + 1, "claimed_alone": row["crashes"] > 0,
                "lease_owner": self.owner,
            }  # fmt: skip
        for row in (*unanswered, *waiting):
            row["lease_expires_at"] = self.now + self.lease_seconds
            self._touch(row)
        return [self.look(row["id"]) for row in (*unanswered, *waiting)]

    async def renew(self, job_ids: Sequence[str]) -> list[Job]:
        self._enter("renew")
        held = [self.rows[key] for key in job_ids if self._leased(self.rows.get(key))]
        for row in held:
            row["lease_expires_at"] = self.now + self.lease_seconds
            self._touch(row)
        return [self._job(row) for row in held]

    async def begin(
        self, job: Job, submission: NewSubmission, limits: ClaimLimits
    ) -> Case | NotBegun:
        self._enter("begin")
        row = self.rows.get(job.id)
        if row is None or not self._leased(row) or row["attempt"] != job.attempt:
            return NotBegun.CLAIM_LOST
        made = self.look(job.id).submission_count
        if row["cancel_requested"] or self._open(job.id) or made >= submission.max_submissions:
            return NotBegun.CLAIM_LOST
        live = [sub["state"] for sub in self.attempts.values()
                if sub["state"] in ("submitting", "queued", "running")]  # fmt: skip
        queued = sum(state != "running" for state in live)
        if len(live) >= limits.max_in_flight or queued >= limits.max_queued_runs:
            return NotBegun.NO_ROOM
        self.attempts[job.id, job.attempt] = dict.fromkeys(SUBMISSION_COLUMNS) | {
            "job_id": job.id, "attempt": job.attempt, "try_number": row["try_number"],
            "endpoint_id": submission.endpoint_id, "state": "submitting",
            "plan": dict(submission.plan), "input_objects": list(submission.input_objects),
            "resend": False, "missing_looks": 0, "created_at": self.now,
            "expires_at": self.now + submission.ttl_seconds,
            "next_poll_at": self.now + 2 * self.lease_seconds,
        }  # fmt: skip
        row |= dict(submission.columns) | {
            "crashes": 0, "crashes_alone": 0, "input_tries": 0, "input_seconds": 0,
            "lease_expires_at": self.now + self.lease_seconds,
        }  # fmt: skip
        self._touch(row)
        return self.look(job.id)

    async def take_due(self, want: int, *, everything_after: str | None = None) -> list[Case]:
        self._enter("take_due" if everything_after is None else "take_page")
        due = [
            key for key, sub in sorted(self.attempts.items())
            if sub["state"] in OPEN and sub["state"] != "submitting"
            and (key[0] > everything_after if everything_after is not None
                 else sub["next_poll_at"] <= self.now)
        ][:want]  # fmt: skip
        for key in due:
            self.attempts[key]["next_poll_at"] = self.now + 30.0
        return [self.look(key) for key in sorted({key for key, _ in due})]

    async def stranded(self, want: int, *, after: str | None = None) -> list[Case]:
        self._enter("stranded")
        expired = {
            key for key, row in self.rows.items()
            if row["status"] == "preparing" and row["lease_expires_at"] is not None
            and row["lease_expires_at"] < self.now
        }  # fmt: skip
        senders = {
            key for (key, _), sub in self.attempts.items()
            if sub["state"] == "submitting" and sub["next_poll_at"] < self.now
        }  # fmt: skip
        idle = {
            key for key, row in self.rows.items()
            if (row["status"] in ("submitted", "running")
                or (row["status"] == "preparing" and row["lease_expires_at"] is None))
            and row["written_at"] < self.now - 60 and not self._open(key)
        }  # fmt: skip
        found = sorted(key for key in expired | senders | idle if after is None or key > after)
        return [self.look(key) for key in found[:want]]

    async def case(self, job_id: str) -> Case | None:
        self._enter("case")
        case = self.look(job_id)
        return case if case.job is not None or case.submissions else None

    async def write(self, changes: Sequence[Change]) -> list[Written]:
        self._enter("write")
        if any(change.job_id in self.refused for change in changes):
            raise StoreRefused("A job cannot go there. (P0001)")
        before = deepcopy((self.rows, self.attempts))
        try:
            return [self._write(change) for change in changes]
        except StoreRefused:
            self.rows, self.attempts = before
            raise

    def _write(self, change: Change) -> Written:
        row, case = self.rows.get(change.job_id), self.look(change.job_id)
        locked = change.job_id in self.locked
        same = (row and row["revision"]) == change.revision and case.states == dict(change.states)
        if same and not locked:
            for part in change.submissions:
                values = self._values(part.values, part.instants, SUBMISSION_COLUMNS)
                self._check_run(change.job_id, part.attempt, values.get("runpod_job_id"))
                self.attempts[change.job_id, part.attempt] |= values
            values = self._values(change.job, change.job_instants, JOB_COLUMNS)
            if row is not None and values:
                self._update(row, values)
        took = same and not locked
        return Written(
            job_id=change.job_id, took=took, locked=locked, case=self.look(change.job_id)
        )

    def _values(
        self, values: Mapping[str, Any], instants: Mapping[str, float | None], known: frozenset[str]
    ) -> Columns:
        moments = {
            name: None if seconds is None else self.now + seconds
            for name, seconds in instants.items()
        }
        given = dict(values) | moments
        if unknown := sorted(set(given) - known):
            raise StoreRefused(f"The worker may not write {', '.join(unknown)}. (P0001)")
        return given

    def _check_run(self, key: str, attempt: int, run_id: str | None) -> None:
        owners = [one for one, sub in self.attempts.items() if sub["runpod_job_id"] == run_id]
        if run_id is not None and owners not in ([], [(key, attempt)]):
            raise StoreRefused("duplicate key value (23505)")

    def _update(self, row: Columns, values: Columns) -> None:
        status = values.get("status", row["status"])
        if status != row["status"] and (row["status"], status) not in MOVES:
            raise StoreRefused(f"A job cannot go from {row['status']} to {status}. (P0001)")
        progress = max(row["progress"], values.get("progress", 0))
        row |= values | {"progress": progress}
        self._touch(row)
        if row["status"] in ENDED:
            row |= {"eta_at": None, "ending_code": None, "ending_message": None}


@dataclass
class FakeRunPod:
    """RunPod that answers what the test wrote down; an exception is raised instead."""

    endpoint_id: str = "endpoint"
    answers: deque[RunUpdate | Exception] = field(default_factory=deque)
    runs: dict[str, RunUpdate | Exception] = field(default_factory=dict)
    health_says: Health | Exception = field(default_factory=lambda: health())
    posts: list[Mapping[str, object]] = field(default_factory=list)
    polled: list[str] = field(default_factory=list)
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
        self.polled.append(run_id)
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
        self.allowed: list[float] = []
        self.discarded: list[str] = []
        self.opening = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.storage_away = False

    @asynccontextmanager
    async def open(
        self, *, image_url: str | None, audio_url: str | None, user_id: str | None, seconds: float
    ) -> AsyncIterator[Any]:
        self.opened += 1
        self.allowed.append(seconds)
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
