"""Shared by the end-to-end tests: worlds on one Postgres, and requests to a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import httpx

from devstack.faults import Faults, Rule
from devstack.postgres import Postgres
from tests.postgres import TEMPLATE
from tests.world import Daemon, World

TERMINAL = ("completed", "failed", "cancelled")
_numbers = itertools.count(1)


@contextlib.asynccontextmanager
async def world_on(
    postgres: Postgres,
    *,
    options: Mapping[str, object] | None = None,
    settings: Mapping[str, str] | None = None,
    workers: int = 0,
) -> AsyncIterator[World]:
    """Run a world with its own database on the test process' server."""
    name = f"world_{next(_numbers)}"
    await asyncio.to_thread(postgres.create_database, name, template=TEMPLATE)
    try:
        async with World(
            options=options, settings=settings, postgres=postgres, database=name, workers=workers
        ) as world:
            yield world
    finally:
        await asyncio.to_thread(postgres.drop_database, name)


async def calm(world: World) -> None:
    """Remove every fault, so that the next test starts without one."""
    world.stack.gateway.faults.clear()
    world.runpod.faults.clear()
    realtime = world.stack.gateway.realtime
    realtime.apply({"freeze": False, "mute": False, "lossy": 0.0, "refuse_joins": None})


LOST_EVENT = "realtime: connected, but"


async def readiness(daemon: Daemon) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of /readyz."""
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"http://127.0.0.1:{daemon.port}/readyz", timeout=10)
        return answer.status_code, answer.json()


async def until_true(
    question: Callable[[], Awaitable[bool]], what: str, *, seconds: float = 20
) -> None:
    """Wait until the condition is true."""
    try:
        async with asyncio.timeout(seconds):
            while not await question():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None


async def until_ready(daemon: Daemon, status: str, *, seconds: float = 20) -> list[str]:
    """Wait until /readyz has this status; return its reasons.

    Realtime may lose an event, and then says so until the next one: that is no part of the answer.
    """
    said: dict[str, Any] = {}
    reasons: list[str] = []

    async def has_it() -> bool:
        nonlocal said, reasons
        said = (await readiness(daemon))[1]
        reasons = [str(one) for one in said["reasons"] if not one.startswith(LOST_EVENT)]
        return bool(said["status"] == status) or (status == "ok" and not reasons)

    try:
        await until_true(has_it, f"/readyz {status}", seconds=seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; it said {said}") from None
    return reasons


async def met(faults: Faults, rule: Rule, *, count: int = 1, seconds: float = 20) -> None:
    """Wait until a fault has met so many requests."""
    assert await faults.wait_hit(rule.id, count=count, timeout=seconds), f"no request for {rule}"


async def attempts(world: World, job_id: str) -> list[dict[str, Any]]:
    """Return a job's submissions, in order."""
    return await world.sql(
        "select * from public.video_job_attempts where job_id = %s order by attempt", job_id
    )


async def at_rest(world: World, *, seconds: float = 40) -> None:
    """Wait until no row and no submission is open."""
    query = (
        "select (select count(*) from public.video_jobs where status not in "
        "('completed', 'failed', 'cancelled')) + (select count(*) from public.video_job_attempts "
        "where state in ('submitting', 'unknown', 'queued', 'running')) as n"
    )

    async def nothing_open() -> bool:
        return not (await world.sql(query))[0]["n"]

    await until_true(nothing_open, "everything has ended", seconds=seconds)


def assert_readable(row: Mapping[str, Any]) -> None:
    """Check that the message is for people: a sentence without code or secrets."""
    message = row["error_message"]
    assert message
    assert message[0].isupper()
    assert len(message) <= 1000
    for trace in ("Traceback", 'File "', "Error(", "Exception", "eyJ", "sb_secret", "rpa_", "0x"):
        assert trace not in message
