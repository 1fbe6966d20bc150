"""A RunPod that is slow or refuses our key: the loops come round, and no row waits forever."""

import asyncio

import pytest

import worker.reconcile.not_accepted
import worker.reconcile.poller
import worker.reconcile.reconciler
from tests.fakes import FakeRunPod, job_id
from tests.harness import Harness, done
from worker.jobs.errors import OperatorFault, RunPodUnavailable
from worker.jobs.job import JobStatus, SubmissionState
from worker.jobs.run import RunUpdate


class SlowRunPod(FakeRunPod):
    """Some runs are never answered for."""

    async def status(self, run_id: str, *, endpoint_id: str | None = None) -> RunUpdate:
        if run_id != "run-2":
            await asyncio.Event().wait()
        return await super().status(run_id, endpoint_id=endpoint_id)


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Harness:
    monkeypatch.setattr(worker.reconcile.poller, "ROUND_SECONDS", 0.1)
    return Harness()


async def test_a_round_of_looks_ends_in_time_and_uses_what_was_answered(harness: Harness) -> None:
    """With 32 at once and a minute each, 200 silent runs would outlast the watchdog's patience."""
    for number in (1, 2, 3):
        await harness.submitted(number)
    slow = SlowRunPod(runs=harness.runpod.runs | {"run-2": done("run-2")})
    harness.runpod = slow
    harness.restart()
    async with asyncio.timeout(5):
        await harness.reconciler.tick()
    assert harness.store.job(2).status is JobStatus.COMPLETED
    assert harness.store.job(1).status is JobStatus.SUBMITTED


async def test_watching_from_memory_ends_in_time(harness: Harness) -> None:
    for number in (1, 2):
        await harness.submitted(number)
    harness.runpod = SlowRunPod(runs=harness.runpod.runs | {"run-2": done("run-2")})
    harness.restart()
    for number in (1, 2):
        harness.tracker.track((job_id(number), 1), "endpoint", f"run-{number}")
    harness.store.away = True
    async with asyncio.timeout(5):
        with pytest.raises(Exception, match="Supabase"):
            await harness.pass_time(60)
    harness.store.away = False
    harness.runpod.runs.clear()
    async with asyncio.timeout(5):
        await harness.reconciler.tick()
    assert harness.store.job(2).status is JobStatus.COMPLETED


async def test_at_start_up_each_page_is_a_tick_of_its_own(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 open runs of a slow RunPod in one tick would outlast the watchdog's patience."""
    monkeypatch.setattr(worker.reconcile.reconciler, "PAGE", 2)
    for number in range(1, 6):
        await harness.submitted(number)
        harness.runpod.runs[f"run-{number}"] = done(f"run-{number}")
    harness.restart()
    assert await harness.reconciler.tick() == 0.0
    assert len(harness.runpod.polled) == 2
    while await harness.reconciler.tick() == 0.0:
        pass
    assert {job.status for job in harness.store.jobs} == {JobStatus.COMPLETED}


@pytest.mark.parametrize(
    "trouble", [OperatorFault(401, "no such key"), RunPodUnavailable(500, "ill")]
)
async def test_a_run_whose_account_is_gone_is_lost_when_nothing_can_be_learned(
    harness: Harness, trouble: Exception
) -> None:
    """The key belongs to another account now: /status answers 401 forever."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = trouble
    await harness.pass_time(9000 + 60)
    assert harness.store.job().status is JobStatus.SUBMITTED
    await harness.pass_time(1800)
    assert harness.store.sub().state is SubmissionState.LOST
    assert harness.store.job().status is JobStatus.QUEUED


@pytest.mark.parametrize("state", [SubmissionState.QUEUED, SubmissionState.RUNNING])
async def test_a_run_whose_id_was_cleared_by_hand_is_over_with_its_ttl(
    harness: Harness, state: SubmissionState
) -> None:
    await harness.submitted()
    harness.store.set_sub(runpod_job_id=None, state=state.value)
    await harness.pass_time(60)
    assert harness.store.sub().state is state
    await harness.pass_time(9000)
    assert harness.store.sub().state is SubmissionState.EXPIRED
    assert harness.store.job().status is JobStatus.QUEUED


async def test_ended_runs_are_not_remembered_for_ever(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.reconcile.not_accepted, "ENDED_KEPT", 2)
    for number in range(1, 6):
        await harness.submitted(number)
        harness.runpod.runs[f"run-{number}"] = done(f"run-{number}")
    await harness.pass_time(30)
    assert harness.detector._ended_so_far == 5
    assert len(harness.detector._ended_runs) == 2


async def test_evidence_is_not_searched_before_every_run_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of a run that is not known yet would hide the end of an unknown one."""
    monkeypatch.setattr(worker.reconcile.reconciler, "PAGE", 2)
    harness = Harness(exclusive=True)
    await harness.submitted(1, run_id="")
    for number in (2, 3, 4, 5):
        await harness.submitted(number)
    harness.restart()
    assert await harness.reconciler.tick() == 0.0
    assert harness.runpod.probes == 0
    while await harness.reconciler.tick() == 0.0:
        pass
    await harness.pass_time(15)
    assert harness.runpod.probes > 0
