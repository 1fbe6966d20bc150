"""Time until another worker claims a killed worker's rows, in units of the lease."""

from __future__ import annotations

import argparse
import asyncio
import time

from benchmarks._rig import PRODUCTION, show
from tests.world import World

ROWS = 6
SOUND = "/storage/v1/object/public/samples/small.wav"
CLAIMED = "select count(*) as n from public.video_jobs where attempt >= %s"


async def _until(world: World, attempt: int, rows: int) -> float:
    async with asyncio.timeout(120):
        while True:
            if (await world.sql(CLAIMED, attempt))[0]["n"] >= rows:
                return time.monotonic()
            await asyncio.sleep(0.02)


async def one_kill(lease: float) -> tuple[float, float]:
    """Return the seconds from SIGKILL until the first and until all rows are claimed again."""
    # The same ratio of sweep and lease as in the defaults.
    settings = {
        **PRODUCTION,
        "LEASE_SECONDS": str(lease),
        "SWEEP_SECONDS": str(lease / 4),
        "MAX_QUEUED_RUNS": str(2 * ROWS),
    }
    async with World(settings=settings) as world:
        victim, sibling = world.daemon(), world.daemon()
        await victim.start()
        await victim.ready()
        world.stack.gateway.faults.add({"path": SOUND, "action": "hold"})
        for _ in range(ROWS):
            await world.insert()
        await _until(world, 1, ROWS)
        await sibling.start()
        await sibling.ready()
        killed = time.monotonic()
        await victim.kill()
        world.stack.gateway.faults.clear()
        first = await _until(world, 2, 1)
        return first - killed, await _until(world, 2, ROWS) - killed


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lease", type=float, default=10.0, help="seconds")
    parser.add_argument("--kills", type=int, default=3)
    chosen = parser.parse_args()
    lease = chosen.lease
    found = [asyncio.run(one_kill(lease)) for _ in range(chosen.kills)]
    first, last = max(times[0] for times in found), max(times[1] for times in found)
    show(
        f"SIGKILL with {ROWS} rows in preparation, lease {lease:g} s, {chosen.kills} times",
        [
            ("first row claimed again, most", f"{first:.1f} s = {first / lease:.2f} leases", "< 2"),
            ("all rows claimed again, most", f"{last:.1f} s = {last / lease:.2f} leases", "< 2"),
        ],
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
