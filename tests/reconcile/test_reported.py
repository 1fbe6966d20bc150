"""What a signed webhook says of a run's end while RunPod cannot be asked is kept, and not lost."""

import pytest

from tests.fakes import job_id
from tests.harness import VIDEO, Harness, update
from tests.reconcile.test_reconcile import body
from worker.jobs.errors import OperatorFault, RunGone, RunPodUnavailable
from worker.jobs.job import JobStatus, SubmissionState
from worker.jobs.run import RunState
from worker.runtime.metrics import METRICS

BLIND = [OperatorFault(401, "wrong key"), RunPodUnavailable(502, "ill"), RunGone()]


@pytest.fixture
def harness() -> Harness:
    return Harness()


async def reported(harness: Harness, trouble: Exception) -> None:
    """A run whose end only its webhook tells."""
    await harness.submitted()
    await harness.reconciler.tick()
    harness.runpod.runs["run-1"] = trouble
    assert await harness.reconciler.webhook(job_id(), 1, body()) == "kept"
    assert harness.store.job().status is JobStatus.SUBMITTED


@pytest.mark.parametrize("trouble", BLIND[:2])
async def test_it_counts_before_runpod_forgets_the_result(
    harness: Harness, trouble: Exception
) -> None:
    """RunPod keeps results for 1800 s; a new process knows of the webhook as well."""
    await reported(harness, trouble)
    harness.restart()
    for _ in range(38):
        await harness.pass_time(30)
    assert harness.store.job().status is JobStatus.SUBMITTED
    for _ in range(4):
        await harness.pass_time(30)
    assert harness.store.job().status is JobStatus.COMPLETED
    assert harness.store.sub().video_url == VIDEO


async def test_it_counts_before_a_run_is_declared_lost(harness: Harness) -> None:
    await reported(harness, BLIND[2])
    harness.runpod.health_says = OperatorFault(404, "no such endpoint")
    await harness.pass_time(9001)
    assert harness.store.job().status is JobStatus.COMPLETED
    assert harness.store.sub().state is SubmissionState.COMPLETED


async def test_what_runpod_itself_says_counts_more(harness: Harness) -> None:
    await reported(harness, BLIND[1])
    harness.runpod.runs["run-1"] = update(RunState.RUNNING)
    await harness.pass_time(30)
    for _ in range(6):
        await harness.pass_time(300)
    assert harness.store.job().status is JobStatus.RUNNING
    harness.runpod.runs["run-1"] = update(RunState.FAILED, error="boom")
    await harness.pass_time(300)
    assert harness.store.job().status is JobStatus.FAILED


async def test_a_failure_is_kept_as_well(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = BLIND[0]
    said = body(status="FAILED", output=None, error="executionTimeout exceeded")
    assert await harness.reconciler.webhook(job_id(), 1, said) == "kept"
    await harness.pass_time(1201)
    assert harness.store.job().error_code == "run_timed_out"


@pytest.mark.parametrize(
    "said", [None, body("run-2"), body(status="IN_PROGRESS")], ids=["nothing", "other", "no end"]
)
async def test_what_is_no_end_of_this_run_is_not_kept(harness: Harness, said: object) -> None:
    """RunPod sends it again."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = BLIND[1]
    with pytest.raises(RunPodUnavailable):
        await harness.reconciler.webhook(job_id(), 1, said)
    assert harness.store.sub().reported is None


FORGED = body(output={"video": ["https://evil.example/v.mp4"]})


async def test_a_message_forged_while_the_run_begins_is_dropped_when_runpod_says_otherwise(
    harness: Harness,
) -> None:
    """A storm of forged webhooks found it: the run was lost later, and the forged video shown."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = RunGone()
    assert await harness.reconciler.webhook(job_id(), 1, FORGED) == "kept"
    harness.runpod.runs["run-1"] = update(RunState.RUNNING)
    await harness.pass_time(30)
    assert harness.store.sub().reported is None
    harness.runpod.runs["run-1"] = RunGone()
    for _ in range(20):
        await harness.pass_time(30)
    assert harness.store.sub().state is SubmissionState.LOST
    assert harness.store.job().status is JobStatus.QUEUED


async def test_the_latest_word_is_kept(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = BLIND[1]
    assert await harness.reconciler.webhook(job_id(), 1, FORGED) == "kept"
    assert await harness.reconciler.webhook(job_id(), 1, body()) == "kept"
    kept = harness.store.sub().reported
    assert kept is not None
    assert kept.video_url == VIDEO


async def test_a_row_whose_endpoint_is_gone_says_so(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = RunGone()
    harness.runpod.health_says = OperatorFault(404, "no such endpoint")
    await harness.reconciler.tick()
    assert "does not answer" in str(harness.store.job().phase_detail)
    harness.runpod.runs["run-1"] = update(RunState.QUEUED)
    await harness.pass_time(30)
    assert harness.store.job().phase_detail is None


@pytest.mark.parametrize("trouble", BLIND[:2])
async def test_polls_that_nobody_answers_show_within_a_minute(
    harness: Harness, trouble: Exception
) -> None:
    """Also when nothing is inserted, so that no submission meets the trouble."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = trouble
    await harness.reconciler.tick()
    assert harness.readiness.status == "ok", "one poll may fail"
    await harness.pass_time(30)
    assert harness.readiness.status == "down"
    assert "no poll of a run is answered" in harness.readiness.reasons[0]
    assert METRICS.registry.get_sample_value("worker_runs_blind") == 1
    harness.runpod.runs["run-1"] = update(RunState.RUNNING)
    await harness.pass_time(30)
    assert harness.readiness.status == "ok"
    assert METRICS.registry.get_sample_value("worker_runs_blind") == 0


async def test_runs_that_are_polled_from_memory_show_as_blind_too(harness: Harness) -> None:
    """While the table is away as well."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = update(RunState.RUNNING)
    await harness.reconciler.tick()
    harness.runpod.runs["run-1"] = BLIND[0]
    for _ in range(3):
        await harness.reconciler._poller.poll_from_memory(1)
        harness.store.now += 30
    assert METRICS.registry.get_sample_value("worker_runs_blind") == 1
    harness.runpod.runs["run-1"] = update(RunState.RUNNING)
    await harness.reconciler._poller.poll_from_memory(1)
    assert METRICS.registry.get_sample_value("worker_runs_blind") == 0


async def test_an_endpoint_whose_runs_have_ended_is_no_problem(harness: Harness) -> None:
    """An old endpoint of which nobody waits for anything any more."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = BLIND[0]
    await harness.reconciler.tick()
    await harness.pass_time(30)
    assert harness.readiness.status == "down"
    harness.store.set_sub(state="failed")
    harness.tracker.finish((job_id(), 1))
    await harness.pass_time(30)
    assert harness.readiness.status == "ok"


async def test_it_does_not_count_where_a_healthy_endpoint_denies_the_run(harness: Harness) -> None:
    """Anybody who knows the address may have sent it; RunPod itself says that there is no run."""
    await reported(harness, BLIND[2])
    for _ in range(5):
        await harness.pass_time(30)
    assert harness.store.sub().state is SubmissionState.LOST
    assert harness.store.job().status is JobStatus.QUEUED
