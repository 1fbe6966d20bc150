"""A row that its worker claims again while it still works on it, and a POST that was not made."""

import asyncio

import pytest

from tests.fakes import job_id
from tests.harness import Harness
from worker.dispatch.submitter import SETTLE_TRIES
from worker.jobs.errors import RunPodUnavailable, StoreRefused, StoreUnavailable
from worker.jobs.job import JobStatus, SubmissionState


@pytest.fixture
def harness() -> Harness:
    return Harness()


async def test_a_row_claimed_again_by_the_same_worker_is_sent_once(harness: Harness) -> None:
    """Its lease ran out while the table was away; the old claim's end must not hide the new one."""
    harness.store.insert()
    harness.media.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        await harness.dispatcher.tick(tasks)
        await harness.media.opening.wait()
        first = harness.dispatcher.claims[job_id()]
        harness.store.now += 61
        await harness.reconciler.sweep()
        await harness.dispatcher.tick(tasks)
        second = harness.dispatcher.claims[job_id()]
        assert second is not first
        assert first.task is not None
        first.release()
        await asyncio.wait([first.task])
        assert harness.dispatcher.claims[job_id()] is second
        # A claim hands out again what is ours and nobody works on.
        await harness.dispatcher.tick(tasks)
        harness.media.gate.set()
    assert harness.store.job().attempt == 2
    assert len(harness.runpod.posts) == 1
    assert harness.store.job().status is JobStatus.SUBMITTED


async def test_the_claim_that_lost_its_row_stops_when_the_row_is_claimed_again(
    harness: Harness,
) -> None:
    harness.store.insert()
    harness.media.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        await harness.dispatcher.tick(tasks)
        await harness.media.opening.wait()
        first = harness.dispatcher.claims[job_id()]
        harness.store.now += 61
        await harness.reconciler.sweep()
        await harness.dispatcher.tick(tasks)
        assert first.released
        harness.media.gate.set()
    assert len(harness.runpod.posts) == 1


@pytest.mark.parametrize("trouble", [StoreUnavailable("lost"), StoreRefused("no (P0001)")])
async def test_a_beginning_whose_answer_is_lost_is_not_an_unknown_submission(
    harness: Harness, trouble: Exception
) -> None:
    """It was committed, but nothing was sent, and the worker knows it."""
    harness.store.insert()
    begin = harness.store.begin

    async def lost(*arguments: object) -> None:
        await begin(*arguments)  # type: ignore[arg-type]
        raise trouble

    harness.store.begin = lost  # type: ignore[assignment, method-assign]
    await harness.dispatch()
    assert harness.runpod.posts == []
    assert harness.store.sub().state is SubmissionState.REFUSED
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.store.submission_count() == 0
    assert harness.store.wait_of() > 0


async def test_a_claim_whose_row_has_a_later_attempt_is_lost_though_it_is_in_our_name(
    harness: Harness,
) -> None:
    """It was claimed again with an answer that never arrived; held, it is not handed out again."""
    harness.store.insert()
    harness.media.gate = asyncio.Event()

    async def claimed_again() -> None:
        claim = harness.dispatcher.claims[job_id()]
        harness.store.set(attempt=2)
        await harness.dispatcher.renew()
        assert claim.released

    await harness.during(harness.media.opening, claimed_again, harness.media.gate)
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.SUBMITTED
    assert harness.store.sub(attempt=2).runpod_job_id == "run-1"


async def test_a_row_whose_beginning_fails_is_not_taken_again_at_once(harness: Harness) -> None:
    """Else it would be downloaded and decoded over and over, as fast as its host answers."""
    harness.store.insert()

    def meddle(function: str) -> None:
        if function == "begin":
            raise StoreUnavailable("function begin_video_job_submission_v1 is missing")

    harness.store.meddle = meddle
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.store.wait_of() >= 5


async def test_a_proved_refusal_is_written_however_long_the_table_is_away(harness: Harness) -> None:
    harness.store.insert()
    harness.runpod.answers.append(RunPodUnavailable(None, "no connection"))
    left = 40

    def meddle(function: str) -> None:
        nonlocal left
        if function == "write" and left:
            left -= 1
            raise StoreUnavailable("away")

    harness.store.meddle = meddle
    await harness.dispatch()
    assert harness.store.sub().state is SubmissionState.REFUSED
    assert harness.store.job().status is JobStatus.QUEUED


async def test_a_run_is_recorded_however_long_the_table_is_away(harness: Harness) -> None:
    """Other outcomes are given up and become unknown; a run's id cannot be found again."""
    harness.store.insert()
    left = SETTLE_TRIES + 1

    def meddle(function: str) -> None:
        nonlocal left
        if function == "write" and left:
            left -= 1
            raise StoreUnavailable("away")

    harness.store.meddle = meddle
    await harness.dispatch()
    assert harness.store.sub().runpod_job_id == "run-1"
    assert harness.store.job().status is JobStatus.SUBMITTED


async def test_a_row_that_storage_cannot_serve_is_not_taken_again_at_once(harness: Harness) -> None:
    harness.store.insert()
    harness.media.problems.append(StoreUnavailable("Storage does not answer."))
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.store.wait_of() >= 5
