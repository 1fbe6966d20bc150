"""A row that comes back to the worker which still has it in hand, and a POST that never was."""

import asyncio

import pytest

from tests.dispatch.test_dispatch import Office
from tests.fakes import job_id
from worker.dispatch import outcome
from worker.jobs.errors import RunPodUnavailable, StoreRefused, StoreUnavailable
from worker.jobs.job import JobStatus, SubmissionState


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setattr(outcome, "AWAY_SECONDS", 0.0)
    return Office()


async def test_a_row_claimed_again_by_the_same_worker_is_sent_once(office: Office) -> None:
    """Its lease ran out while the table was away; the old claim's end must not hide the new one."""
    office.store.insert()
    office.media.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        await office.dispatcher.tick(tasks)
        await office.media.opening.wait()
        first = office.dispatcher.working[job_id()]
        office.store.now += 61
        await office.store.recover()
        await office.dispatcher.tick(tasks)
        second = office.dispatcher.working[job_id()]
        assert second is not first
        assert first.task is not None
        first.let_go()
        await asyncio.wait([first.task])
        assert office.dispatcher.working[job_id()] is second
        # A claim gives back whatever is ours and not in hand.
        await office.dispatcher.tick(tasks)
        office.media.gate.set()
    assert office.store.job().attempt == 2
    assert len(office.runpod.posts) == 1
    assert office.store.job().status is JobStatus.SUBMITTED


async def test_the_claim_that_lost_its_row_stops_when_the_row_is_claimed_again(
    office: Office,
) -> None:
    office.store.insert()
    office.media.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        await office.dispatcher.tick(tasks)
        await office.media.opening.wait()
        first = office.dispatcher.working[job_id()]
        office.store.now += 61
        await office.store.recover()
        await office.dispatcher.tick(tasks)
        assert first.unwanted
        office.media.gate.set()
    assert len(office.runpod.posts) == 1


@pytest.mark.parametrize("trouble", [StoreUnavailable("lost"), StoreRefused("no (P0001)")])
async def test_a_beginning_whose_answer_is_lost_is_not_an_unknown_submission(
    office: Office, trouble: Exception
) -> None:
    """It was committed, but nothing was sent, and the worker knows it."""
    office.store.insert()
    begin = office.store.begin

    async def lost(*arguments: object) -> None:
        await begin(*arguments)  # type: ignore[arg-type]
        raise trouble

    office.store.begin = lost  # type: ignore[assignment, method-assign]
    await office.tick()
    assert office.runpod.posts == []
    assert office.store.sub().state is SubmissionState.REFUSED
    assert office.store.job().status is JobStatus.QUEUED
    assert office.store.job().submissions == 0
    assert office.store.available[job_id()] > office.store.now


async def test_a_row_whose_beginning_fails_is_not_taken_again_at_once(office: Office) -> None:
    """Else it would be downloaded and decoded over and over, as fast as its host answers."""
    office.store.insert()

    def meddle(function: str) -> None:
        if function == "begin":
            raise StoreUnavailable("function begin_video_job_submission_v1 is missing")

    office.store.meddle = meddle
    await office.tick()
    assert office.store.job().status is JobStatus.QUEUED
    assert office.store.available[job_id()] >= office.store.now + 5


async def test_a_proved_refusal_is_written_however_long_the_table_is_away(office: Office) -> None:
    office.store.insert()
    office.runpod.answers.append(RunPodUnavailable(None, "no connection"))
    left = 40

    def meddle(function: str) -> None:
        nonlocal left
        if function == "end_claim" and left:
            left -= 1
            raise StoreUnavailable("away")

    office.store.meddle = meddle
    await office.tick()
    assert office.store.sub().state is SubmissionState.REFUSED
    assert office.store.job().status is JobStatus.QUEUED


async def test_a_row_that_storage_cannot_serve_is_not_taken_again_at_once(office: Office) -> None:
    office.store.insert()
    office.media.problems.append(StoreUnavailable("Storage does not answer."))
    await office.tick()
    assert office.store.job().status is JobStatus.QUEUED
    assert office.store.available[job_id()] >= office.store.now + 5
