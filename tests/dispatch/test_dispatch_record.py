"""A run id that the table refuses to record leaves its submission unknown, never unsent."""

from tests.harness import Harness
from worker.jobs.job import JobStatus, SubmissionState


async def test_a_refused_record_leaves_the_submission_unknown() -> None:
    """RunPod has accepted the run: its webhook may still adopt it, and nothing is posted again."""
    harness = Harness()
    await harness.submitted(2, run_id="run-1")
    harness.store.insert()
    await harness.dispatch()
    assert len(harness.runpod.posts) == 1
    assert harness.store.sub().state is SubmissionState.UNKNOWN
    assert harness.store.job().status is JobStatus.PREPARING
    assert harness.store.submission_count() == 1
    assert harness.media.discarded == []
