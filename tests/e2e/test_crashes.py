"""Killed between any two steps, the daemon loses no job and pays none twice.

Nothing here depends on how fast this machine is: no run starts at RunPod before the new process is
ready, and a wait that takes hours is over when the test ages the submission.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from devstack.faults import Faults
from devstack.postgres import Postgres
from tests.e2e.kit import attempts, world_on
from tests.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

RPC = "/rest/v1/rpc/"
WRITE = f"{RPC}write_video_job_changes_v1"
TERMINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A request that is held while the daemon is killed.

    `when`: "before", it never arrives; "after", it took and the answer never came. `accepted`:
    the first such request after the row is submitted is meant.
    """

    name: str
    where: str
    path: str
    when: str
    accepted: bool = False


STEPS = [
    Step(name="claim", where="gateway", path=f"{RPC}claim_video_jobs_v1", when="after"),
    Step(
        name="fetch", where="gateway", path="/storage/v1/object/public/samples/small.wav",
        when="before",
    ),
    *(
        Step(name=name, where=where, path=path, when=when, accepted=accepted)
        for name, where, path, accepted in (
            ("begin", "gateway", f"{RPC}begin_video_job_submission_v1", False),
            ("run", "runpod", "/run$", False),
            ("record", "gateway", WRITE, False),
            ("status", "runpod", "/status/", False),
            ("news", "gateway", WRITE, True),
        )
        for when in ("before", "after")
    ),
]  # fmt: skip
# Here RunPod has accepted the run, and nobody but its webhook can tell.
ACCEPTED_UNKNOWN = [
    step for step in STEPS if (step.name, step.when) in (("run", "after"), ("record", "before"))
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.name}-{step.when}")
async def test_a_kill_at_this_step_costs_no_second_run(postgres: Postgres, step: Step) -> None:
    """SIGKILL while the request is held; the next process ends the job with its one run."""
    runs, states = await _kill_at(postgres, step, webhooks=True)
    assert runs == 1
    assert states[-1] == "completed"
    assert set(states[:-1]) <= {"expired"}


@pytest.mark.parametrize("step", ACCEPTED_UNKNOWN, ids=lambda step: f"{step.name}-{step.when}")
async def test_without_webhooks_an_unknown_run_is_counted(postgres: Postgres, step: Step) -> None:
    """Nothing can adopt the run: after the wait there is a second one, both on record."""
    runs, states = await _kill_at(postgres, step, webhooks=False)
    assert runs == 2
    assert states == ["expired", "completed"]


async def _kill_at(postgres: Postgres, step: Step, *, webhooks: bool) -> tuple[int, list[str]]:
    settings = {"SUBMIT_UNKNOWN_WAIT_SECONDS": "3600"} | (
        {} if webhooks else {"WEBHOOK_SECRET": ""}
    )
    options = {"run_seconds_min": 0.2, "run_seconds_max": 0.2, "simulated_workers": 0}
    async with world_on(postgres, options=options, settings=settings) as world:
        daemon = world.daemon()
        await daemon.start()
        await daemon.ready(60)
        job_id = await _held_insert(world, step)
        await daemon.kill()
        world.stack.gateway.faults.clear()
        world.runpod.faults.clear()
        await daemon.start()
        # The row may have its end already, and a process that only begins knows no SIGTERM.
        await daemon.ready(60)
        _let_runs_start(world)
        await _until_ended(world, job_id, webhooks=webhooks)
        row = await world.job(job_id)
        assert row["status"] == "completed", row
        assert await daemon.terminate(60) == 0
        made = await attempts(world, job_id)
        # Each run has a submission of its own: none was started that the record does not know.
        assert len(world.runs_of(job_id)) <= len(made)
        assert all(run.state.terminal for run in world.runpod.runs)
        return len(world.runs_of(job_id)), [attempt["state"] for attempt in made]


def _let_runs_start(world: World) -> None:
    world.runpod.cloud.options = world.runpod.cloud.options.changed({"simulated_workers": 4})


async def _held_insert(world: World, step: Step) -> str:
    """Insert a row whose life meets the step, and wait until it does."""
    faults: Faults = world.stack.gateway.faults if step.where == "gateway" else world.runpod.faults
    hold = {"path": step.path, "action": "hold", "when": step.when, "times": 1}
    if step.name == "claim":
        job_id = await world.insert(priority=-1)
        rule = faults.add(hold)
    elif step.accepted:
        job_id = await world.insert()
        await world.until(job_id, "submitted", seconds=60)
        rule = faults.add(hold)
        _let_runs_start(world)
    else:
        rule = faults.add(hold)
        job_id = await world.insert()
    assert await faults.wait_hit(rule.id, timeout=60)
    return job_id


async def _until_ended(world: World, job_id: str, *, webhooks: bool) -> None:
    """Wait for the end; an unknown submission that nothing can adopt is aged past its wait."""
    age = (
        "update public.video_job_attempts set created_at = now() - interval '2 hours', "
        "next_poll_at = now() where job_id = %s and state = 'unknown'"
    )
    async with asyncio.timeout(120):
        while (await world.job(job_id))["status"] not in TERMINAL:
            adoptable = webhooks and world.runs_of(job_id)
            if not adoptable:
                await world.sql(age, job_id)
            await asyncio.sleep(0.1)
