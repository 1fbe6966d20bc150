"""What the model of the submission protocol knows of a row, its submissions, runs and workers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from tests.harness import POLICY
from worker.jobs.events import (
    Accepted,
    Event,
    NotFound,
    Observed,
    OutcomeUnknown,
    Refused,
    Rejected,
    Released,
    Reviewed,
)
from worker.jobs.job import Case, Job, JobStatus, Submission, SubmissionState
from worker.jobs.lifecycle import decide
from worker.jobs.run import RunState, RunUpdate

AGES = 1e9
ENDED = ("completed", "failed", "cancelled")
OPEN = ("submitting", "unknown", "queued", "running")
LIVE = ("queued", "running")


class Row(NamedTuple):
    """The columns of video_jobs that the protocol depends on."""

    status: str = "queued"
    attempt: int = 0
    try_number: int = 1
    cancel: bool = False
    ending: str | None = None
    owner: int | None = None
    lease: bool = False


class Sub(NamedTuple):
    """A submission, the run it may have started (`run`), and how many POSTs were made of it."""

    attempt: int
    try_number: int
    state: str = "submitting"
    known: bool = False
    video: bool = False
    code: str | None = None
    doubted: bool = False
    over: bool = False
    run: str | None = None
    posts: int = 0


class Hand(NamedTuple):
    """What a worker does with a claim: idle, preparing, begun, accepted, unknown or refused."""

    stage: str = "idle"
    attempt: int = 0


class Look(NamedTuple):
    """An observation and the case it will be written on: /status was asked, nothing written yet."""

    attempt: int
    seen: str
    row: Row | None
    subs: tuple[Sub, ...]


class State(NamedTuple):
    """Everything that matters for what may happen next."""

    row: Row | None = Row()
    subs: tuple[Sub, ...] = ()
    hands: tuple[Hand, ...] = (Hand(), Hand())
    look: Look | None = None

    def sub(self, attempt: int) -> Sub | None:
        return next((one for one in self.subs if one.attempt == attempt), None)

    def with_sub(self, attempt: int, **values: Any) -> State:
        changed = (s._replace(**values) if s.attempt == attempt else s for s in self.subs)
        return self._replace(subs=tuple(changed))

    def with_row(self, **values: Any) -> State:
        assert self.row is not None
        return self._replace(row=self.row._replace(**values))

    def with_hand(self, worker: int, hand: Hand = Hand()) -> State:  # noqa: B008 - frozen, so sharing it is safe
        hands = tuple(hand if n == worker else one for n, one in enumerate(self.hands))
        return self._replace(hands=hands)

    @property
    def written(self) -> tuple[Sub, ...]:
        """The submissions without what only RunPod knows."""
        return tuple(one._replace(run=None, posts=0) for one in self.subs)

    @property
    def states(self) -> tuple[tuple[int, str], ...]:
        return tuple((one.attempt, one.state) for one in self.subs if one.state in OPEN)


RESENDABLE = "job timed out after 1 retries"
RUN = {
    "queued": RunUpdate(run_id="r", state=RunState.QUEUED),
    "slow": RunUpdate(run_id="r", state=RunState.QUEUED),
    "running": RunUpdate(run_id="r", state=RunState.RUNNING),
    "done": RunUpdate(run_id="r", state=RunState.COMPLETED, video_url="https://v"),
    "failed": RunUpdate(run_id="r", state=RunState.FAILED, error=RESENDABLE),
    "cancelled": RunUpdate(run_id="r", state=RunState.CANCELLED),
}


def event_of(name: str, n: int) -> Event:
    """The event that a name of the model stands for."""
    if name in RUN:
        return Observed(attempt=n, update=RUN[name])
    events: dict[str, Event] = {
        "gone": NotFound(attempt=n, healthy=True),
        "accepted": Accepted(attempt=n, run_id="r"),
        "refused": Refused(attempt=n, reason="no"),
        "unknown": OutcomeUnknown(attempt=n, reason="timeout"),
        "rejected": Rejected(attempt=n, code="audio_missing", message="no"),
        "released": Released(attempt=n),
    }
    return events.get(name, Reviewed())


class Outcome(NamedTuple):
    row: tuple[tuple[str, object], ...]
    subs: tuple[tuple[int, tuple[tuple[str, object], ...]], ...]
    cancel: tuple[int, ...]


def lease_left(row: Row) -> float | None:
    """Seconds of lease that are left: some, none any more, or no lease at all."""
    return None if row.owner is None else 9.0 if row.lease else -9.0


@cache
def judge(row: Row | None, subs: tuple[Sub, ...], attempt: int, name: str, most: int) -> Outcome:
    """The real decision, on the case that video_job_case_v1 would return."""
    job = row and Job(
        id="j", user_id=None, status=JobStatus(row.status), phase="", attempt=row.attempt,
        try_number=row.try_number, revision=0, cancel_requested=row.cancel,
        ending_code=row.ending, lease_left=lease_left(row),
    )  # fmt: skip
    known = [sub for sub in subs if sub.state in OPEN or (row and sub.try_number == row.try_number)]
    case = Case(
        job_id="j",
        job=job,
        submissions=tuple(
            Submission(
                job_id="j", attempt=sub.attempt, try_number=sub.try_number, endpoint_id="e",
                state=SubmissionState(sub.state), runpod_job_id="r" if sub.known else None,
                plan={}, video_url="https://v" if sub.video else None, error_code=sub.code,
                resend=sub.code == "run_lost", age=AGES if name == "waited" else 0.0,
                ttl_left=0.0 if sub.over else AGES, queued_for=AGES if name == "slow" else 0.0,
                missing_for=AGES, missing_looks=9, next_poll_in=-9.0 if name == "stranded" else 9.0,
            )
            for sub in known
        ),
    )  # fmt: skip
    policy = replace(POLICY, max_submissions=most, unknown_wait=AGES / 2)
    decision = decide(case, event_of(name, attempt), policy, webhooks_work=True, jitter=0.5)
    change = decision.change
    hidden = ("error_message", "warnings")
    return Outcome(
        row=tuple(sorted((k, v) for k, v in change.job.items() if k not in hidden)),
        subs=tuple(
            (part.attempt, tuple((k, v) for k, v in part.values.items() if k not in hidden))
            for part in change.submissions
        ),
        cancel=tuple(sub.attempt for sub in decision.effects.cancel),
    )


def canonical(state: State) -> State:
    """The same state in its one form: attempts numbered by rank, forgotten submissions left out."""
    row = state.row
    subs = [
        one for one in state.subs
        if one.run in LIVE or one.state in OPEN or one.posts > 1
        or (row and one.try_number == row.try_number and one.state != "refused")
        or any(hand.attempt == one.attempt and hand.stage != "idle" for hand in state.hands)
    ]  # fmt: skip
    seen = {one.attempt for one in subs} | {one.attempt for one in state.hands}
    look = state.look
    if look is not None:
        seen |= {look.attempt} | {one.attempt for one in look.subs}
        seen |= {look.row.attempt if look.row else 0}
    rank = {n: place for place, n in enumerate(sorted(seen | {row.attempt if row else 0, 0}))}
    if look is not None:
        look = look._replace(
            attempt=rank[look.attempt],
            row=look.row and look.row._replace(attempt=rank[look.row.attempt]),
            subs=tuple(one._replace(attempt=rank[one.attempt]) for one in look.subs),
        )
    plain = State(
        row=row and row._replace(attempt=rank[row.attempt]),
        subs=tuple(one._replace(attempt=rank[one.attempt]) for one in subs),
        hands=tuple(Hand(one.stage, rank[one.attempt]) for one in state.hands),
        look=look,
    )
    # The two workers are alike: the one whose hand comes first in order is called the first.
    if plain.hands[0] <= plain.hands[1]:
        return plain
    return plain._replace(
        row=swapped(plain.row),
        hands=plain.hands[::-1],
        look=plain.look and plain.look._replace(row=swapped(plain.look.row)),
    )


def swapped(row: Row | None) -> Row | None:
    """The row as it is when the two workers change places."""
    return row and row._replace(owner=None if row.owner is None else 1 - row.owner)
