"""How long to wait between two Realtime sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Backoff between sessions, in seconds, and how many missed changes end a session."""

    first: float = 0.5
    # Not longer than it takes the sweep to find a row: the backoff must not outlast an outage by
    # more than that.
    longest: float = 15.0
    # Realtime counts joins over a minute: after a refusal for their number, wait for longer.
    rate_limited: float = 30.0
    # After a session that was ready for this long, the backoff starts again from `first`.
    proven: float = 15.0
    misses: int = 3

    @classmethod
    def within(cls, sweep_seconds: float) -> Pace:
        """Return the default pace, with no wait longer than the time between two sweeps."""
        pace = cls()
        return replace(pace, longest=min(pace.longest, max(sweep_seconds, pace.first)))


class Backoff:
    """Counts the failures since the last session that worked."""

    def __init__(self, pace: Pace, jitter: Callable[[], float]) -> None:
        self._pace = pace
        self._jitter = jitter
        self._failures = 0

    def after(self, reason: str, *, ready_seconds: float, heard: bool) -> float:
        """Return the seconds to wait after a session that was ready for so long.

        `heard`: whether a change came through it, which proves that it worked.
        """
        pace = self._pace
        proven = heard or ready_seconds >= pace.proven
        self._failures = 1 if proven else self._failures + 1
        delay = min(pace.first * 2.0 ** min(self._failures - 1, 10), pace.longest)
        if "RateLimit" in reason:
            delay = max(delay, pace.rate_limited)
        return delay * (0.5 + self._jitter() / 2)
