"""`make chaos SEED=… MINUTES=…`: random faults under load, a table, and 1 if an invariant broke."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import random
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.faults import RETENTION_SECONDS, Mischief
from tests.chaos.observer import Observer
from tests.chaos.people import People
from tests.chaos.verdict import Verdict, judge
from tests.world import Balancer, Daemon, World

OPTIONS = {
    "run_seconds_min": 0.2,
    "run_seconds_max": 2.0,
    "retention_seconds": RETENTION_SECONDS,
    "webhook_lost": 0.15,
    "webhook_twice": 0.15,
    "webhook_late": 0.1,
    "webhook_late_seconds": 4.0,
    "webhook_forged": 0.1,
    "lose_run": 0.01,
    "lose_output": 0.01,
    "hang": 0.01,
    # executionTimeout of 600 s and more becomes some 6 s.
    "policy_scale": 0.008,
}
SETTINGS = {
    "SUBMIT_UNKNOWN_WAIT_SECONDS": "12",
    "MAX_IN_FLIGHT": "60",
    "MAX_QUEUED_RUNS": "60",
    "MAX_IN_FLIGHT_PER_USER": "20",
    "MAX_SUBMISSIONS_PER_USER_PER_DAY": "100000",
    "MAX_SUBMISSIONS": "8",
    "LOG_LEVEL": "info",
}
SETTLE_SECONDS = 90.0


async def storm(*, seed: int, seconds: float, jobs: int, workers: int) -> Verdict:
    """One storm; the same seed draws the same faults and the same people."""
    rng = random.Random(seed)
    options = {**OPTIONS, "seed": seed}
    async with World(options=options, settings=SETTINGS) as world:
        daemons: list[Daemon] = []
        balancer = Balancer(daemons, random.Random(seed + 1))
        await balancer.start()
        for _ in range(workers):
            daemon = world.daemon(public_url=f"http://127.0.0.1:{balancer.port}")
            daemons.append(daemon)
            await daemon.start()
        await asyncio.gather(*(daemon.ready() for daemon in daemons))
        observer = Observer(world.stack.url, world.stack.keys.service_role)
        people = People(world, random.Random(seed + 2), jobs=jobs, seconds=seconds * 0.8)
        mischief = Mischief(world, daemons, rng)
        began = time.monotonic()
        listening = asyncio.create_task(observer.run())
        try:
            await asyncio.gather(people.run(), mischief.run(began + seconds))
            world.stack.gateway.faults.clear()
            world.runpod.faults.clear()
            settled = await _settle(world)
        finally:
            listening.cancel()
        verdict = await judge(world, people)
        verdict.broken += observer.broken
        verdict.figures |= {
            "realtime events observed": observer.events,
            "steps back that were seen": len(observer.broken),
            "seconds until all had come to rest": round(settled, 1),
        }
        if mischief.recoveries:
            verdict.figures["seconds until a killed worker's rows were free, most"] = round(
                max(mischief.recoveries), 1
            )
        for name, count in sorted(mischief.counts.items()):
            verdict.figures[f"fault: {name}"] = count
        if verdict.broken:
            _keep_logs(world, seed)
        await balancer.stop()
        return verdict


async def _settle(world: World) -> float:
    began = time.monotonic()
    query = (
        "select (select count(*) from public.video_jobs where status not in "
        "('completed', 'failed', 'cancelled')) + (select count(*) from public.video_job_attempts "
        "where state in ('submitting', 'unknown', 'queued', 'running')) as n"
    )
    fewest, since = math.inf, began
    while time.monotonic() - since < SETTLE_SECONDS:
        left = (await world.sql(query))[0]["n"]
        if not left:
            break
        # A slow machine takes longer over what is left; only what no longer moves is stuck.
        if left < fewest:
            fewest, since = left, time.monotonic()
        await asyncio.sleep(0.5)
    return time.monotonic() - began


def _keep_logs(world: World, seed: int) -> None:
    for daemon in world.daemons:
        kept = f"chaos-{seed}-{daemon.log.name}"
        Path(kept).write_text(daemon.words())
        sys.stderr.write(f"log kept: {kept}\n")


def main() -> int:
    """Run and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=0, help="default: 100 per minute")
    parser.add_argument("--workers", type=int, default=3)
    chosen = parser.parse_args()
    jobs = chosen.jobs or int(100 * chosen.minutes)
    # Refused handshakes and cut connections are what we do here on purpose.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    verdict = asyncio.run(
        storm(seed=chosen.seed, seconds=60 * chosen.minutes, jobs=jobs, workers=chosen.workers)
    )
    table = Table(
        title=f"chaos, seed {chosen.seed}, {chosen.minutes:g} min, {chosen.workers} workers"
    )
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, figure in verdict.figures.items():
        table.add_row(name, str(figure))
    console = Console()
    console.print(table)
    for line in verdict.broken:
        console.print(f"BROKEN {line}", highlight=False, soft_wrap=True)
    console.print("all invariants hold" if not verdict.broken else "invariants are broken")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
