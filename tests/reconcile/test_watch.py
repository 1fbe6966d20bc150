"""What the way back keeps in memory between its looks, and whom it tells."""

import pytest

from tests.fakes import health, job_id
from tests.reconcile.test_reconcile import Office, body, done, seen
from worker.jobs.errors import StoreUnavailable
from worker.jobs.job import JobStatus, SubmissionState
from worker.jobs.run import RunState


@pytest.fixture
def office() -> Office:
    return Office()


async def test_while_the_table_is_away_a_run_is_asked_about_once_per_poll(office: Office) -> None:
    office.store.away = True
    office.reconciler.hold(job_id(), 1, "endpoint", "run-1")
    office.runpod.runs["run-1"] = seen(RunState.RUNNING)
    for seconds in (30, 5, 5, 20):
        with pytest.raises(StoreUnavailable):
            await office.pass_by(seconds)
    assert office.runpod.looks == ["run-1", "run-1"]


async def test_what_a_webhook_brought_survives_a_failed_write(office: Office) -> None:
    await office.submitted()
    office.runpod.runs["run-1"] = done()

    def meddle(function: str) -> None:
        if function == "write":
            raise StoreUnavailable("away")

    office.store.meddle = meddle
    with pytest.raises(StoreUnavailable):
        await office.reconciler.webhook(job_id(), 1, body())
    del office.runpod.runs["run-1"]
    office.store.meddle = lambda function: None
    await office.pass_by(3000)
    assert office.store.job().status is JobStatus.COMPLETED


async def test_a_run_that_a_webhook_names_after_the_cancel_is_stopped_at_once(
    office: Office,
) -> None:
    await office.submitted(run_id="")
    office.store.cancel()
    office.runpod.runs["run-9"] = seen(RunState.RUNNING, "run-9")
    await office.reconciler.webhook(job_id(), 1, body("run-9"))
    assert office.runpod.cancelled == ["run-9"]


async def test_the_dispatcher_hears_of_changed_rows_only(office: Office) -> None:
    heard: list[JobStatus] = []
    await office.submitted()
    await office.reconciler.tick()
    office.reconciler.changed = lambda: heard.append(office.store.job().status)
    await office.pass_by(30)
    assert heard == []
    office.runpod.runs["run-1"] = done()
    await office.pass_by(30)
    assert heard == [JobStatus.COMPLETED]


async def test_an_end_that_is_first_seen_in_the_search_for_proof_counts() -> None:
    office = Office(exclusive=True)
    await office.submitted(2)
    await office.submitted(1, run_id="")
    office.runpod.health_says = health(in_queue=1)
    await office.pass_by(20)
    office.store.times[job_id(2), 1].poll_at = 1e9
    office.runpod.runs["run-2"] = done("run-2")
    office.runpod.health_says = health(completed=1)
    for _ in range(4):
        await office.pass_by(20)
    assert office.store.sub(number=2).state is SubmissionState.QUEUED
    assert office.store.sub().state is SubmissionState.EXPIRED
