"""From a poll or a webhook to the written row."""

from typing import Any

import pytest

from tests.fakes import health, job_id
from tests.harness import LEASE, LIMITS, VIDEO, Harness, done
from tests.harness import update as seen
from worker.jobs.errors import OperatorFault, RunGone, RunPodUnavailable, StoreUnavailable
from worker.jobs.events import NotAccepted
from worker.jobs.job import JobStatus, SubmissionState
from worker.jobs.run import RunState
from worker.reconcile import reconciler
from worker.reconcile.updater import MAX_ROUNDS


@pytest.fixture
def harness() -> Harness:
    return Harness()


def body(run_id: str = "run-1", **values: Any) -> dict[str, Any]:
    return {"id": run_id, "status": "COMPLETED", "output": {"video": [VIDEO]}, **values}


async def test_a_run_is_followed_to_its_video(harness: Harness) -> None:
    await harness.submitted()
    assert await harness.reconciler.tick() == 30.0
    harness.runpod.runs["run-1"] = seen(RunState.RUNNING, execution_ms=500_000)
    await harness.pass_time(30)
    assert harness.store.job().status is JobStatus.RUNNING
    assert harness.store.job().progress == 45
    harness.runpod.runs["run-1"] = done()
    assert await harness.pass_time(30) is None
    assert harness.store.job().status is JobStatus.COMPLETED
    assert harness.store.job().progress == 100
    assert harness.store.sub().video_url == VIDEO
    assert harness.media.discarded == ["inputs/a"]


async def test_nothing_is_written_into_the_row_when_nothing_changed(harness: Harness) -> None:
    await harness.submitted()
    await harness.reconciler.tick()
    before = harness.store.job()
    await harness.pass_time(30)
    await harness.pass_time(30)
    assert harness.store.job() == before


async def test_at_start_up_every_open_run_is_looked_at_in_pages(harness: Harness) -> None:
    for number in (1, 2, 3):
        await harness.submitted(number)
    for number in (1, 2, 3):
        harness.store.set_sub(number=number, next_poll_at=1e9)
    await harness.reconciler.tick()
    assert sorted(harness.runpod.polled) == ["run-1", "run-2", "run-3"]
    assert harness.store.calls.count("take_page") == 2
    await harness.reconciler.tick()
    assert len(harness.runpod.polled) == 3


async def test_a_sweep_reviews_every_stranded_row_page_by_page(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "PAGE", 2)
    for number in (1, 2, 3, 4, 5):
        harness.store.insert(number)
    await harness.store.claim(5, LIMITS)
    harness.store.now += LEASE + 1
    await harness.reconciler.sweep()
    assert {job.status for job in harness.store.jobs} == {JobStatus.QUEUED}
    assert harness.store.calls.count("stranded") == 3


async def test_what_a_run_brought_survives_an_outage_longer_than_its_result(
    harness: Harness,
) -> None:
    await harness.submitted()
    await harness.reconciler.tick()
    harness.store.away = True
    harness.runpod.runs["run-1"] = done()
    with pytest.raises(StoreUnavailable):
        await harness.pass_time(60)
    del harness.runpod.runs["run-1"]
    with pytest.raises(StoreUnavailable):
        await harness.pass_time(7200)
    harness.store.away = False
    await harness.pass_time(30)
    assert harness.store.job().status is JobStatus.COMPLETED


