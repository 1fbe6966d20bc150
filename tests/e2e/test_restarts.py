"""Deploys: two daemons are replaced one after the other under load; and how a process stops."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from devstack.postgres import Postgres
from tests.e2e.kit import at_rest, attempts, calm, met, world_on
from tests.world import Balancer, Daemon, World

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(110),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("e2e-restarts"),
]

JOBS = 30
GOODBYE_SECONDS = 20.0
SOUND = "/storage/v1/object/public/samples/small.wav"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(postgres: Postgres) -> AsyncIterator[World]:
    options = {"run_seconds_min": 0.5, "run_seconds_max": 2.5, "webhook_interval_seconds": 0.5}
    settings = {"MAX_IN_FLIGHT": "40", "MAX_QUEUED_RUNS": "40", "LEASE_SECONDS": "20"}
    async with world_on(postgres, options=options, settings=settings) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> AsyncIterator[World]:
    yield shared
    await calm(shared)
    for daemon in shared.daemons:
        await daemon.kill()
    await shared.sql("delete from public.video_jobs")


async def started(world: World, **settings: str) -> Daemon:
    daemon = world.daemon(**settings)
    await daemon.start()
    await daemon.ready()
    return daemon


async def goodbye(daemon: Daemon) -> float:
    """Send SIGTERM: it must exit with 0 and in time; return the seconds it took."""
    began = time.monotonic()
    assert await daemon.terminate() == 0, daemon.words()[-2000:]
    took = time.monotonic() - began
    assert took < GOODBYE_SECONDS
    assert "Traceback" not in daemon.words()
    return took


async def test_a_rolling_restart_under_load_loses_and_doubles_nothing(world: World) -> None:
    """Thirty jobs are inserted while both daemons are replaced; each is one run and one video."""
    alive: list[Daemon] = []
    balancer = Balancer(alive, random.Random(1))
    await balancer.start()
    public_url = f"http://127.0.0.1:{balancer.port}"
    for _ in range(2):
        alive.append(await started(world, public_url=public_url))
    jobs: list[str] = []

    async def people() -> None:
        for _ in range(JOBS):
            jobs.append(await world.insert())
            await asyncio.sleep(0.2)

    async def deploy() -> None:
        for _ in range(2):
            await asyncio.sleep(1.0)
            newcomer = await started(world, public_url=public_url)
            alive.append(newcomer)
            old = alive.pop(0)
            await goodbye(old)

    await asyncio.gather(people(), deploy())
    await at_rest(world)
    for job_id in jobs:
        row = await world.job(job_id)
        assert (row["status"], row["submissions"]) == ("completed", 1), row
        assert len(world.runs_of(job_id)) == 1
        assert [row["state"] for row in await attempts(world, job_id)] == ["completed"]
        assert row["crashes"] == 0
    for daemon in list(alive):
        await goodbye(daemon)
    await balancer.stop()


async def test_sigterm_gives_back_what_is_being_prepared(world: World) -> None:
    """At once, counted neither as a crash nor as a submission: the next process claims it."""
    daemon = await started(world)
    download = world.stack.gateway.faults.add({"path": SOUND, "action": "hold", "times": 1})
    job_id = await world.insert()
    await met(world.stack.gateway.faults, download)
    assert await goodbye(daemon) < 10
    row = await world.job(job_id)
    assert (row["status"], row["submissions"], row["crashes"]) == ("queued", 0, 0)
    assert row["lease_owner"] is None
    await started(world)
    assert (await world.until(job_id, "completed", "failed"))["status"] == "completed"
    assert len(world.runs_of(job_id)) == 1


async def test_sigterm_waits_for_an_unfinished_post(world: World) -> None:
    """It exits with 0 after RunPod has answered and the run is in the table."""
    daemon = await started(world)
    post = world.runpod.faults.add({"path": "/run$", "action": "hold", "when": "after", "times": 1})
    job_id = await world.insert()
    await met(world.runpod.faults, post)
    going = asyncio.create_task(goodbye(daemon))
    done, _ = await asyncio.wait([going], timeout=1.5)
    assert not done
    world.runpod.faults.release(post.id)
    await going
    (attempt,) = await attempts(world, job_id)
    (run,) = world.runs_of(job_id)
    assert attempt["runpod_job_id"] == run.id
    assert (await world.job(job_id))["status"] in ("submitted", "running", "completed")
    await started(world)
    row = await world.until(job_id, "completed", "failed")
    assert (row["status"], row["submissions"]) == ("completed", 1)
    assert len(world.runs_of(job_id)) == 1


async def test_the_next_process_adopts_every_open_run_within_one_sweep(world: World) -> None:
    """Runs that ended without a worker are found at the start, not at their next poll."""
    slow = {"POLL_SECONDS": "300", "SLOW_POLL_SECONDS": "300", "SWEEP_SECONDS": "5"}
    daemon = await started(world, **slow)
    jobs = [await world.insert() for _ in range(5)]
    for job_id in jobs:
        await world.until(job_id, "submitted", "running", "completed")
    await goodbye(daemon)
    while any(not run.state.terminal for run in world.runpod.runs):
        await asyncio.sleep(0.05)
    began = time.monotonic()
    await started(world, **slow)
    for job_id in jobs:
        row = await world.until(job_id, "completed", "failed", seconds=15)
        assert (row["status"], row["submissions"]) == ("completed", 1)
    assert time.monotonic() - began < 5 + 5


async def test_a_killed_worker_s_rows_are_taken_over_by_its_sibling(world: World) -> None:
    """SIGKILL of one of two while it prepares: the other has the row within twice the lease."""
    lease = 5.0
    one = await started(world, LEASE_SECONDS=str(lease))
    download = world.stack.gateway.faults.add({"path": SOUND, "action": "hold", "times": 1})
    job_id = await world.insert()
    await met(world.stack.gateway.faults, download)
    await started(world, LEASE_SECONDS=str(lease))
    began = time.monotonic()
    await one.kill()
    row = await world.until(job_id, "completed", "failed")
    assert (row["status"], row["attempt"], row["submissions"]) == ("completed", 2, 1)
    assert time.monotonic() - began < 2 * lease
    assert len(world.runs_of(job_id)) == 1
