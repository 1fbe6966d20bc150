"""Faults of the operator and of providers fail no job: rows wait, and /readyz says why."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from devstack.postgres import Postgres
from tests.e2e.kit import attempts, calm, met, readiness, until_ready, until_true, world_on
from tests.world import Daemon, World, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(90),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("e2e-waiting"),
]

AWAY = r"^/(rest|storage|realtime)"
UNKNOWN_SECONDS = 3.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(postgres: Postgres) -> AsyncIterator[tuple[World, Daemon]]:
    settings = {"SUBMIT_UNKNOWN_WAIT_SECONDS": str(UNKNOWN_SECONDS)}
    options = {"run_seconds_min": 0.6, "run_seconds_max": 0.6}
    async with (
        world_on(postgres, settings=settings, options=options) as world,
        running(world) as daemon,
    ):
        yield world, daemon


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: tuple[World, Daemon]) -> AsyncIterator[World]:
    """Each test ends with a ready daemon and a closed breaker."""
    yield shared[0]
    await calm(shared[0])
    row = await shared[0].until(await shared[0].insert(), "completed", "failed", seconds=40)
    assert row["status"] == "completed"
    await until_ready(shared[1], "ok", seconds=40)


@pytest.fixture
def daemon(shared: tuple[World, Daemon]) -> Daemon:
    return shared[1]


OPERATOR = {
    401: "RUNPOD_API_KEY",
    402: "credit",
    403: "RUNPOD_API_KEY",
    404: "RUNPOD_ENDPOINT_ID",
    429: "",
}


@pytest.mark.parametrize("status", OPERATOR)
async def test_jobs_wait_while_runpod_will_not_take_them(
    world: World, daemon: Daemon, status: int
) -> None:
    """None is lost, failed or counted as submitted; all continue when the fault is over."""
    rule = world.runpod.faults.add({"path": "/run$", "action": "status", "status": status})
    jobs = [await world.insert() for _ in range(2)]
    await met(world.runpod.faults, rule)
    reasons = await until_ready(daemon, "degraded" if status == 429 else "down")
    assert any("runpod" in reason and OPERATOR[status] in reason for reason in reasons)

    async def given_back() -> bool:
        rows = [await world.job(job_id) for job_id in jobs]
        return all(row["status"] == "queued" and row["submissions"] == 0 for row in rows)

    await until_true(given_back, "both rows wait in line")
    world.runpod.faults.clear()
    for job_id in jobs:
        row = await world.until(job_id, "completed", "failed")
        assert (row["status"], row["submissions"], row["error_code"]) == ("completed", 1, None)
        assert len(world.runs_of(job_id)) == 1
        states = [row["state"] for row in await attempts(world, job_id)]
        assert set(states[:-1]) <= {"refused"}
    assert await until_ready(daemon, "ok") == []


async def test_jobs_wait_while_supabase_is_unavailable(world: World, daemon: Daemon) -> None:
    """REST, Storage and Realtime answer 503; the open run is not forgotten."""
    out = await world.insert()
    await world.until(out, "submitted", "running")
    world.stack.gateway.faults.add({"path": AWAY, "action": "status", "status": 503})
    await world.stack.gateway.realtime.drop()
    waiting = await world.insert()
    reasons = await until_ready(daemon, "down")
    assert any("Supabase" in reason for reason in reasons)
    assert (await readiness(daemon))[0] == 503
    row = await world.job(waiting)
    assert (row["status"], row["attempt"], row["submissions"]) == ("queued", 0, 0)
    world.stack.gateway.faults.clear()
    for job_id in (out, waiting):
        row = await world.until(job_id, "completed", "failed")
        assert (row["status"], row["submissions"]) == ("completed", 1)
        assert len(world.runs_of(job_id)) == 1


@pytest.mark.parametrize("how", ["refused joins", "401 to the upgrade"])
async def test_without_realtime_the_sweep_finds_every_row(
    world: World, daemon: Daemon, how: str
) -> None:
    realtime = world.stack.gateway.realtime
    if how == "refused joins":
        realtime.apply({"refuse_joins": "Realtime is switched off for this project"})
    else:
        rule = {"path": "^/realtime", "action": "status", "status": 401}
        world.stack.gateway.faults.add(rule)
    await realtime.drop()
    reasons = await until_ready(daemon, "degraded")
    assert any("realtime" in reason and "sweep" in reason for reason in reasons)
    assert (await readiness(daemon))[0] == 200
    jobs = [await world.insert() for _ in range(3)]
    for job_id in jobs:
        assert (await world.until(job_id, "completed", "failed"))["status"] == "completed"
        assert len(world.runs_of(job_id)) == 1


async def test_a_realtime_that_tells_of_no_row_shows_until_it_tells_of_one(
    world: World, daemon: Daemon
) -> None:
    """Its socket is open and subscribed, as beyond the rate limit."""
    world.stack.gateway.realtime.apply({"mute": True})

    assert (await world.until(await world.insert(), "completed"))["status"] == "completed"

    async def deaf() -> bool:
        reasons = (await readiness(daemon))[1]["reasons"]
        return any("the last new row came without an event" in reason for reason in reasons)

    await until_true(deaf, "/readyz says that a row came without an event")
    assert (await readiness(daemon))[0] == 200
    world.stack.gateway.realtime.apply({"mute": False})
    assert (await world.until(await world.insert(), "completed"))["status"] == "completed"
    await until_ready(daemon, "ok")


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status", "status": 500},
        {"action": "status", "status": 200, "body": {"hello": "world"}},
        {"action": "drop"},
    ],
    ids=["500", "200-without-id", "cut"],
)
async def test_an_accepted_run_whose_answer_was_lost_is_adopted_by_its_webhook(
    world: World, fault: dict[str, object]
) -> None:
    """Until then the row says so, and nothing is posted a second time."""
    rule = world.runpod.faults.add({"path": "/run$", "when": "after", "times": 1, **fault})
    job_id = await world.insert()
    await met(world.runpod.faults, rule)

    async def confirming() -> bool:
        row = await world.job(job_id)
        return row["phase"] == "confirming_submission" or row["status"] == "completed"

    await until_true(confirming, "the row says that its submission is being confirmed")
    row = await world.until(job_id, "completed", "failed")
    assert (row["status"], row["submissions"]) == ("completed", 1)
    assert len(world.runs_of(job_id)) == 1
    assert [row["state"] for row in await attempts(world, job_id)] == ["completed"]
    said = await world.sql("select event from public.video_job_events where job_id = %s", job_id)
    assert {"event": "submission_unknown"} in said


async def test_an_unknown_submission_is_not_posted_again_before_its_time_is_up(
    world: World, daemon: Daemon
) -> None:
    """RunPod never got the request, but the worker cannot know: it counts; a second follows."""
    rule = world.runpod.faults.add(
        {"path": "/run$", "action": "status", "status": 503, "times": 1, "when": "before"}
    )
    job_id = await world.insert()
    await met(world.runpod.faults, rule)
    other = await world.insert()
    # Another row gets through as soon as RunPod answers again: the unknown one takes no slot.
    assert (await world.until(other, "completed", "failed"))["status"] == "completed"
    row = await world.until(job_id, "completed", "failed")
    assert (row["status"], row["submissions"]) == ("completed", 2)
    first, second = await attempts(world, job_id)
    assert (first["state"], second["state"]) == ("expired", "completed")
    assert (second["created_at"] - first["created_at"]).total_seconds() >= UNKNOWN_SECONDS
    assert len(world.runs_of(job_id)) == 1
    assert "Traceback" not in daemon.words()