async def test_what_was_seen_before_the_write_failed_is_written_later(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = done()

    def meddle(function: str) -> None:
        if function == "write":
            raise StoreUnavailable("away")

    harness.store.meddle = meddle
    with pytest.raises(StoreUnavailable):
        await harness.reconciler.tick()
    del harness.runpod.runs["run-1"]
    harness.store.meddle = lambda function: None
    await harness.pass_time(3000)
    assert harness.store.job().status is JobStatus.COMPLETED


async def test_a_run_held_before_it_was_recorded_is_watched_from_memory(harness: Harness) -> None:
    harness.store.away = True
    harness.tracker.track((job_id(), 1), "endpoint", "run-1")
    harness.runpod.runs["run-1"] = done()
    for seconds in (10, 30, 30):
        with pytest.raises(StoreUnavailable):
            await harness.pass_time(seconds)
    assert harness.runpod.polled == ["run-1"]


async def test_trouble_while_watching_from_memory_is_borne(harness: Harness) -> None:
    harness.store.away = True
    for number, trouble in enumerate([RunGone(), RunPodUnavailable(502), OperatorFault(401, "k")]):
        harness.tracker.track((job_id(number), 1), "endpoint", f"run-{number}")
        harness.runpod.runs[f"run-{number}"] = trouble
    with pytest.raises(StoreUnavailable):
        await harness.pass_time(30)
    assert len(harness.runpod.polled) == 3


async def test_a_run_that_another_worker_saw_end_is_forgotten_in_time(harness: Harness) -> None:
    harness.tracker.track((job_id(), 1), "endpoint", "run-1")
    await harness.pass_time(7 * 3600)
    harness.store.away = True
    with pytest.raises(StoreUnavailable):
        await harness.pass_time(60)
    assert harness.runpod.polled == []


@pytest.mark.parametrize("trouble", [RunPodUnavailable(502), OperatorFault(401, "wrong key")])
async def test_a_fault_of_the_provider_changes_nothing(
    harness: Harness, trouble: Exception
) -> None:
    await harness.submitted()
    before = harness.store.job()
    harness.runpod.runs["run-1"] = trouble
    await harness.reconciler.tick()
    assert harness.store.job() == before


async def test_404_counts_only_while_the_endpoint_answers(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = RunGone()
    harness.runpod.health_says = RunPodUnavailable(502)
    for _ in range(20):
        await harness.pass_time(30)
    assert harness.store.sub().state is SubmissionState.QUEUED
    harness.runpod.health_says = health()
    for _ in range(2):
        await harness.pass_time(30)
    assert harness.store.sub().state is SubmissionState.QUEUED
    await harness.pass_time(30)
    assert harness.store.sub().state is SubmissionState.LOST
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.media.discarded == ["inputs/a"]


async def test_404_for_many_runs_asks_for_health_once(harness: Harness) -> None:
    for number in (1, 2, 3):
        await harness.submitted(number)
        harness.runpod.runs[f"run-{number}"] = RunGone()
    await harness.reconciler.tick()
    assert harness.runpod.probes == 1


async def test_an_unknown_submission_is_over_with_its_ttl_and_sent_anew(harness: Harness) -> None:
    await harness.submitted(run_id="")
    await harness.pass_time(8000)
    assert harness.store.job().status is JobStatus.PREPARING
    await harness.pass_time(1000)
    assert harness.store.sub().state is SubmissionState.EXPIRED
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.store.submission_count() == 1


async def test_a_webhook_adopts_an_unknown_submission(harness: Harness) -> None:
    await harness.submitted(run_id="")
    harness.runpod.runs["run-9"] = done("run-9")
    assert await harness.reconciler.webhook(job_id(), 1, body("run-9")) == "applied"
    assert harness.store.sub().runpod_job_id == "run-9"
    assert harness.store.job().status is JobStatus.COMPLETED


async def test_a_webhook_that_names_a_run_that_runpod_does_not_know_adopts_nothing(
    harness: Harness,
) -> None:
    await harness.submitted(run_id="")
    with pytest.raises(RunPodUnavailable):
        await harness.reconciler.webhook(job_id(), 1, body("run-9"))
    assert harness.store.sub().runpod_job_id is None


@pytest.mark.parametrize("hint", [None, [], "x", {"id": 3}, {"status": "COMPLETED"}])
async def test_a_webhook_without_a_run_id_cannot_adopt(harness: Harness, hint: object) -> None:
    await harness.submitted(run_id="")
    assert await harness.reconciler.webhook(job_id(), 1, hint) == "no_run_id"


async def test_a_webhook_is_a_hint_and_status_the_truth(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = seen(RunState.RUNNING)
    assert await harness.reconciler.webhook(job_id(), 1, body()) == "applied"
    assert harness.store.job().status is JobStatus.RUNNING


async def test_a_webhook_may_come_twice_and_late(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = done()
    assert await harness.reconciler.webhook(job_id(), 1, body()) == "applied"
    before = harness.store.job()
    assert await harness.reconciler.webhook(job_id(), 1, body()) == "already_ended"
    assert await harness.reconciler.webhook(job_id(), 1, body(status="FAILED")) == "already_ended"
    assert harness.store.job() == before


async def test_a_webhook_for_a_lost_run_is_believed_while_the_row_waits(harness: Harness) -> None:
    """Its URL is a secret of ours, and without it the video would be rendered again."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = RunGone()
    for _ in range(4):
        await harness.pass_time(30)
    assert harness.store.sub().state is SubmissionState.LOST
    harness.runpod.runs["run-1"] = done()
    assert await harness.reconciler.webhook(job_id(), 1, body()) == "applied"


async def test_a_body_is_believed_once_the_run_is_missing_for_long(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = RunGone()
    harness.store.set_sub(missing_since=harness.store.now - 60)
    assert await harness.reconciler.webhook(job_id(), 1, body()) == "applied"
    assert harness.store.job().status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    "said",
    [body("run-2"), body(status="IN_PROGRESS"), body(status="SOMETHING_NEW"), None],
    ids=["another run", "still at work", "a word that we do not know", "nothing"],
)
async def test_a_body_that_does_not_tell_the_end_of_this_run_is_never_believed(
    harness: Harness, said: object
) -> None:
    """Taken for news it would also end the count of the polls that found nothing."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = RunGone()
    harness.store.set_sub(missing_since=harness.store.now - 60, missing_looks=2)
    before = harness.store.look(job_id())
    with pytest.raises(RunPodUnavailable):
        await harness.reconciler.webhook(job_id(), 1, said)
    assert harness.store.look(job_id()) == before


async def test_a_webhook_whose_run_is_gone_at_once_is_kept_and_the_run_asked_about(
    harness: Harness,
) -> None:
    """Not believed: RunPod may know the run a moment later, and then its word counts."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = RunGone()
    assert await harness.reconciler.webhook(job_id(), 1, body()) == "kept"
    assert harness.store.job().status is JobStatus.SUBMITTED
    harness.runpod.runs["run-1"] = seen(RunState.FAILED, error="boom")
    await harness.pass_time(30)
    assert harness.store.job().status is JobStatus.FAILED


async def test_a_webhook_for_an_unknown_row_is_nothing(harness: Harness) -> None:
    assert await harness.reconciler.webhook(job_id(5), 1, body()) == "unknown_job"
    await harness.submitted()
    assert await harness.reconciler.webhook(job_id(), 4, body()) == "unknown_job"


async def test_webhooks_that_were_seen_make_silent_runs_polled_slowly(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = seen(RunState.RUNNING)
    assert await harness.reconciler.tick() == 30.0
    await harness.reconciler.webhook(job_id(), 1, body())
    assert await harness.pass_time(300) == 300.0


async def test_a_deleted_rows_run_is_stopped_until_it_has_ended(harness: Harness) -> None:
    await harness.submitted()
    harness.store.delete()
    await harness.reconciler.tick()
    assert harness.runpod.cancelled == ["run-1"]
    assert harness.media.discarded == ["inputs/a"]
    await harness.pass_time(5)
    assert harness.runpod.cancelled == ["run-1"]
    await harness.pass_time(30)
    assert harness.runpod.cancelled == ["run-1", "run-1"]
    harness.runpod.runs["run-1"] = seen(RunState.CANCELLED)
    await harness.pass_time(5)
    assert harness.store.sub().state is SubmissionState.CANCELLED


async def test_a_webhook_for_a_deleted_row_ends_its_submission(harness: Harness) -> None:
    await harness.submitted()
    harness.store.delete()
    harness.runpod.runs["run-1"] = done()
    assert await harness.reconciler.webhook(job_id(), 1, body()) == "applied"
    assert harness.store.sub().state is SubmissionState.COMPLETED


async def test_a_cancel_waits_for_the_run_and_is_looked_at_soon(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = seen(RunState.RUNNING)
    await harness.reconciler.tick()
    harness.store.cancel()
    assert await harness.pass_time(1) == 5.0
    assert harness.runpod.cancelled == ["run-1"]
    assert harness.media.discarded == ["inputs/a"]
    assert harness.store.job().phase == "cancelling"
    assert await harness.pass_time(5) == 5.0
    harness.runpod.runs["run-1"] = seen(RunState.CANCELLED)
    await harness.pass_time(5)
    assert harness.store.job().status is JobStatus.CANCELLED


async def test_an_unknown_submission_of_a_cancelled_row_loses_its_inputs(harness: Harness) -> None:
    await harness.submitted(run_id="")
    harness.store.cancel()
    await harness.pass_time(1)
    await harness.pass_time(15)
    assert harness.store.job().status is JobStatus.PREPARING
    assert harness.media.discarded == ["inputs/a"]


async def test_a_change_that_came_between_is_decided_anew(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = seen(RunState.CANCELLED)
    times = 0

    def meddle(function: str) -> None:
        nonlocal times
        if function == "write" and (times := times + 1) == 1:
            harness.store.cancel()

    harness.store.meddle = meddle
    await harness.reconciler.tick()
    assert times == 2
    assert harness.store.job().status is JobStatus.CANCELLED


async def test_what_a_decision_that_did_not_take_asked_for_is_not_done(harness: Harness) -> None:
    """Another worker saw the run's end first: there is nothing to cancel any more."""
    await harness.submitted()
    harness.store.cancel()
    harness.runpod.runs["run-1"] = seen(RunState.RUNNING)

    def meddle(function: str) -> None:
        if function == "write":
            harness.store.set_sub(state="cancelled")
            harness.store.set(status="cancelled", phase="done")

    harness.store.meddle = meddle
    await harness.reconciler.tick()
    assert harness.runpod.cancelled == []
    assert harness.media.discarded == []


async def test_a_row_that_changes_all_the_time_is_left_for_the_next_look(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = done()

    def meddle(function: str) -> None:
        if function == "write":
            harness.store.set(phase_detail="busy")

    harness.store.meddle = meddle
    assert await harness.reconciler.webhook(job_id(), 1, body()) == "not_written"
    assert harness.store.calls.count("write") == 1 + MAX_ROUNDS


async def test_a_row_that_somebody_holds_locked_is_left_for_the_next_look(
    harness: Harness,
) -> None:
    """Trying on would wait for the lock in each round."""
    await harness.submitted()
    harness.runpod.runs["run-1"] = done()
    harness.store.locked.add(job_id())
    before = harness.store.calls.count("write")
    assert await harness.reconciler.webhook(job_id(), 1, body()) == "not_written"
    assert harness.store.calls.count("write") == before + 1
    harness.store.locked.clear()
    await harness.pass_time(30)
    assert harness.store.job().status is JobStatus.COMPLETED


async def test_one_refused_write_does_not_hold_up_the_others(harness: Harness) -> None:
    for number in (1, 2, 3):
        await harness.submitted(number)
        harness.runpod.runs[f"run-{number}"] = done(f"run-{number}")
    harness.store.refused.add(job_id(2))
    await harness.reconciler.tick()
    assert [harness.store.job(number).status for number in (1, 2, 3)] == [
        JobStatus.COMPLETED,
        JobStatus.SUBMITTED,
        JobStatus.COMPLETED,
    ]


async def test_two_submissions_of_one_row_are_decided_one_after_the_other(harness: Harness) -> None:
    await harness.submitted()
    second = harness.store.attempts[job_id(), 1] | {"attempt": 2, "runpod_job_id": "run-2"}
    harness.store.attempts[job_id(), 2] = second
    harness.runpod.runs |= {"run-1": done(), "run-2": seen(RunState.RUNNING, "run-2")}
    await harness.reconciler.tick()
    assert harness.store.job().status is JobStatus.COMPLETED
    assert harness.runpod.cancelled == ["run-2"]


async def test_a_cancel_that_fails_is_asked_again(harness: Harness) -> None:
    await harness.submitted()
    harness.store.cancel()
    calls: list[str] = []

    async def cancel(run_id: str, *, endpoint_id: str | None = None) -> None:
        calls.append(run_id)
        raise RunPodUnavailable(502)

    harness.runpod.cancel = cancel  # type: ignore[method-assign]
    await harness.pass_time(30)
    await harness.pass_time(30)
    assert calls == ["run-1", "run-1"]


async def test_storage_that_is_away_stops_nothing(harness: Harness) -> None:
    await harness.submitted()
    harness.media.storage_away = True
    harness.runpod.runs["run-1"] = seen(RunState.FAILED, error="boom")
    await harness.reconciler.tick()
    assert harness.store.job().status is JobStatus.FAILED


async def test_on_an_exclusive_endpoint_health_proves_that_nothing_was_accepted() -> None:
    harness = Harness(exclusive=True)
    await harness.submitted(run_id="")
    for _ in range(3):
        await harness.pass_time(20)
        assert harness.store.sub().state is SubmissionState.UNKNOWN
    await harness.pass_time(20)
    assert harness.store.sub().state is SubmissionState.EXPIRED
    assert harness.store.job().status is JobStatus.QUEUED


@pytest.mark.parametrize(
    "trouble", ["a run", "a run at work", "no health", "another endpoint", "a restart"]
)
async def test_evidence_needs_every_round_to_fit(trouble: str) -> None:
    harness = Harness(exclusive=True)
    await harness.submitted(run_id="")
    if trouble == "a run":
        harness.runpod.health_says = health(in_queue=1)
    elif trouble == "a run at work":
        harness.runpod.health_says = health(in_progress=1)
    elif trouble == "no health":
        harness.runpod.health_says = RunPodUnavailable(502)
    elif trouble == "another endpoint":
        harness.runpod.endpoint_id = "new"
    else:
        harness.store.now += 60
    for _ in range(8):
        await harness.pass_time(20)
    assert harness.store.sub().state is SubmissionState.UNKNOWN


async def test_known_runs_and_their_ends_explain_what_health_counts() -> None:
    harness = Harness(exclusive=True)
    await harness.submitted(2)
    await harness.submitted(3)
    await harness.submitted(1, run_id="")
    harness.runpod.health_says = health(in_queue=2)
    for _ in range(2):
        await harness.pass_time(20)
    harness.runpod.runs["run-2"] = done("run-2")
    harness.runpod.runs["run-3"] = RunPodUnavailable(502)
    harness.runpod.health_says = health(in_queue=0, completed=1)
    await harness.pass_time(20)
    await harness.pass_time(20)
    assert harness.store.sub(1, 1).state is SubmissionState.EXPIRED


async def test_news_of_a_submission_that_does_not_exist_changes_nothing(harness: Harness) -> None:
    await harness.submitted()
    before = harness.store.look(job_id())
    await harness.apply(1, NotAccepted(attempt=9))
    assert harness.store.look(job_id()) == before
