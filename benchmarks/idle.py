"""The cost of an idle daemon: resident memory and CPU over a minute, with the default settings."""

from __future__ import annotations

import argparse
import asyncio
import time

from benchmarks._rig import PRODUCTION, cpu_seconds, rss_mib, show
from tests.world import World, running


async def measure(seconds: float) -> list[tuple[str, str, str]]:
    """Measure before and after the first job, since decoding loads libraries."""
    async with World(settings=PRODUCTION) as world, running(world) as daemon:
        assert daemon.process is not None
        pid = daemon.process.pid
        await asyncio.sleep(5)
        fresh = rss_mib(pid)
        await world.until(await world.insert(), "completed")
        await asyncio.sleep(2)
        cpu, began, most = cpu_seconds(pid), time.monotonic(), 0.0
        while time.monotonic() - began < seconds:
            await asyncio.sleep(1)
            most = max(most, rss_mib(pid))
        share = (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
        return [
            ("RSS before the first job", f"{fresh:.0f} MiB", "< 114 MiB (120 MB)"),
            ("RSS after a job, most", f"{most:.0f} MiB", "< 114 MiB (120 MB)"),
            ("CPU", f"{share:.2%} of a core", "< 2 %"),
        ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    show(f"an idle daemon over {chosen.seconds:g} s", asyncio.run(measure(chosen.seconds)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
