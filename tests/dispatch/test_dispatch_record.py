"""A run id that the table refuses to record leaves its submission unknown, never unsent."""

from __future__ import annotations

import pytest

from tests.dispatch.test_dispatch import Office
from worker.jobs.errors import StoreRefused
from worker.jobs.job import JobStatus, SubmissionState
from worker.ports import Recorded


async def test_a_refused_record_leaves_the_submission_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RunPod has accepted the run: its webhook may still adopt it, and nothing is posted again."""
    office = Office()
    office.store.insert()

    async def refused(job_id: str, attempt: int, run_id: str) -> Recorded | None:
        raise StoreRefused("no such run (23505)")

    monkeypatch.setattr(office.store, "record", refused)
    await office.tick()
    assert len(office.runpod.posts) == 1
    assert office.store.sub().state is SubmissionState.UNKNOWN
    assert office.store.job().status is JobStatus.PREPARING
    assert office.store.job().submissions == 1
    assert office.media.discarded == []
