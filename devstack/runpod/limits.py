"""RunPod's published rate limits per operation: always counted, enforced on request."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

WINDOW_SECONDS: Final = 10.0
# Requests per window and concurrent requests, from RunPod's documentation.
LIMITS: Final = {
    "run": (1000, 200),
    "runsync": (2000, 400),
    "status": (2000, 400),
    "stream": (2000, 400),
    "cancel": (100, 20),
    "purge-queue": (2, 1000),
}


class TooMany(Exception):
    """A limit was exceeded (429)."""


@dataclass(slots=True)
class Meter:
    """The counters of one operation."""

    recent: deque[float] = field(default_factory=deque)
    total: int = 0
    refused: int = 0
    open: int = 0
    peak_window: int = 0
    peak_open: int = 0


class Limits:
    """Counts requests per operation."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._meters: dict[str, Meter] = {}

    @contextmanager
    def count(self, operation: str, *, enforce: bool) -> Iterator[None]:
        """Count one request while it is answered; raise TooMany beyond the limit."""
        meter = self._meters.setdefault(operation, Meter())
        now = self._clock()
        while meter.recent and now - meter.recent[0] > WINDOW_SECONDS:
            meter.recent.popleft()
        per_window, at_once = LIMITS.get(operation, (1_000_000, 1_000_000))
        if enforce and (len(meter.recent) >= per_window or meter.open >= at_once):
            meter.refused += 1
            raise TooMany
        meter.recent.append(now)
        meter.total += 1
        meter.open += 1
        meter.peak_window = max(meter.peak_window, len(meter.recent))
        meter.peak_open = max(meter.peak_open, meter.open)
        try:
            yield
        finally:
            meter.open -= 1

    def as_json(self) -> dict[str, object]:
        """Return totals and peaks per operation."""
        return {
            name: {
                "total": meter.total,
                "refused": meter.refused,
                "peak_per_10s": meter.peak_window,
                "peak_at_once": meter.peak_open,
            }
            for name, meter in self._meters.items()
        }
