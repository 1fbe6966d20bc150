"""Helpers of the tests: an honest job beside an attack, and waiting for what must happen."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

from tests.attack.scene import Scene
from tests.attack.trial import Attack
from tests.e2e.kit import until_true

PATIENCE_SECONDS = 60


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition is true."""

    async def true() -> bool:
        return condition()

    await until_true(true, what, seconds=PATIENCE_SECONDS)


@contextlib.asynccontextmanager
async def attacked(scene: Scene, attack: Attack) -> AsyncIterator[asyncio.Task]:
    """Run an attack until the end of the block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_run(scene, attack))
        while not (scene.begun or task.done()):
            await asyncio.sleep(0.02)
        yield task
        task.cancel()


async def _run(scene: Scene, attack: Attack) -> None:
    await attack(scene)


async def honest_run(scene: Scene) -> str:
    """Insert an honest job of a new user and wait until RunPod has it; return its id."""
    world = scene.world
    job_id = await world.insert(user_id=str(uuid4()))

    async def submitted() -> bool:
        row = await world.job(job_id)
        assert row["error_code"] is None, row
        return bool(world.runs_of(job_id))

    await until_true(submitted, "the honest job is submitted", seconds=PATIENCE_SECONDS)
    return job_id


async def honest_end(scene: Scene, job_id: str) -> None:
    row = await scene.world.until(
        job_id, "completed", "failed", "cancelled", seconds=PATIENCE_SECONDS
    )
    assert (row["status"], row["error_code"]) == ("completed", None)


async def upload(scene: Scene, data: bytes) -> str:
    return await scene.world.upload(f"hostile-{secrets.token_hex(4)}", data)
