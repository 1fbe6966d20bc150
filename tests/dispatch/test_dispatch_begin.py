"""When the answer to begin_submission is lost, nothing was sent, and the table is told so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.harness import LIMITS, Harness
from worker.jobs.errors import StoreUnavailable
from worker.jobs.job import Case, JobStatus, SubmissionState
from worker.jobs.waiting import IN_LINE
from worker.ports import NotBegun


@pytest.mark.parametrize("committed", [True, False])
async def test_a_lost_answer_to_begin_is_no_unknown_submission(
    monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """Whether or not it was committed: no POST was made, so the row waits for no webhook."""
    harness = Harness()
    harness.store.insert()
    begin: Any = harness.store.begin

    async def lost(*arguments: Any) -> Case | NotBegun:
        if committed:
            await begin(*arguments)
        raise StoreUnavailable("Supabase does not answer.")

    monkeypatch.setattr(harness.store, "begin", lost)
    await harness.dispatch()
    assert harness.runpod.posts == []
    assert harness.dispatcher.claims == {}
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.store.submission_count() == 0
    if committed:
        assert harness.store.sub().state is SubmissionState.REFUSED
    else:
        assert harness.store.attempts == {}


async def test_a_prepared_job_without_room_goes_back_to_the_line_and_keeps_its_turn() -> None:
    """Rows in preparation reserve no place for long, so the last one may be taken meanwhile."""
    harness = Harness()
    harness.limits = replace(LIMITS, max_queued_runs=1)
    harness.restart()
    await harness.submitted(2)
    harness.store.insert(1)
    await harness.dispatch()
    assert harness.runpod.posts == []
    job = harness.store.job(1)
    assert (job.status, job.phase_detail) == (JobStatus.QUEUED, IN_LINE)
    assert harness.store.wait_of(1) == 0
    assert harness.media.discarded == [f"{job.id}/1/a"], "what was prepared is removed"
    harness.store.set_sub(number=2, state="running")
    await harness.dispatch()
    assert len(harness.runpod.posts) == 1
