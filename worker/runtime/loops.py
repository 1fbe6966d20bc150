"""A loop is a tick plus this helper, which waits, survives transient errors and shows life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from worker.jobs.errors import StoreRefused, TransientError
from worker.runtime.metrics import METRICS
from worker.runtime.readiness import Readiness

log = structlog.get_logger(__name__)

# After trouble even a loop that comes round once an hour looks again soon.
TROUBLE_SECONDS = 15.0
# A flood of wakeups must not become a flood of ticks; the first one is answered at once.
LEAST_PAUSE = 0.1


class Heartbeats:
    """When each loop last came round, in monotonic seconds; /livez reads it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, tuple[float, float]] = {}

    def beat(self, name: str, allowed: float) -> None:
        """The loop has come round; it promises to do so again within `allowed` seconds."""
        self._beats[name] = (self._clock(), allowed)

    def stuck(self) -> list[str]:
        """Loops that broke their promise."""
        now = self._clock()
        return sorted(name for name, (at, allowed) in self._beats.items() if now - at > allowed)


class Wakeup:
    """An event that may carry a wish to be woken earlier than the interval."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the loop now (or, while it ticks, right after)."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Until woken or until the time has passed."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        # Cleared before the tick, never after: what comes during the tick must cause another.
        self._event.clear()


async def every(
    name: str,
    tick: Callable[[], Awaitable[float | None]],
    *,
    seconds: float,
    stop: asyncio.Event,
    wakeup: Wakeup,
    beats: Heartbeats,
    readiness: Readiness,
    slowest_tick: float,
) -> None:
    """Tick until stopped. A tick may return seconds until it wants to run again.

    TransientError, and a row that the table refuses, are reported and logged once per
    outage; anything else ends the process.
    """
    while not stop.is_set():
        beats.beat(name, slowest_tick)
        pause: float | None = None
        try:
            pause = await tick()
        except (TransientError, StoreRefused) as error:
            METRICS.loop_failures.labels(name).inc()
            if readiness.report(name, error.message, severity="down"):
                log.warning("loop.waiting", loop=name, reason=error.message)
            pause = error.retry_in if isinstance(error, TransientError) else None
            pause = TROUBLE_SECONDS if pause is None else pause
        else:
            if readiness.clear(name):
                log.info("loop.resumed", loop=name)
        pause = seconds if pause is None else min(max(pause, 0.05), seconds)
        beats.beat(name, pause + slowest_tick)
        least = min(LEAST_PAUSE, pause)
        await asyncio.sleep(least)
        await wakeup.wait(pause - least)
