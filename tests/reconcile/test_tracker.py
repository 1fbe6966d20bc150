"""What the reconciler keeps in memory between its polls, and whom it tells."""

import pytest

from tests.fakes import health, job_id
from tests.harness import Harness, done
from tests.harness import update as seen
from tests.reconcile.test_reconcile import body
from worker.jobs.errors import StoreUnavailable
from worker.jobs.job import JobStatus, SubmissionState
from worker.jobs.run import RunState


@pytest.fixture
def harness() -> Harness:
    return Harness()


async def test_while_the_table_is_away_a_run_is_asked_about_once_per_poll(harness: Harness) -> None:
    harness.store.away = True
    harness.tracker.track((job_id(), 1), "endpoint", "run-1")
    harness.runpod.runs["run-1"] = seen(RunState.RUNNING)
    for seconds in (30, 5, 5, 20):
        with pytest.raises(StoreUnavailable):
            await harness.pass_time(seconds)
    assert harness.runpod.polled == ["run-1", "run-1"]


async def test_what_a_webhook_brought_survives_a_failed_write(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = done()

    def meddle(function: str) -> None:
        if function == "write":
            raise StoreUnavailable("away")

    harness.store.meddle = meddle
    with pytest.raises(StoreUnavailable):
        await harness.reconciler.webhook(job_id(), 1, body())
    del harness.runpod.runs["run-1"]
    harness.store.meddle = lambda function: None
    await harness.pass_time(3000)
    assert harness.store.job().status is JobStatus.COMPLETED


async def test_a_run_that_a_webhook_names_after_the_cancel_is_stopped_at_once(
    harness: Harness,
) -> None:
    await harness.submitted(run_id="")
    harness.store.cancel()
    harness.runpod.runs["run-9"] = seen(RunState.RUNNING, "run-9")
    await harness.reconciler.webhook(job_id(), 1, body("run-9"))
    assert harness.runpod.cancelled == ["run-9"]


async def test_the_dispatcher_hears_of_changed_rows_only(harness: Harness) -> None:
    await harness.submitted()
    await harness.reconciler.tick()
    before = harness.changes
    await harness.pass_time(30)
    assert harness.changes == before
    harness.runpod.runs["run-1"] = done()
    await harness.pass_time(30)
    assert harness.changes == before + 1


async def test_an_end_that_is_first_seen_in_the_search_for_proof_counts() -> None:
    harness = Harness(exclusive=True)
    await harness.submitted(2)
    await harness.submitted(1, run_id="")
    harness.runpod.health_says = health(in_queue=1)
    await harness.pass_time(20)
    harness.store.set_sub(number=2, next_poll_at=1e9)
    harness.runpod.runs["run-2"] = done("run-2")
    harness.runpod.health_says = health(completed=1)
    for _ in range(4):
        await harness.pass_time(20)
    assert harness.store.sub(number=2).state is SubmissionState.QUEUED
    assert harness.store.sub().state is SubmissionState.EXPIRED


async def test_an_adopted_run_shows_that_runpod_takes_jobs(harness: Harness) -> None:
    """After one lost answer nothing waits for a trial POST that may lose its answer as well."""
    await harness.submitted(run_id="")
    harness.gate.trip("no answer")
    harness.runpod.runs["run-9"] = seen(RunState.RUNNING, "run-9")
    await harness.reconciler.webhook(job_id(), 1, body("run-9"))
    assert harness.gate.room is None
    assert harness.readiness.status == "ok"


async def test_an_adopted_run_says_nothing_about_a_refused_key(harness: Harness) -> None:
    await harness.submitted(run_id="")
    harness.gate.trip("wrong key", operator=True)
    harness.runpod.runs["run-9"] = seen(RunState.RUNNING, "run-9")
    await harness.reconciler.webhook(job_id(), 1, body("run-9"))
    assert harness.gate.room == 0
    assert harness.readiness.status == "down"


async def test_a_run_that_completed_without_its_video_is_asked_again(harness: Harness) -> None:
    """Only what no later answer can better is kept as its end."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = seen(RunState.COMPLETED)
    await harness.reconciler.tick()
    assert harness.store.job().status is JobStatus.SUBMITTED
    harness.runpod.runs["run-1"] = done()
    await harness.pass_time(30)
    assert harness.store.job().status is JobStatus.COMPLETED


async def test_one_end_explains_one_run_of_health_however_often_it_is_seen() -> None:
    harness = Harness(exclusive=True)
    await harness.submitted(2)
    await harness.submitted(1, run_id="")
    harness.runpod.health_says = health(in_queue=1)
    await harness.pass_time(20)
    harness.store.set_sub(number=2, next_poll_at=1e9)
    harness.runpod.runs["run-2"] = done("run-2")
    for completed in (1, 2, 2, 2):
        harness.runpod.health_says = health(completed=completed)
        await harness.pass_time(20)
    assert harness.store.sub().state is SubmissionState.UNKNOWN, "the second may be its run"


async def test_a_run_whose_end_is_written_is_followed_no_more(harness: Harness) -> None:
    await harness.submitted()
    await harness.reconciler.tick()
    assert [run.run_id for run in harness.tracker.on_endpoint("endpoint")] == ["run-1"]
    harness.runpod.runs["run-1"] = done()
    await harness.pass_time(30)
    assert harness.tracker.on_endpoint("endpoint") == []
