"""A daemon killed between any two steps loses no job and pays none twice."""

from __future__ import annotations

import pytest

from devstack.faults import Faults
from devstack.postgres import Postgres
from tests.e2e.kit import world_on
from tests.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

RPC = "/rest/v1/rpc/"
# (where, path, when): "before": the request never arrives; "after": only the answer is lost.
STEPS = [
    ("gateway", f"{RPC}claim_video_jobs_v1", "after"),
    ("gateway", "/storage/v1/object/public/samples/small.wav", "before"),
    ("gateway", f"{RPC}begin_video_job_submission_v1", "before"),
    ("gateway", f"{RPC}begin_video_job_submission_v1", "after"),
    ("runpod", "/run$", "before"),
    ("runpod", "/run$", "after"),
    ("gateway", f"{RPC}record_video_job_submission_v1", "before"),
    ("gateway", f"{RPC}record_video_job_submission_v1", "after"),
    ("runpod", "/status/", "before"),
    ("runpod", "/status/", "after"),
    ("gateway", f"{RPC}write_video_job_changes_v1", "before"),
    ("gateway", f"{RPC}write_video_job_changes_v1", "after"),
]
# Here RunPod has accepted the run, and only its webhook can report it.
ACCEPTED_UNKNOWN = [STEPS[5], STEPS[6]]


def _name(step: tuple[str, str, str]) -> str:
    return f"{step[1].rsplit('/', 1)[-1]}-{step[2]}"


@pytest.mark.parametrize("step", STEPS, ids=_name)
async def test_a_kill_at_this_step_costs_no_second_run(
    postgres: Postgres, step: tuple[str, str, str]
) -> None:
    """SIGKILL while the request is held; the next process ends the job with its one run."""
    runs, states = await _kill_at(postgres, step, webhooks=True)
    assert runs == 1
    assert states[-1] == "completed"
    assert set(states[:-1]) <= {"expired"}


@pytest.mark.parametrize("step", ACCEPTED_UNKNOWN, ids=_name)
async def test_without_webhooks_an_unknown_run_is_counted(
    postgres: Postgres, step: tuple[str, str, str]
) -> None:
    """Nothing can adopt the run: after the wait there is a second one; both are recorded."""
    runs, states = await _kill_at(postgres, step, webhooks=False)
    assert runs == 2
    assert states == ["expired", "completed"]


async def _kill_at(
    postgres: Postgres, step: tuple[str, str, str], *, webhooks: bool
) -> tuple[int, list[str]]:
    where, path, when = step
    settings = {"SUBMIT_UNKNOWN_WAIT_SECONDS": "8"} | ({} if webhooks else {"WEBHOOK_SECRET": ""})
    options = {"run_seconds_min": 0.5, "run_seconds_max": 0.5, "webhook_interval_seconds": 3.0}
    async with world_on(postgres, options=options, settings=settings) as world:
        faults = world.stack.gateway.faults if where == "gateway" else world.runpod.faults
        daemon = world.daemon()
        await daemon.start()
        await daemon.ready()
        job_id = await _held_insert(world, faults, path, when)
        await daemon.kill()
        faults.clear()
        await daemon.start()
        # The row may have ended already, and a process that is starting ignores SIGTERM.
        await daemon.ready()
        row = await world.until(job_id, "completed", "failed", "cancelled", seconds=60)
        assert row["status"] == "completed", row
        assert await daemon.terminate() == 0
        attempts = await world.sql(
            "select state from public.video_job_attempts where job_id = %s order by attempt", job_id
        )
        # Each run has its own submission: no run started without a record.
        assert len(world.runs_of(job_id)) <= len(attempts) == row["submissions"]
        assert all(run.state.terminal for run in world.runpod.runs)
        return len(world.runs_of(job_id)), [row["state"] for row in attempts]


async def _held_insert(world: World, faults: Faults, path: str, when: str) -> str:
    if "claim" not in path:
        rule = faults.add({"path": path, "action": "hold", "when": when, "times": 1})
        job_id = await world.insert()
    else:
        job_id = await world.insert(priority=-1)
        rule = faults.add({"path": path, "action": "hold", "when": when, "times": 1})
    assert await faults.wait_hit(rule.id, timeout=30)
    return job_id
