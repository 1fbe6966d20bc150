"""A process whose loop gets stuck in the way its argument says; the watchdog must end it."""

import asyncio
import sys
import time

from worker.runtime.loops import Heartbeats, Wakeup, every
from worker.runtime.readiness import Readiness
from worker.runtime.watchdog import Watchdog, measure_lag


async def main(how: str) -> None:
    """Let one loop get stuck; without a watchdog this would never end."""
    stop, beats = asyncio.Event(), Heartbeats()
    watchdog = Watchdog(beats, patience=0.3, every=0.05)
    watchdog.start()
    ticks = 0

    async def tick() -> float | None:
        nonlocal ticks
        ticks += 1
        if how == "fine" and ticks == 30:
            stop.set()
        if how == "blocks" and ticks == 3:
            time.sleep(600)
        if how == "awaits" and ticks == 3:
            await asyncio.Event().wait()
        return 0.05

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(measure_lag(stop, beats))
        tasks.create_task(
            every(
                "dispatch",
                tick,
                seconds=0.05,
                stop=stop,
                wakeup=Wakeup(),
                beats=beats,
                readiness=Readiness(),
                slowest_tick=0.4,
            )
        )
    watchdog.stop()
    print("ended by itself")


asyncio.run(main(sys.argv[1]))
