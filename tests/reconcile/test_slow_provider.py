"""A RunPod that is slow or refuses our key: the loops come round, and no row waits for ever."""

import asyncio
from dataclasses import replace

import pytest

import worker.reconcile.poller
import worker.reconcile.proof
import worker.reconcile.reconciler
from tests.fakes import FakeRunPod, job_id
from tests.reconcile.test_reconcile import Office, done
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
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setattr(worker.reconcile.poller, "LOOK_SECONDS", 0.1)
    return Office()


async def test_a_round_of_looks_ends_in_time_and_uses_what_was_answered(office: Office) -> None:
    """With 32 at once and a minute each, 200 silent runs would outlast the watchdog's patience."""
    for number in (1, 2, 3):
        await office.submitted(number)
    slow = SlowRunPod(runs=office.runpod.runs | {"run-2": done("run-2")})
    office.runpod = slow
    office.restart()
    async with asyncio.timeout(5):
        await office.reconciler.tick()
    assert office.store.job(2).status is JobStatus.COMPLETED
    assert office.store.job(1).status is JobStatus.SUBMITTED


async def test_watching_from_memory_ends_in_time(office: Office) -> None:
    for number in (1, 2):
        await office.submitted(number)
    office.runpod = SlowRunPod(runs=office.runpod.runs | {"run-2": done("run-2")})
    office.restart()
    for number in (1, 2):
        office.reconciler.hold(job_id(number), 1, "endpoint", f"run-{number}")
    office.store.away = True
    async with asyncio.timeout(5):
        with pytest.raises(Exception, match="Supabase"):
            await office.pass_by(60)
    office.store.away = False
    office.runpod.runs.clear()
    async with asyncio.timeout(5):
        await office.reconciler.tick()
    assert office.store.job(2).status is JobStatus.COMPLETED


async def test_at_start_up_each_page_is_a_tick_of_its_own(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 open runs of a slow RunPod in one tick would outlast the watchdog's patience."""
    monkeypatch.setattr(worker.reconcile.reconciler, "PAGE", 2)
    for number in range(1, 6):
        await office.submitted(number)
        office.runpod.runs[f"run-{number}"] = done(f"run-{number}")
    office.restart()
    assert await office.reconciler.tick() == 0.0
    assert len(office.runpod.looks) == 2
    while await office.reconciler.tick() == 0.0:
        pass
    assert {job.status for job in office.store.jobs.values()} == {JobStatus.COMPLETED}


@pytest.mark.parametrize(
    "trouble", [OperatorFault(401, "no such key"), RunPodUnavailable(500, "ill")]
)
async def test_a_run_whose_account_is_gone_is_lost_when_nothing_can_be_learned(
    office: Office, trouble: Exception
) -> None:
    """The key belongs to another account now: /status answers 401 for ever."""
    await office.submitted()
    office.runpod.runs["run-1"] = trouble
    await office.pass_by(9000 + 60)
    assert office.store.job().status is JobStatus.SUBMITTED
    await office.pass_by(1800)
    assert office.store.sub().state is SubmissionState.LOST
    assert office.store.job().status is JobStatus.QUEUED


@pytest.mark.parametrize("state", [SubmissionState.QUEUED, SubmissionState.RUNNING])
async def test_a_run_whose_id_was_cleared_by_hand_is_over_with_its_ttl(
    office: Office, state: SubmissionState
) -> None:
    await office.submitted()
    key = (job_id(), 1)
    office.store.subs[key] = replace(office.store.subs[key], runpod_job_id=None, state=state)
    await office.pass_by(60)
    assert office.store.sub().state is state
    await office.pass_by(9000)
    assert office.store.sub().state is SubmissionState.EXPIRED
    assert office.store.job().status is JobStatus.QUEUED


async def test_ended_runs_are_not_remembered_for_ever(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.reconcile.proof, "ENDED_KEPT", 2)
    for number in range(1, 6):
        await office.submitted(number)
        office.runpod.runs[f"run-{number}"] = done(f"run-{number}")
    await office.pass_by(30)
    assert office.reconciler._proof._ended_so_far == 5
    assert len(office.reconciler._proof._ended_runs) == 2


async def test_evidence_is_not_searched_before_every_run_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of a run that is not known yet would hide the end of an unknown one."""
    monkeypatch.setattr(worker.reconcile.reconciler, "PAGE", 2)
    office = Office(exclusive=True)
    await office.submitted(1, run_id="")
    for number in (2, 3, 4, 5):
        await office.submitted(number)
    office.restart()
    assert await office.reconciler.tick() == 0.0
    assert office.runpod.probes == 0
    while await office.reconciler.tick() == 0.0:
        pass
    await office.pass_by(15)
    assert office.runpod.probes > 0
