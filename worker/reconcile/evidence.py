"""Whether /health proves that a submission with a lost answer never reached RunPod's queue.

Only for an endpoint that nobody else uses: every run it counts must then be one of ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.jobs.health import Health

BEGIN_WITHIN = 120.0
GO_ON_FOR = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One look: when (monotonic seconds), the counters, and what /status said of our runs."""

    at: float
    health: Health
    confirmed_live: int
    ended_so_far: int


class Evidence:
    """Collects rounds for one unknown submission; a single contradicting round ends the search."""

    def __init__(self) -> None:
        self._first: Round | None = None
        self._spoilt = False

    @property
    def hopeless(self) -> bool:
        """Whether no later round can prove anything."""
        return self._spoilt

    def add(self, look: Round, *, age: float) -> bool:
        """Add a round made `age` seconds after begin_submission; True once it is proved."""
        if self._spoilt:
            return False
        if self._first is None:
            if age > BEGIN_WITHIN:
                self._spoilt = True
                return False
            self._first = look
        before, now = self._first.health, look.health
        grown = (now.completed + now.failed) - (before.completed + before.failed)
        ended = look.ended_so_far - self._first.ended_so_far
        # A counter that falls has begun anew, and hides what it counted before.
        if now.in_queue + now.in_progress > look.confirmed_live or not 0 <= grown <= ended:
            self._spoilt = True
            return False
        return look.at - self._first.at >= GO_ON_FOR
