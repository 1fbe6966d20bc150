"""When the answer to begin_submission is lost, nothing was sent, and the table is told so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import Harness
from worker.jobs.errors import StoreUnavailable
from worker.jobs.job import Case, JobStatus, SubmissionState
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
