"""People change the table: cancel, delete and retry, at every moment of a job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from devstack.postgres import Postgres
from devstack.runpod.runs import Run, State
from tests.e2e.kit import at_rest, attempts, calm, met, until_true, world_on
from tests.world import World, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(90),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("e2e-people"),
]

OPTIONS = {"hang": 0.0, "no_workers": False, "fail_text": None}
SOUND = "/storage/v1/object/public/samples/small.wav"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(postgres: Postgres) -> AsyncIterator[World]:
    settings = {"SUBMIT_UNKNOWN_WAIT_SECONDS": "3"}
    async with world_on(postgres, settings=settings) as world, running(world):
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> AsyncIterator[World]:
    """Check that a test leaves no open row, submission or run."""
    yield shared
    await calm(shared)
    behave(shared, **OPTIONS)
    await at_rest(shared)
    assert [run.id for run in shared.runpod.runs if not run.state.terminal and not run.gone] == []


def behave(world: World, **options: object) -> None:
    """Change how the GPU workers behave from now on."""
    world.runpod.cloud.options = world.runpod.cloud.options.changed(options)


async def cancel(world: World, job_id: str) -> None:
    await world.sql("update public.video_jobs set cancel_requested = true where id = %s", job_id)


async def the_run(world: World, job_id: str) -> Run:
    """Wait for the job's only run: RunPod accepts it just after the fault matches."""

    async def accepted() -> bool:
        return bool(world.runs_of(job_id))

    await until_true(accepted, "RunPod accepts the run")
    (run,) = world.runs_of(job_id)
    return cast("Run", run)


async def test_cancelled_in_line(world: World) -> None:
    claim = world.stack.gateway.faults.add({"path": "/rpc/claim_video_jobs", "action": "hold"})
    job_id = await world.insert()
    await met(world.stack.gateway.faults, claim)
    await cancel(world, job_id)
    world.stack.gateway.faults.clear()
    row = await world.until(job_id, "cancelled", "completed")
    assert (row["status"], row["submissions"], row["phase"]) == ("cancelled", 0, "done")
    assert world.runs_of(job_id) == []


async def test_cancelled_while_its_media_are_checked(world: World) -> None:
    """The download is aborted."""
    download = world.stack.gateway.faults.add({"path": SOUND, "action": "hold", "times": 1})
    job_id = await world.insert()
    await met(world.stack.gateway.faults, download)
    await cancel(world, job_id)
    row = await world.until(job_id, "cancelled", "completed", seconds=10)
    assert (row["status"], row["submissions"]) == ("cancelled", 0)
    assert world.runs_of(job_id) == []


async def test_cancelled_while_it_waits_for_a_gpu(world: World) -> None:
    behave(world, no_workers=True)
    job_id = await world.insert()
    await world.until(job_id, "submitted")
    await cancel(world, job_id)
    row = await world.until(job_id, "cancelled", "completed")
    (run,) = world.runs_of(job_id)
    assert (row["status"], run.state) == ("cancelled", State.CANCELLED)
    assert run.started_at is None


async def test_cancelled_while_it_renders(world: World) -> None:
    behave(world, hang=1.0)
    job_id = await world.insert()
    await world.until(job_id, "running")
    await cancel(world, job_id)
    row = await world.until(job_id, "cancelled", "completed")
    (run,) = world.runs_of(job_id)
    assert (row["status"], run.state) == ("cancelled", State.CANCELLED)
    (attempt,) = await attempts(world, job_id)
    assert (attempt["state"], attempt["runpod_job_id"]) == ("cancelled", run.id)


async def test_cancelled_while_the_submission_is_unknown(world: World) -> None:
    """The row is `cancelled` only when it is certain that nothing runs."""
    rule = world.runpod.faults.add({"path": "/run$", "action": "status", "status": 500, "times": 1})
    job_id = await world.insert()
    await met(world.runpod.faults, rule)
    await cancel(world, job_id)

    async def cancelling() -> bool:
        return str((await world.job(job_id))["phase"]) == "cancelling"

    await until_true(cancelling, "the row is cancelling")
    assert (await world.job(job_id))["status"] == "preparing"
    row = await world.until(job_id, "cancelled", "completed")
    (attempt,) = await attempts(world, job_id)
    assert (row["status"], row["submissions"], attempt["state"]) == ("cancelled", 1, "expired")


