"""A running Realtime listener in a test, with queues of what it reported."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from worker.supabase.realtime import ChangeHint, Pace, RealtimeListener, Timings

KEY = "plain0word0without0prefix"
QUICK = Timings(join=1, ready=0.5, check=0.02, heartbeat=0.1, heartbeat_answer=1, close=0.3)
# For tests in which no session may end by itself, however slow the machine is.
PATIENT = Timings()
PACE = Pace(first=0.01, longest=0.05, rate_limited=0.05)


@dataclass
class Heard:
    """A listener and what it reported; `failures` has state and reason at each failure."""

    listener: RealtimeListener
    failures: list[tuple[str, str | None]]
    hints: "asyncio.Queue[ChangeHint]" = field(default_factory=asyncio.Queue)
    readies: "asyncio.Queue[None]" = field(default_factory=asyncio.Queue)

    async def ready(self) -> None:
        """Wait until it asks for a sweep."""
        async with asyncio.timeout(60):
            await self.readies.get()

    async def hint(self) -> ChangeHint:
        """Wait for the next hint."""
        async with asyncio.timeout(60):
            return await self.hints.get()


def not_started(url: str, key: str = KEY, timings: Timings = QUICK, pace: Pace = PACE) -> Heard:
    """Return a listener that does not run yet."""
    hints: asyncio.Queue[ChangeHint] = asyncio.Queue()
    readies: asyncio.Queue[None] = asyncio.Queue()
    failures: list[tuple[str, str | None]] = []

    def jitter() -> float:
        # Called whenever a session fails: the one moment at which its reason is certainly set.
        failures.append((listener.state, listener.reason))
        return 0.5

    listener = RealtimeListener(
        url=url,
        key=key,
        on_hint=hints.put_nowait,
        on_ready=lambda: readies.put_nowait(None),
        timings=timings,
        pace=pace,
        jitter=jitter,
    )
    return Heard(listener, failures, hints, readies)


@asynccontextmanager
async def listening(
    url: str, key: str = KEY, timings: Timings = QUICK, pace: Pace = PACE
) -> AsyncIterator[Heard]:
    """Run a listener as long as the context."""
    heard = not_started(url, key, timings, pace)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(heard.listener.run())
        try:
            yield heard
        finally:
            task.cancel()


def state_of(heard: Heard) -> str:
    """Return the state; a function, because mypy takes a property for unchanging."""
    return heard.listener.state


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that no queue reports."""
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)
