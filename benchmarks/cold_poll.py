"""A cold start with a thousand open runs: time until each is polled, and load on RunPod."""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from pathlib import Path

import httpx
import psycopg

from benchmarks._rig import PRODUCTION, show
from devstack.postgres import SUPERUSER
from devstack.runpod.runs import Request
from tests.world import World, running

JOB = """
insert into public.video_jobs (id, image_url, audio_url, status, phase, attempt,
  runpod_job_id, started_at) values (%s, %s, %s, 'submitted', 'waiting_gpu', 1, %s, now())
"""
SUBMISSION = """
insert into public.video_job_attempts (job_id, attempt, try_number, endpoint_id, runpod_job_id,
  state, submitted_at, expires_at, next_poll_at)
values (%s, 1, 1, %s, %s, 'queued', now(), now() + interval '6 hours', now() + interval '1 hour')
"""
# Latency of RunPod's API.
ANSWER_SECONDS = 0.1
SEEN = "select count(*) as n from public.video_job_attempts where seen_at is not null"


async def _fill(world: World, runs: int) -> None:
    """Create runs at RunPod and their rows, as left by another process."""
    url = world.postgres.url(world.stack.database_url.rpartition("/")[2], user=SUPERUSER)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        # The guards refuse an insert with the status submitted.
        await connection.execute("set session_replication_role = replica")
        for _ in range(runs):
            job_id = str(uuid.uuid4())
            body = {"input": {"job": job_id}, "policy": {"ttl": 21_600_000}}
            run = world.runpod.cloud.accept(Request.from_body(body))
            values = (job_id, world.image_url, world.audio_url, run.id)
            await connection.execute(JOB, values)
            await connection.execute(SUBMISSION, (job_id, world.runpod.endpoint_id, run.id))


def connections(port: int) -> int:
    """Return the number of established TCP connections at this local port."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(line[1].endswith(f":{port:04X}") and line[3] == "01" for line in lines)


async def measure(runs: int) -> list[tuple[str, str, str]]:
    """Measure from the start of the process until every submission was polled."""
    async with World(options={"no_workers": True}, settings=PRODUCTION) as world:
        await _fill(world, runs)
        delay = {"path": "/status/", "action": "delay", "seconds": ANSWER_SECONDS}
        world.runpod.faults.add(delay)
        port, most = int(world.runpod.url.rpartition(":")[2]), 0
        began = time.monotonic()
        async with running(world):
            while (await world.sql(SEEN))[0]["n"] < runs:
                await asyncio.sleep(0.05)
                most = max(most, connections(port))
                if time.monotonic() - began > 300:
                    raise RuntimeError(f"only {await world.sql(SEEN)} were seen")
            took = time.monotonic() - began
            async with httpx.AsyncClient(trust_env=False) as http:
                stats = (await http.get(f"{world.runpod.url}/_control/stats")).json()
        polls = stats["requests"]["status"]
        return [
            ("all runs seen after", f"{took:.1f} s", "< 60 s"),
            ("requests to /status", str(polls["total"]), ""),
            ("most within 10 s", str(polls["peak_per_10s"]), "< 2000"),
            ("connections at once, most", str(most), "< 400"),
        ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    chosen = parser.parse_args()
    show(f"a cold start with {chosen.runs} open runs", asyncio.run(measure(chosen.runs)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
