"""When the dispatcher looks for rows although nothing tells it to."""

import asyncio

import pytest

from tests.harness import Harness
from worker.dispatch.dispatcher import RESERVED_SECONDS


@pytest.fixture
def harness() -> Harness:
    return Harness()


async def test_it_looks_again_when_a_slow_preparation_no_longer_reserves_a_place(
    harness: Harness,
) -> None:
    """Otherwise a slow host keeps others in line until the next sweep."""
    harness.store.insert()
    harness.media.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        assert await harness.dispatcher.tick(tasks) == RESERVED_SECONDS
        await harness.media.opening.wait()
        harness.now += RESERVED_SECONDS - 0.5
        assert await harness.dispatcher.tick(tasks) == 0.5
        harness.now += 0.5
        assert await harness.dispatcher.tick(tasks) is None
        harness.media.gate.set()


async def test_what_is_being_sent_changes_no_room_by_itself(harness: Harness) -> None:
    harness.store.insert()
    harness.runpod.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        await harness.dispatcher.tick(tasks)
        await harness.runpod.posting.wait()
        assert await harness.dispatcher.tick(tasks) is None
        harness.runpod.gate.set()


async def test_the_earlier_of_a_probe_and_the_end_of_a_reservation_counts(
    harness: Harness,
) -> None:
    harness.store.insert()
    harness.media.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        await harness.dispatcher.tick(tasks)
        await harness.media.opening.wait()
        harness.gate.trip("502", wait=RESERVED_SECONDS + 3)
        assert await harness.dispatcher.tick(tasks) == RESERVED_SECONDS
        harness.now += RESERVED_SECONDS
        assert await harness.dispatcher.tick(tasks) == pytest.approx(3)
        harness.media.gate.set()
