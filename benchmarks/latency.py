"""Latency from the INSERT until the request arrives at RunPod."""

from __future__ import annotations

import argparse
import asyncio
import time

import psycopg

from benchmarks._rig import PRODUCTION, percentile, show
from tests.world import World, running

INSERT = "insert into public.video_jobs (image_url, audio_url) values (%s, %s) returning id::text"


async def measure(inserts: int, every: float) -> list[float]:
    """Return the seconds for each row, with the INSERT and the check of small local media."""
    async with (
        World(settings=PRODUCTION) as world,
        running(world),
        await psycopg.AsyncConnection.connect(
            world.stack.database_url, autocommit=True
        ) as connection,
    ):
        # The first job loads the decoding libraries.
        await world.until(await world.insert(), "completed")
        sent: dict[str, float] = {}
        began = time.monotonic()
        for number in range(inserts):
            await asyncio.sleep(max(0.0, began + number * every - time.monotonic()))
            at = time.monotonic()
            cursor = await connection.execute(INSERT, (world.image_url, world.audio_url))
            row = await cursor.fetchone()
            assert row is not None
            sent[row[0]] = at
        for job_id in sent:
            await world.until(job_id, "completed", "failed", seconds=60)
        # The stand-in uses the clock of this process.
        return [world.runs_of(job_id)[0].submitted_at - at for job_id, at in sent.items()]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inserts", type=int, default=50)
    parser.add_argument("--every", type=float, default=1.0, help="seconds")
    chosen = parser.parse_args()
    found = asyncio.run(measure(chosen.inserts, chosen.every))
    show(
        f"INSERT to POST /run, {chosen.inserts} rows, one each {chosen.every:g} s",
        [
            ("p50", f"{percentile(found, 50) * 1000:.0f} ms", "< 1000 ms"),
            ("p95", f"{percentile(found, 95) * 1000:.0f} ms", ""),
            ("most", f"{max(found) * 1000:.0f} ms", ""),
        ],
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