async def test_an_unknown_run_of_a_cancelled_job_is_stopped_once_it_shows(world: World) -> None:
    behave(world, no_workers=True)
    rule = world.runpod.faults.add(
        {"path": "/run$", "action": "status", "status": 500, "times": 1, "when": "after"}
    )
    job_id = await world.insert()
    await met(world.runpod.faults, rule)
    run = await the_run(world, job_id)
    await cancel(world, job_id)
    async with httpx.AsyncClient(trust_env=False) as http:
        # Any webhook of a run adopts it.
        answer = await http.post(
            str(run.request.webhook), json={"id": run.id, "status": "IN_QUEUE"}
        )
    assert answer.status_code == 200
    row = await world.until(job_id, "cancelled", "completed")
    assert (row["status"], run.state) == ("cancelled", State.CANCELLED)
    assert (row["completed_at"] - row["created_at"]).total_seconds() < 15


async def test_a_cancel_at_the_moment_of_completion_keeps_the_video(world: World) -> None:
    behave(world, hang=1.0)
    asked = world.runpod.faults.add({"path": "/cancel/", "action": "hold"})
    job_id = await world.insert()
    await world.until(job_id, "running")
    await cancel(world, job_id)
    await met(world.runpod.faults, asked)
    (run,) = world.runs_of(job_id)
    run.output = {"video": ["https://videos.example/kept.mp4"]}
    world.runpod.cloud.end(run, State.COMPLETED, webhook=False)
    world.runpod.faults.clear()
    row = await world.until(job_id, "cancelled", "completed")
    assert (row["status"], row["progress"]) == ("completed", 100)
    assert row["video_url"] == "https://videos.example/kept.mp4"


async def test_deleted_during_its_post(world: World) -> None:
    """The run that results is cancelled at once, and its record stays."""
    behave(world, no_workers=True)
    post = world.runpod.faults.add({"path": "/run$", "action": "hold", "when": "after", "times": 1})
    job_id = await world.insert()
    await met(world.runpod.faults, post)
    run = await the_run(world, job_id)
    await world.sql("delete from public.video_jobs where id = %s", job_id)
    world.runpod.faults.release(post.id)

    async def stopped() -> bool:
        return run.state is State.CANCELLED

    await until_true(stopped, "the run of the deleted row is cancelled")
    assert len(world.runs_of(job_id)) == 1
    (attempt,) = await attempts(world, job_id)
    assert attempt["runpod_job_id"] == run.id


@pytest.mark.parametrize("moment", ["preparing", "submitted", "running"])
async def test_deleted_at_other_moments_it_leaves_nothing_running(
    world: World, moment: str
) -> None:
    behave(world, no_workers=moment == "submitted", hang=1.0)
    if moment == "preparing":
        rule = world.stack.gateway.faults.add({"path": SOUND, "action": "hold", "times": 1})
        job_id = await world.insert()
        await met(world.stack.gateway.faults, rule)
    else:
        job_id = await world.insert()
        await world.until(job_id, moment)
    await world.sql("delete from public.video_jobs where id = %s", job_id)
    world.stack.gateway.faults.clear()

    async def nothing_runs() -> bool:
        return all(run.state is State.CANCELLED for run in world.runs_of(job_id))

    await until_true(nothing_runs, "no run is left")
    assert len(world.runs_of(job_id)) == (0 if moment == "preparing" else 1)


async def test_a_failed_job_is_tried_again_through_the_api(world: World) -> None:
    """The retry corrects the input and starts anew; the record of the old try stays."""
    user = str(uuid4())
    job_id = await world.insert(user_id=user, audio_url=f"{world.audio_url}.missing")
    row = await world.until(job_id, "failed", "completed")
    assert row["error_code"] == "audio_unreachable"
    await world.sql(
        "update public.video_jobs set audio_url = %s where id = %s", world.audio_url, job_id
    )
    headers = {
        "apikey": world.stack.keys.anon,
        "Authorization": f"Bearer {world.stack.keys.service_role}",
    }
    async with httpx.AsyncClient(headers=headers, trust_env=False) as http:
        url = f"{world.stack.url}/rest/v1/rpc/retry_video_job_v1"
        answer = await http.post(url, json={"id": job_id})
        assert answer.status_code == 200, answer.text
        assert answer.json()[0]["status"] == "queued"
        again = await http.post(url, json={"id": job_id})
    assert again.status_code == 400
    row = await world.until(job_id, "failed", "completed")
    assert (row["status"], row["try_number"], row["error_code"]) == ("completed", 2, None)
    assert len(world.runs_of(job_id)) == 1
