"""A running doorbell in a test, with queues of what it told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from worker.supabase.realtime import Pace, RealtimeDoorbell, Ring, Timings

KEY = "plain0word0without0prefix"
QUICK = Timings(join=1, ready=0.5, check=0.02, heartbeat=0.1, heartbeat_answer=1, close=0.3)
PACE = Pace(first=0.01, longest=0.05, rate_limited=0.05)


@dataclass
class Ears:
    """A running doorbell and what it told; `troubles` are state and reason at each failure."""

    bell: RealtimeDoorbell
    troubles: list[tuple[str, str | None]]
    rings: "asyncio.Queue[Ring]" = field(default_factory=asyncio.Queue)
    readies: "asyncio.Queue[None]" = field(default_factory=asyncio.Queue)

    async def ready(self) -> None:
        """Wait until it asks for a sweep."""
        async with asyncio.timeout(15):
            await self.readies.get()

    async def ring(self) -> Ring:
        """Wait for the next ring."""
        async with asyncio.timeout(15):
            return await self.rings.get()


def silent(url: str, key: str = KEY, timings: Timings = QUICK, pace: Pace = PACE) -> Ears:
    """A doorbell that does not run yet."""
    rings: asyncio.Queue[Ring] = asyncio.Queue()
    readies: asyncio.Queue[None] = asyncio.Queue()
    troubles: list[tuple[str, str | None]] = []

    def jitter() -> float:
        # Drawn whenever a session fails: the one moment at which its reason stands for certain.
        troubles.append((bell.state, bell.reason))
        return 0.5

    bell = RealtimeDoorbell(
        url=url,
        key=key,
        on_ring=rings.put_nowait,
        on_ready=lambda: readies.put_nowait(None),
        timings=timings,
        pace=pace,
        jitter=jitter,
    )
    return Ears(bell, troubles, rings, readies)


@asynccontextmanager
async def listening(
    url: str, key: str = KEY, timings: Timings = QUICK, pace: Pace = PACE
) -> AsyncIterator[Ears]:
    """A doorbell that runs as long as the context."""
    ears = silent(url, key, timings, pace)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ears.bell.run())
        try:
            yield ears
        finally:
            task.cancel()


def state_of(ears: Ears) -> str:
    """Asked by a function, because mypy takes a property for unchanging."""
    return ears.bell.state


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that no queue tells."""
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)
