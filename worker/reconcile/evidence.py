"""Whether /health proves that a submission with a lost answer never reached RunPod's queue.

Only for an endpoint that nobody else uses: every run it counts must then be one of ours. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.jobs.health import Health

BEGIN_WITHIN = 120.0
"""The first round must begin so many seconds after the submission, or its run may be over."""
GO_ON_FOR = 60.0
"""Rounds must agree for so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round: when (monotonic seconds), the counters, and what /status said of our runs."""

    at: float
    health: Health
    confirmed_live: int
    ended_so_far: int


class Evidence:
    """Collects rounds for one unknown submission; one contradicting round makes it inconclusive."""

    def __init__(self) -> None:
        self.inconclusive = False
        """Whether no later round can prove anything."""
        self._first: Round | None = None

    def add(self, seen: Round, *, age: float) -> bool:
        """Add a round made `age` seconds after the submission; True once it is proved."""
        if self._first is None and age > BEGIN_WITHIN:
            self.inconclusive = True
        if self.inconclusive:
            return False
        self._first = self._first or seen
        before, now = self._first.health, seen.health
        grown = (now.completed + now.failed) - (before.completed + before.failed)
        ended = seen.ended_so_far - self._first.ended_so_far
        # A counter that falls was reset, and hides what it counted before.
        if now.in_queue + now.in_progress > seen.confirmed_live or not 0 <= grown <= ended:
            self.inconclusive = True
            return False
        return seen.at - self._first.at >= GO_ON_FOR
