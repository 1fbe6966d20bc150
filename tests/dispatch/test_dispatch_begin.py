"""When the answer to begin_submission is lost, nothing was sent, and the table is told so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dispatch.test_dispatch import Office
from worker.dispatch import outcome
from worker.jobs.errors import StoreUnavailable
from worker.jobs.job import Job, JobStatus, SubmissionState
from worker.ports import Beginning


@pytest.mark.parametrize("committed", [True, False])
async def test_a_lost_answer_to_begin_is_no_unknown_submission(
    monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """Whether or not it was committed: no POST was made, so the row waits for no webhook."""
    monkeypatch.setattr(outcome, "AWAY_SECONDS", 0.0)
    office = Office()
    office.store.insert()
    begin: Any = office.store.begin

    async def lost(job: Job, beginning: Beginning) -> Job | None:
        if committed:
            await begin(job, beginning)
        raise StoreUnavailable("Supabase does not answer.")

    monkeypatch.setattr(office.store, "begin", lost)
    await office.tick()
    assert office.runpod.posts == []
    assert office.dispatcher.working == {}
    if committed:
        assert office.store.sub().state is SubmissionState.REFUSED
        assert office.store.job().status is JobStatus.QUEUED
        assert office.store.job().submissions == 0
    else:
        assert office.store.subs == {}
