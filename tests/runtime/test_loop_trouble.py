"""Which trouble a loop bears, and how soon it comes round again."""

import asyncio

import pytest

import worker.runtime.loops
from tests.runtime.test_loop import Loop
from worker.jobs.errors import StoreRefused, StoreUnavailable


async def test_a_loop_that_comes_rarely_tries_again_soon_after_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else one blip at start-up would stand on /readyz until the next hour."""
    monkeypatch.setattr(worker.runtime.loops, "TROUBLE_SECONDS", 0.01)
    loop = Loop(StoreUnavailable("Supabase does not answer."), None)
    await loop.run(seconds=3600)
    assert loop.script == []
    assert loop.readiness.status == "ok"


async def test_a_write_that_the_table_refuses_does_not_end_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Say, a trigger of the application's own, or a value out of range, in one row of many."""
    monkeypatch.setattr(worker.runtime.loops, "TROUBLE_SECONDS", 0.01)
    loop = Loop(StoreRefused("integer out of range (22003)"), None)
    seen: list[str] = []
    loop.script[1] = lambda: seen.extend(loop.readiness.reasons)
    await loop.run(seconds=3600)
    assert seen == ["sweep: integer out of range (22003)"]


async def test_wakeups_in_a_row_cause_ticks_with_a_pause_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flood of inserts must not become a flood of claims."""
    monkeypatch.setattr(worker.runtime.loops, "LEAST_PAUSE", 0.05)
    loop = Loop()
    loop.script = [loop.wakeup.set, loop.wakeup.set, loop.wakeup.set, None]
    clock = asyncio.get_running_loop().time
    began = clock()
    await loop.run()
    assert clock() - began >= 0.14
