"""The way back, from a poll or a webhook to the written row."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes import FakeMedia, FakeRunPod, FakeStore, health, job_id
from worker.jobs.change import Limits, Nothing
from worker.jobs.errors import OperatorFault, RunGone, RunPodUnavailable, StoreUnavailable
from worker.jobs.job import JobStatus, SubmissionState
from worker.jobs.run import RunState, RunUpdate
from worker.ports import Beginning, ClaimLimits
from worker.reconcile.reconciler import Reconciler

LIMITS = ClaimLimits(
    max_in_flight=99, max_queued_runs=99, max_in_flight_per_user=99,
    max_submissions_per_user_per_day=99,
)  # fmt: skip
BEGINNING = Beginning(
    max_submissions=3, endpoint_id="endpoint", ttl_seconds=9000.0, template_hash="t",
    plan={"expected_seconds": 1000}, columns={}, input_objects=("inputs/a",),
)  # fmt: skip
VIDEO = "https://r2.example/v.mp4"


def seen(state: RunState, run_id: str = "run-1", **values: Any) -> RunUpdate:
    return RunUpdate(run_id=run_id, state=state, **values)


def done(run_id: str = "run-1") -> RunUpdate:
    return seen(RunState.COMPLETED, run_id, video_url=VIDEO, execution_ms=60_000)


class Office:
    """A reconciler with everything around it faked; one clock for table and worker."""

    def __init__(self, *, exclusive: bool = False, limits: Limits | None = None) -> None:
        self.store, self.runpod, self.media = FakeStore(), FakeRunPod(), FakeMedia()
        self.exclusive, self.limits = exclusive, limits or Limits()
        self.restart()

    def restart(self) -> None:
        """A new process: nothing is known from memory."""
        self.reconciler = Reconciler(
            store=self.store,
            runpod=self.runpod,
            media=self.media,
            limits=self.limits,
            exclusive=self.exclusive,
            clock=lambda: self.store.now,
            jitter=lambda: 0.5,
        )

    async def submitted(self, number: int = 1, run_id: str | None = None) -> None:
        """A row whose run is recorded; with run_id '' its POST got no answer."""
        if number not in (int(one[-1]) for one in self.store.jobs):
            self.store.insert(number)
        (job,) = await self.store.claim(1, LIMITS, holding=list(self.store.jobs))
        await self.store.begin(job, BEGINNING)
        if run_id != "":
            run_id = run_id or f"run-{number}"
            self.runpod.runs.setdefault(run_id, seen(RunState.QUEUED, run_id))
            await self.store.record(job.id, job.attempt, run_id)
        else:
            self.store.now += 61
            await self.store.recover()

    async def pass_by(self, seconds: float) -> float | None:
        self.store.now += seconds
        return await self.reconciler.tick()


@pytest.fixture
def office() -> Office:
    return Office()


def body(run_id: str = "run-1", **values: Any) -> dict[str, Any]:
    return {"id": run_id, "status": "COMPLETED", "output": {"video": [VIDEO]}, **values}


async def test_a_run_is_followed_to_its_video(office: Office) -> None:
    await office.submitted()
    assert await office.reconciler.tick() == 30.0
    office.runpod.runs["run-1"] = seen(RunState.RUNNING, execution_ms=500_000)
    await office.pass_by(30)
    assert office.store.job().status is JobStatus.RUNNING
    assert office.store.job().progress == 45
    office.runpod.runs["run-1"] = done()
    assert await office.pass_by(30) is None
    assert office.store.job().status is JobStatus.COMPLETED
    assert office.store.job().progress == 100
    assert office.store.sub().video_url == VIDEO
    assert office.media.discarded == []


async def test_nothing_is_written_into_the_row_when_nothing_changed(office: Office) -> None:
    await office.submitted()
    await office.reconciler.tick()
    before = office.store.job()
    await office.pass_by(30)
    await office.pass_by(30)
    assert office.store.job() == before


async def test_at_start_up_every_open_run_is_looked_at_in_pages(office: Office) -> None:
    for number in (1, 2, 3):
        await office.submitted(number)
    for at in office.store.times.values():
        at.poll_at = 1e9
    await office.reconciler.tick()
    assert sorted(office.runpod.looks) == ["run-1", "run-2", "run-3"]
    assert office.store.calls.count("take_page") == 2
    await office.reconciler.tick()
    assert len(office.runpod.looks) == 3


async def test_what_a_run_brought_survives_an_outage_longer_than_its_result(
    office: Office,
) -> None:
    await office.submitted()
    await office.reconciler.tick()
    office.store.away = True
    office.runpod.runs["run-1"] = done()
    with pytest.raises(StoreUnavailable):
        await office.pass_by(60)
    del office.runpod.runs["run-1"]
    with pytest.raises(StoreUnavailable):
        await office.pass_by(7200)
    office.store.away = False
    await office.pass_by(30)
    assert office.store.job().status is JobStatus.COMPLETED


async def test_what_was_seen_before_the_write_failed_is_written_later(office: Office) -> None:
    await office.submitted()
    office.runpod.runs["run-1"] = done()

    def meddle(function: str) -> None:
        if function == "write":
            raise StoreUnavailable("away")

    office.store.meddle = meddle
    with pytest.raises(StoreUnavailable):
        await office.reconciler.tick()
    del office.runpod.runs["run-1"]
    office.store.meddle = lambda function: None
    await office.pass_by(3000)
    assert office.store.job().status is JobStatus.COMPLETED


async def test_a_run_held_before_it_was_recorded_is_watched_from_memory(office: Office) -> None:
    office.store.away = True
    office.reconciler.hold(job_id(), 1, "endpoint", "run-1")
    office.runpod.runs["run-1"] = done()
    for seconds in (10, 30, 30):
        with pytest.raises(StoreUnavailable):
            await office.pass_by(seconds)
    assert office.runpod.looks == ["run-1"]


async def test_trouble_while_watching_from_memory_is_borne(office: Office) -> None:
    office.store.away = True
    for number, trouble in enumerate([RunGone(), RunPodUnavailable(502), OperatorFault(401, "k")]):
        office.reconciler.hold(job_id(number), 1, "endpoint", f"run-{number}")
        office.runpod.runs[f"run-{number}"] = trouble
    with pytest.raises(StoreUnavailable):
        await office.pass_by(30)
    assert len(office.runpod.looks) == 3


async def test_a_run_that_another_worker_saw_end_is_forgotten_in_time(office: Office) -> None:
    office.reconciler.hold(job_id(), 1, "endpoint", "run-1")
    await office.pass_by(7 * 3600)
    office.store.away = True
    with pytest.raises(StoreUnavailable):
        await office.pass_by(60)
    assert office.runpod.looks == []


@pytest.mark.parametrize("trouble", [RunPodUnavailable(502), OperatorFault(401, "wrong key")])
async def test_a_fault_of_the_provider_changes_nothing(office: Office, trouble: Exception) -> None:
    await office.submitted()
    before = office.store.job()
    office.runpod.runs["run-1"] = trouble
    await office.reconciler.tick()
    assert office.store.job() == before


async def test_404_counts_only_while_the_endpoint_answers(office: Office) -> None:
    await office.submitted()
    office.runpod.runs["run-1"] = RunGone()
    office.runpod.health_says = RunPodUnavailable(502)
    for _ in range(20):
        await office.pass_by(30)
    assert office.store.sub().state is SubmissionState.QUEUED
    office.runpod.health_says = health()
    for _ in range(2):
        await office.pass_by(30)
    assert office.store.sub().state is SubmissionState.QUEUED
    await office.pass_by(30)
    assert office.store.sub().state is SubmissionState.LOST
    assert office.store.job().status is JobStatus.QUEUED
    assert office.media.discarded == ["inputs/a"]


async def test_404_for_many_runs_asks_for_health_once(office: Office) -> None:
    for number in (1, 2, 3):
        await office.submitted(number)
        office.runpod.runs[f"run-{number}"] = RunGone()
    await office.reconciler.tick()
    assert office.runpod.probes == 1


async def test_an_unknown_submission_is_over_with_its_ttl_and_sent_anew(office: Office) -> None:
    await office.submitted(run_id="")
    await office.pass_by(8000)
    assert office.store.job().status is JobStatus.PREPARING
    await office.pass_by(1000)
    assert office.store.sub().state is SubmissionState.EXPIRED
    assert office.store.job().status is JobStatus.QUEUED
    assert office.store.job().submissions == 1


async def test_a_webhook_adopts_an_unknown_submission(office: Office) -> None:
    await office.submitted(run_id="")
    office.runpod.runs["run-9"] = done("run-9")
    assert await office.reconciler.webhook(job_id(), 1, body("run-9")) == "completed"
    assert office.store.sub().runpod_job_id == "run-9"
    assert office.store.job().status is JobStatus.COMPLETED


async def test_a_webhook_that_names_a_run_that_runpod_does_not_know_adopts_nothing(
    office: Office,
) -> None:
    await office.submitted(run_id="")
    with pytest.raises(RunPodUnavailable):
        await office.reconciler.webhook(job_id(), 1, body("run-9"))
    assert office.store.sub().runpod_job_id is None


@pytest.mark.parametrize("hint", [None, [], "x", {"id": 3}, {"status": "COMPLETED"}])
async def test_a_webhook_without_a_run_id_cannot_adopt(office: Office, hint: object) -> None:
    await office.submitted(run_id="")
    assert await office.reconciler.webhook(job_id(), 1, hint) == "no_run_id"


async def test_a_webhook_is_a_hint_and_status_the_truth(office: Office) -> None:
    await office.submitted()
    office.runpod.runs["run-1"] = seen(RunState.RUNNING)
    assert await office.reconciler.webhook(job_id(), 1, body()) == "running"
    assert office.store.job().status is JobStatus.RUNNING


async def test_a_webhook_may_come_twice_and_late(office: Office) -> None:
    await office.submitted()
    office.runpod.runs["run-1"] = done()
    assert await office.reconciler.webhook(job_id(), 1, body()) == "completed"
    before = office.store.job()
    assert await office.reconciler.webhook(job_id(), 1, body()) == "known_already"
    assert await office.reconciler.webhook(job_id(), 1, body(status="FAILED")) == "known_already"
    assert office.store.job() == before


async def test_a_webhook_for_a_lost_run_is_believed_while_the_row_waits(office: Office) -> None:
    """Its URL is a secret of ours, and without it the video would be rendered again."""
    await office.submitted()
    office.runpod.runs["run-1"] = RunGone()
    for _ in range(4):
        await office.pass_by(30)
    assert office.store.sub().state is SubmissionState.LOST
    office.runpod.runs["run-1"] = done()
    assert await office.reconciler.webhook(job_id(), 1, body()) == "completed"


async def test_a_webhook_whose_run_is_gone_at_once_is_asked_to_come_again(office: Office) -> None:
    await office.submitted()
    office.runpod.runs["run-1"] = RunGone()
    with pytest.raises(RunPodUnavailable):
        await office.reconciler.webhook(job_id(), 1, body())
    assert office.store.job().status is JobStatus.SUBMITTED


async def test_a_webhook_for_an_unknown_row_is_nothing(office: Office) -> None:
    assert await office.reconciler.webhook(job_id(5), 1, body()) == "unknown_job"
    await office.submitted()
    assert await office.reconciler.webhook(job_id(), 4, body()) == "unknown_job"


async def test_webhooks_that_were_seen_make_silent_runs_polled_slowly(office: Office) -> None:
    await office.submitted()
    office.runpod.runs["run-1"] = seen(RunState.RUNNING)
    assert await office.reconciler.tick() == 30.0
    await office.reconciler.webhook(job_id(), 1, body())
    assert await office.pass_by(300) == 300.0


async def test_a_deleted_rows_run_is_stopped_until_it_has_ended(office: Office) -> None:
    await office.submitted()
    del office.store.jobs[job_id()]
    await office.reconciler.tick()
    assert office.runpod.cancelled == ["run-1"]
    assert office.media.discarded == ["inputs/a"]
    await office.pass_by(5)
    assert office.runpod.cancelled == ["run-1"]
    await office.pass_by(30)
    assert office.runpod.cancelled == ["run-1", "run-1"]
    office.runpod.runs["run-1"] = seen(RunState.CANCELLED)
    await office.pass_by(5)
    assert office.store.sub().state is SubmissionState.CANCELLED


async def test_a_webhook_for_a_deleted_row_ends_its_submission(office: Office) -> None:
    await office.submitted()
    del office.store.jobs[job_id()]
    office.runpod.runs["run-1"] = done()
    assert await office.reconciler.webhook(job_id(), 1, body()) == "orphan_seen"
    assert office.store.sub().state is SubmissionState.COMPLETED


async def test_a_cancel_waits_for_the_run_and_is_looked_at_soon(office: Office) -> None:
    await office.submitted()
    office.runpod.runs["run-1"] = seen(RunState.RUNNING)
    await office.reconciler.tick()
    office.store.cancel()
    assert await office.pass_by(1) == 5.0
    assert office.runpod.cancelled == ["run-1"]
    assert office.media.discarded == ["inputs/a"]
    assert office.store.job().phase == "cancelling"
    assert await office.pass_by(5) == 5.0
    office.runpod.runs["run-1"] = seen(RunState.CANCELLED)
    await office.pass_by(5)
    assert office.store.job().status is JobStatus.CANCELLED


async def test_an_unknown_submission_of_a_cancelled_row_loses_its_inputs(office: Office) -> None:
    await office.submitted(run_id="")
    office.store.cancel()
    await office.pass_by(1)
    await office.pass_by(15)
    assert office.store.job().status is JobStatus.PREPARING
    assert office.media.discarded == ["inputs/a"]


async def test_a_change_that_came_between_is_decided_anew(office: Office) -> None:
    await office.submitted()
    office.runpod.runs["run-1"] = seen(RunState.CANCELLED)
    times = 0

    def meddle(function: str) -> None:
        nonlocal times
        if function == "write" and (times := times + 1) == 1:
            office.store.cancel()

    office.store.meddle = meddle
    await office.reconciler.tick()
    assert times == 2
    assert office.store.job().status is JobStatus.CANCELLED


async def test_a_row_that_changes_all_the_time_is_left_for_the_next_look(office: Office) -> None:
    await office.submitted()
    office.runpod.runs["run-1"] = done()

    def meddle(function: str) -> None:
        if function == "write":
            office.store._set(job_id(), phase_detail="busy")

    office.store.meddle = meddle
    assert await office.reconciler.webhook(job_id(), 1, body()) == "not_written"
    assert office.store.calls.count("write") == 8


async def test_one_refused_write_does_not_hold_up_the_others(office: Office) -> None:
    for number in (1, 2, 3):
        await office.submitted(number)
        office.runpod.runs[f"run-{number}"] = done(f"run-{number}")
    office.store.refused.add(job_id(2))
    await office.reconciler.tick()
    assert [office.store.job(number).status for number in (1, 2, 3)] == [
        JobStatus.COMPLETED,
        JobStatus.SUBMITTED,
        JobStatus.COMPLETED,
    ]


async def test_two_submissions_of_one_row_are_decided_one_after_the_other(office: Office) -> None:
    await office.submitted()
    key = (job_id(), 2)
    first = office.store.sub()
    office.store.subs[key] = replace(first, attempt=2, runpod_job_id="run-2")
    office.store.times[key] = replace(office.store.times[job_id(), 1])
    office.runpod.runs |= {"run-1": done(), "run-2": seen(RunState.RUNNING, "run-2")}
    await office.reconciler.tick()
    assert office.store.job().status is JobStatus.COMPLETED
    assert office.runpod.cancelled == ["run-2"]


async def test_a_cancel_that_fails_is_asked_again(office: Office) -> None:
    await office.submitted()
    office.store.cancel()
    calls: list[str] = []

    async def cancel(run_id: str, *, endpoint_id: str | None = None) -> None:
        calls.append(run_id)
        raise RunPodUnavailable(502)

    office.runpod.cancel = cancel  # type: ignore[method-assign]
    await office.pass_by(30)
    await office.pass_by(30)
    assert calls == ["run-1", "run-1"]


async def test_storage_that_is_away_stops_nothing(office: Office) -> None:
    await office.submitted()
    office.media.storage_away = True
    office.runpod.runs["run-1"] = seen(RunState.FAILED, error="boom")
    await office.reconciler.tick()
    assert office.store.job().status is JobStatus.FAILED


async def test_on_an_exclusive_endpoint_health_proves_that_nothing_was_accepted() -> None:
    office = Office(exclusive=True)
    await office.submitted(run_id="")
    for _ in range(3):
        await office.pass_by(20)
        assert office.store.sub().state is SubmissionState.UNKNOWN
    await office.pass_by(20)
    assert office.store.sub().state is SubmissionState.EXPIRED
    assert office.store.job().status is JobStatus.QUEUED


@pytest.mark.parametrize("trouble", ["a run", "no health", "another endpoint", "a restart"])
async def test_evidence_needs_every_round_to_fit(trouble: str) -> None:
    office = Office(exclusive=True)
    await office.submitted(run_id="")
    if trouble == "a run":
        office.runpod.health_says = health(in_queue=1)
    elif trouble == "no health":
        office.runpod.health_says = RunPodUnavailable(502)
    elif trouble == "another endpoint":
        office.runpod.endpoint_id = "new"
    else:
        office.store.now += 60
    for _ in range(8):
        await office.pass_by(20)
    assert office.store.sub().state is SubmissionState.UNKNOWN


async def test_known_runs_and_their_ends_explain_what_health_counts() -> None:
    office = Office(exclusive=True)
    await office.submitted(2)
    await office.submitted(3)
    await office.submitted(1, run_id="")
    office.runpod.health_says = health(in_queue=2)
    for _ in range(2):
        await office.pass_by(20)
    office.runpod.runs["run-2"] = done("run-2")
    office.runpod.runs["run-3"] = RunPodUnavailable(502)
    office.runpod.health_says = health(in_queue=0, completed=1)
    await office.pass_by(20)
    await office.pass_by(20)
    assert office.store.sub(1, 1).state is SubmissionState.EXPIRED


async def test_news_of_a_submission_that_does_not_exist_changes_nothing(office: Office) -> None:
    await office.submitted()
    case = office.store.look(job_id())
    (decision,) = await office.reconciler.apply([(case, 9, Nothing())])
    assert decision.outcome == "unchanged"
