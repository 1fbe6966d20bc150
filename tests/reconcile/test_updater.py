"""Many jobs in one call: none waits for another, and nothing is followed longer than it lives."""

import asyncio
from typing import Any

import pytest

import worker.reconcile.effects
import worker.reconcile.updater
from tests.fakes import job_id
from tests.harness import Harness, done, update
from worker.jobs.change import Decision
from worker.jobs.errors import StoreUnavailable
from worker.jobs.job import Case, JobStatus, SubmissionState
from worker.jobs.lifecycle import decide
from worker.jobs.run import RunState
from worker.runtime.metrics import METRICS


@pytest.fixture
def harness() -> Harness:
    return Harness()


def unwritten() -> float | None:
    return METRICS.registry.get_sample_value("worker_runs_unwritten")


async def test_a_runpod_that_answers_no_cancel_does_not_hold_up_the_loop(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, four such cancels would outlast the watchdog's patience."""
    monkeypatch.setattr(worker.reconcile.effects, "ROUND_SECONDS", 0.05)
    for number in (1, 2, 3, 4):
        await harness.submitted(number)
        harness.store.cancel(number)
    await harness.submitted(5)
    harness.runpod.runs["run-5"] = done("run-5")
    asked: list[str] = []

    async def silent(run_id: str, *, endpoint_id: str | None = None) -> None:
        asked.append(run_id)
        await asyncio.Event().wait()

    harness.runpod.cancel = silent  # type: ignore[method-assign]
    async with asyncio.timeout(5):
        await harness.pass_time(30)
    assert sorted(asked) == ["run-1", "run-2", "run-3", "run-4"]
    assert harness.store.job(5).status is JobStatus.COMPLETED


async def test_an_end_whose_write_was_answered_too_late_is_not_unwritten_for_long(
    harness: Harness,
) -> None:
    """It took, but the answer was lost: a sweep finds that the table has it."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = done()
    write = harness.store.write

    async def cut(changes: object) -> None:
        await write(changes)  # type: ignore[arg-type]
        raise StoreUnavailable("cut")

    harness.store.write = cut  # type: ignore[assignment, method-assign]
    with pytest.raises(StoreUnavailable):
        await harness.reconciler.tick()
    harness.store.write = write  # type: ignore[method-assign]
    assert harness.store.job().status is JobStatus.COMPLETED
    await harness.pass_time(60)
    await harness.reconciler.sweep()
    await harness.pass_time(1)
    assert unwritten() == 0


async def test_a_run_that_the_table_does_not_know_is_cancelled(harness: Harness) -> None:
    """The database was restored to a moment before its submission."""
    await harness.submitted()
    await harness.submitted(2)
    await harness.reconciler.tick()
    harness.store.rows.pop(job_id())
    harness.store.attempts.pop((job_id(), 1))
    await harness.pass_time(350)
    await harness.reconciler.sweep()
    assert harness.runpod.cancelled == []
    harness.store.now += 60
    await harness.reconciler.sweep()
    assert harness.runpod.cancelled == ["run-1"]
    assert [run.run_id for run in harness.tracker.on_endpoint("endpoint")] == ["run-2"]


async def test_an_end_that_another_worker_wrote_is_not_unwritten(harness: Harness) -> None:
    """Both saw the end; the other one was first."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = done()

    def meddle(function: str) -> None:
        if function == "write":
            harness.store.meddle = lambda function: None
            harness.store.set(status="completed", video_url="https://v")
            harness.store.set_sub(state="completed")

    harness.store.meddle = meddle
    await harness.reconciler.tick()
    await harness.pass_time(30)
    assert unwritten() == 0


async def test_a_row_that_cannot_be_decided_on_is_set_aside(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug, or what a hand wrote: the others go on."""
    for number in (1, 2):
        await harness.submitted(number)
        harness.runpod.runs[f"run-{number}"] = done(f"run-{number}")

    def odd(case: Case, *rest: Any, **more: Any) -> Decision:
        if case.job_id == job_id(1):
            raise OverflowError("odd")
        return decide(case, *rest, **more)

    monkeypatch.setattr(worker.reconcile.updater, "decide", odd)
    await harness.reconciler.tick()
    assert harness.store.job(1).status is JobStatus.SUBMITTED
    assert harness.store.job(2).status is JobStatus.COMPLETED


async def test_a_run_that_is_said_to_be_alive_long_after_its_ttl_is_lost(
    harness: Harness,
) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = update(RunState.RUNNING)
    await harness.pass_time(9000 + 1799)
    assert harness.store.sub().state is SubmissionState.RUNNING
    await harness.pass_time(300)
    assert harness.store.sub().state is SubmissionState.LOST
    assert harness.store.job().status is JobStatus.QUEUED


async def test_progress_wakes_nobody_but_an_end_does(harness: Harness) -> None:
    """A claim for each write of progress would be ten calls a second."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = update(RunState.RUNNING, execution_ms=100_000)
    before = harness.changes
    await harness.pass_time(30)
    assert harness.store.job().progress > 0
    assert harness.changes == before
    harness.runpod.runs["run-1"] = done()
    await harness.pass_time(30)
    assert harness.changes == before + 1
