"""The way out, from a queued row to a recorded run, through tick()."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.fakes import FakeMedia, FakeRunPod, FakeStore, job_id
from tests.plan.policies import GUIDE
from tests.workflow import templates
from worker.dispatch import outcome
from worker.dispatch.dispatcher import Dispatcher
from worker.dispatch.gate import Gate
from worker.dispatch.preparation import Preparer
from worker.dispatch.submission import Submitter
from worker.jobs.errors import (
    InputUnavailable,
    JobFailed,
    OperatorFault,
    RunPodRateLimited,
    RunPodUnavailable,
    RunRefused,
    StoreUnavailable,
    SubmissionUnknown,
)
from worker.jobs.job import JobStatus, SubmissionState
from worker.ports import ClaimLimits
from worker.runtime.readiness import Board

LIMITS = ClaimLimits(
    max_in_flight=20,
    max_queued_runs=20,
    max_in_flight_per_user=20,
    max_submissions_per_user_per_day=50,
)


class Office:
    """A dispatcher with everything around it faked; `now` is the boot clock."""

    def __init__(self) -> None:
        self.store, self.runpod, self.media = FakeStore(), FakeRunPod(), FakeMedia()
        self.board = Board()
        self.now = 1000.0
        self.held: list[tuple[str, int, str, str]] = []
        template = templates.load()
        self.gate = Gate(runpod=self.runpod, board=self.board, clock=self.clock)
        preparer = Preparer(
            media=self.media,
            template=template,
            policy=GUIDE,
            board=self.board,
            retry_seconds=0.0,
            draw_seed=lambda: 7,
        )
        submitter = Submitter(
            store=self.store,
            runpod=self.runpod,
            preparer=preparer,
            gate=self.gate,
            template=template,
            max_submissions=3,
            lease_seconds=60.0,
            webhook_url=lambda job, attempt: f"https://w/{job}/{attempt}",
            on_submitted=lambda *run: self.held.append(run),
            clock=self.clock,
        )
        self.dispatcher = Dispatcher(
            store=self.store,
            gate=self.gate,
            submitter=submitter,
            limits=LIMITS,
            clock=self.clock,
        )

    def clock(self) -> float:
        """Seconds since boot."""
        return self.now

    async def tick(self) -> float | None:
        """One tick, and all that it started."""
        async with asyncio.TaskGroup() as tasks:
            return await self.dispatcher.tick(tasks)

    async def during(
        self, reached: asyncio.Event, act: Callable[[], Awaitable[Any]], *gates: asyncio.Event
    ) -> None:
        """A tick, in the middle of which something happens."""
        async with asyncio.TaskGroup() as tasks:
            await self.dispatcher.tick(tasks)
            await reached.wait()
            await act()
            for gate in gates:
                gate.set()


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setattr(outcome, "AWAY_SECONDS", 0.0)
    return Office()


async def test_a_row_is_claimed_submitted_and_recorded(office: Office) -> None:
    office.store.insert()
    await office.tick()
    assert office.store.job().status is JobStatus.SUBMITTED
    assert office.store.job().runpod_job_id == "run-1"
    assert office.store.job().submissions == 1
    assert office.held == [(job_id(), 1, "endpoint", "run-1")]
    assert office.runpod.posts[0]["webhook"] == f"https://w/{job_id()}/1"
    assert office.media.discarded == []
    assert office.dispatcher.working == {}


async def test_as_many_rows_are_taken_as_fit_in_hand(office: Office) -> None:
    for number in range(1, 15):
        office.store.insert(number)
    await office.tick()
    assert len(office.runpod.posts) == 12


async def test_a_refusal_fails_the_job_and_costs_no_submission(office: Office) -> None:
    office.store.insert()
    office.runpod.answers.append(RunRefused(400, "no such input"))
    await office.tick()
    assert office.store.job().status is JobStatus.FAILED
    assert office.store.job().ending_code == "run_refused"
    assert office.store.job().submissions == 0
    assert office.store.sub().state is SubmissionState.REFUSED
    assert office.media.discarded == [f"{job_id()}/1/a"]
    assert office.gate.breaker.closed


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RunPodUnavailable(None, "no DNS"), "degraded"),
        (RunPodRateLimited(9.0), "degraded"),
        (OperatorFault(401, "wrong key"), "down"),
    ],
)
async def test_a_proved_refusal_by_the_provider_gives_the_row_back_and_pauses(
    office: Office, error: Exception, status: str
) -> None:
    office.store.insert()
    office.runpod.answers.append(error)
    await office.tick()
    assert office.store.job().status is JobStatus.QUEUED
    assert office.store.job().submissions == 0
    assert not office.gate.breaker.closed
    assert office.board.status == status


async def test_an_unknown_outcome_is_parked_and_never_sent_again(office: Office) -> None:
    office.store.insert()
    office.runpod.answers.append(SubmissionUnknown("read timeout"))
    await office.tick()
    office.now += 100
    await office.tick()
    assert office.store.job().status is JobStatus.PREPARING
    assert office.store.job().phase == "confirming_submission"
    assert office.store.job().submissions == 1
    assert office.store.sub().state is SubmissionState.UNKNOWN
    assert len(office.runpod.posts) == 1
    assert office.media.discarded == []


async def test_after_trouble_only_health_is_asked_then_one_post_goes_through(
    office: Office,
) -> None:
    for number in (1, 2, 3):
        office.store.insert(number)
    office.gate.breaker.trip(office.now, "502")
    pause = await office.tick()
    assert pause is not None
    assert office.runpod.probes == 0
    assert "claim" not in office.store.calls
    office.now += pause
    office.runpod.health_says = RunPodUnavailable(502)
    again = await office.tick()
    assert again is not None
    assert again > pause / 2
    assert office.runpod.posts == []
    office.now += again
    office.runpod.health_says = FakeRunPod().health_says
    await office.tick()
    assert len(office.runpod.posts) == 1
    await office.tick()
    assert len(office.runpod.posts) == 3
    assert office.board.status == "ok"


async def test_an_operators_fault_found_by_the_probe_keeps_everything_waiting(
    office: Office,
) -> None:
    office.store.insert()
    office.gate.breaker.trip(office.now, "502")
    office.now += 100
    office.runpod.health_says = OperatorFault(404, "no such endpoint")
    await office.tick()
    assert office.board.reasons == ["runpod: no such endpoint"]
    assert office.store.job().status is JobStatus.QUEUED


async def test_rows_claimed_before_the_trouble_are_given_back_unsent(office: Office) -> None:
    for number in (1, 2):
        office.store.insert(number)
    office.runpod.gate = asyncio.Event()
    office.media.gate = asyncio.Event()

    async def trouble() -> None:
        office.gate.breaker.trip(office.now, "502")

    await office.during(office.media.opening, trouble, office.media.gate, office.runpod.gate)
    assert office.runpod.posts == []
    assert {one.status for one in office.store.jobs.values()} == {JobStatus.QUEUED}
    assert office.store.subs == {}
    assert len(office.media.discarded) == 2


async def test_an_input_that_comes_at_the_third_look_is_used(office: Office) -> None:
    office.store.insert()
    office.media.problems.extend([InputUnavailable("audio_unreachable", "timeout")] * 2)
    await office.tick()
    assert office.store.job().status is JobStatus.SUBMITTED


async def test_an_input_that_stays_away_fails_the_job(office: Office) -> None:
    office.store.insert()
    office.media.problems.extend([InputUnavailable("audio_unreachable", "timeout")] * 3)
    await office.tick()
    assert office.media.opened == 3
    assert office.store.job().status is JobStatus.FAILED
    assert office.store.job().ending_code == "audio_unreachable"
    assert office.store.subs == {}


async def test_an_input_in_our_own_storage_is_waited_for(office: Office) -> None:
    """Storage being away is no fault of the user's file: the row waits, and /readyz says why."""
    office.store.insert(audio_url="storage://inputs/u/a.mp3")
    office.media.problems.append(InputUnavailable("audio_unreachable", "Storage answered 503."))
    await office.tick()
    assert office.store.job().status is JobStatus.QUEUED
    assert office.store.job().phase_detail == "Waiting: Storage answered 503."
    assert office.board.reasons == ["storage: Storage answered 503."]
    office.store.now += 60
    await office.tick()
    assert office.store.job().status is JobStatus.SUBMITTED
    assert office.board.status == "ok"


async def test_our_own_storage_is_not_waited_for_for_ever(office: Office) -> None:
    office.store.insert(
        image_url="storage://inputs/u/i.jpg",
        created_at="2026-01-01T00:00:00+00:00",
        updated_at="2026-01-01T01:00:01+00:00",
    )
    office.media.problems.extend([InputUnavailable("image_unreachable", "503")] * 3)
    await office.tick()
    assert office.store.job().status is JobStatus.FAILED


async def test_a_host_that_uses_up_all_its_time_gets_no_second_try(office: Office) -> None:
    """Three tries of two minutes each would hold the places of three other jobs' files."""
    office.store.insert()
    office.media.problems.append(InputUnavailable("audio_unreachable", "too slow", slow=True))
    await office.tick()
    assert office.media.opened == 1
    assert office.store.job().status is JobStatus.FAILED


async def test_a_bad_input_fails_the_job_at_once(office: Office) -> None:
    office.store.insert()
    office.media.problems.append(JobFailed("image_unreadable", "not an image"))
    await office.tick()
    assert office.media.opened == 1
    assert office.store.job().ending_code == "image_unreadable"


async def test_a_row_that_was_sent_often_enough_is_not_sent_again(office: Office) -> None:
    office.store.insert(submissions=3)
    await office.tick()
    assert office.store.job().ending_code == "too_many_submissions"
    assert office.runpod.posts == []


async def test_an_error_of_our_own_fails_that_job_alone(office: Office) -> None:
    for number in (1, 2):
        office.store.insert(number)
    office.media.problems.append(ZeroDivisionError("odd"))
    await office.tick()
    assert office.store.job(1).ending_code == "internal_error"
    assert office.store.job(2).status is JobStatus.SUBMITTED


async def test_an_error_of_our_own_during_the_post_leaves_it_unknown(office: Office) -> None:
    """The row must not end, or be sent again, while a run may exist."""
    office.store.insert()
    office.runpod.answers.append(ZeroDivisionError("odd"))
    await office.tick()
    assert office.store.job().status is JobStatus.PREPARING
    assert office.store.sub().state is SubmissionState.UNKNOWN
    assert office.media.discarded == []


async def test_a_cancel_while_preparing_stops_the_work_and_ends_the_row(office: Office) -> None:
    office.store.insert()
    office.media.gate = asyncio.Event()

    async def cancel() -> None:
        office.store.cancel()
        await office.dispatcher.renew()

    await office.during(office.media.opening, cancel)
    assert office.store.job().status is JobStatus.CANCELLED
    assert office.runpod.posts == []


async def test_a_lost_lease_stops_the_work_and_writes_nothing(office: Office) -> None:
    office.store.insert()
    office.media.gate = asyncio.Event()

    async def lose() -> None:
        office.store.leases[job_id()] = ("another", 1e9)
        await office.dispatcher.renew()

    await office.during(office.media.opening, lose)
    assert office.store.job().status is JobStatus.PREPARING
    assert office.runpod.posts == []


async def test_a_lease_that_is_lost_before_the_submission_prevents_the_post(
    office: Office,
) -> None:
    office.store.insert()

    def meddle(function: str) -> None:
        if function == "begin":
            office.store.now += 61

    office.store.meddle = meddle
    await office.tick()
    assert office.runpod.posts == []
    assert office.store.subs == {}
    assert office.media.discarded == [f"{job_id()}/1/a"]


async def test_a_clock_that_jumped_before_the_post_prevents_it(office: Office) -> None:
    """The machine slept between the fence and the POST."""
    office.store.insert()

    def meddle(function: str) -> None:
        if function == "begin":
            office.now += 31

    office.store.meddle = meddle
    await office.tick()
    assert office.runpod.posts == []
    assert office.store.job().status is JobStatus.QUEUED
    assert office.store.job().submissions == 0
    assert office.store.sub().state is SubmissionState.REFUSED


async def test_a_job_let_go_before_its_work_began_is_given_back(office: Office) -> None:
    office.store.insert()
    async with asyncio.TaskGroup() as tasks:
        await office.dispatcher.tick(tasks)
        await office.dispatcher.stop(5)
    assert office.store.job().status is JobStatus.QUEUED
    assert office.dispatcher.working == {}
    assert office.media.opened == 0


async def test_rows_that_a_claim_brings_after_the_stop_are_given_back(office: Office) -> None:
    office.store.insert()
    stopped = asyncio.Event()

    def meddle(function: str) -> None:
        if function == "claim":
            office.dispatcher._stopping = True
            stopped.set()

    office.store.meddle = meddle
    await office.tick()
    assert stopped.is_set()
    assert office.store.job().status is JobStatus.QUEUED
    assert await office.tick() is None


async def test_stop_gives_back_what_is_prepared_and_waits_for_what_is_sent(
    office: Office,
) -> None:
    office.store.insert(1)
    office.runpod.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        await office.dispatcher.tick(tasks)
        await office.runpod.posting.wait()
        office.store.insert(2)
        office.media.opening.clear()
        office.media.gate = asyncio.Event()
        await office.dispatcher.tick(tasks)
        await office.media.opening.wait()
        stop = tasks.create_task(office.dispatcher.stop(5))
        await asyncio.sleep(0)
        office.runpod.gate.set()
        await stop
    assert office.store.job(1).status is JobStatus.SUBMITTED
    assert office.store.job(2).status is JobStatus.QUEUED


async def test_a_post_that_is_cut_off_at_the_end_stays_unknown(office: Office) -> None:
    """Given back, the row would be claimed while its run may be live."""
    office.store.insert()
    office.runpod.gate = asyncio.Event()

    async def cut() -> None:
        task = office.dispatcher.working[job_id()].task
        assert task is not None
        task.cancel()

    await office.during(office.runpod.posting, cut)
    assert office.store.sub().state is SubmissionState.UNKNOWN
    assert office.store.job().status is JobStatus.PREPARING
    assert office.media.discarded == []


async def test_a_run_is_held_at_once_and_recorded_when_the_table_is_back(office: Office) -> None:
    office.store.insert()
    times = 0

    def meddle(function: str) -> None:
        nonlocal times
        if function == "record" and (times := times + 1) < 4:
            assert office.held
            raise StoreUnavailable("away")

    office.store.meddle = meddle
    await office.tick()
    assert times == 4
    assert office.store.job().status is JobStatus.SUBMITTED


async def test_a_run_that_nobody_wants_any_more_is_cancelled_at_once(office: Office) -> None:
    office.store.insert()
    office.runpod.gate = asyncio.Event()

    async def cancel() -> None:
        office.store.cancel()
        await office.dispatcher.renew()

    await office.during(office.runpod.posting, cancel, office.runpod.gate)
    assert office.runpod.cancelled == ["run-1"]
    assert office.store.sub().state is SubmissionState.QUEUED
    assert office.store.job().status is JobStatus.SUBMITTED


async def test_a_deleted_rows_run_is_cancelled_at_once(office: Office) -> None:
    office.store.insert()
    office.runpod.gate = asyncio.Event()

    async def delete() -> None:
        del office.store.jobs[job_id()]

    await office.during(office.runpod.posting, delete, office.runpod.gate)
    assert office.runpod.cancelled == ["run-1"]


async def test_with_the_table_away_before_the_submission_nothing_is_sent(office: Office) -> None:
    office.store.insert()

    def meddle(function: str) -> None:
        if function in ("begin", "end_claim"):
            raise StoreUnavailable("away")

    office.store.meddle = meddle
    await office.tick()
    assert office.runpod.posts == []
    assert office.store.job().status is JobStatus.PREPARING
    assert office.media.discarded == [f"{job_id()}/1/a"]
    office.store.now += 61
    await office.store.recover()
    assert office.store.job().status is JobStatus.QUEUED


async def test_an_outcome_that_cannot_be_written_becomes_unknown_with_the_lease(
    office: Office,
) -> None:
    office.store.insert()
    office.runpod.answers.append(RunRefused(400, "no"))

    def meddle(function: str) -> None:
        if function == "end_claim":
            raise StoreUnavailable("away")

    office.store.meddle = meddle
    await office.tick()
    assert office.store.calls.count("end_claim") == outcome.SETTLE_TRIES
    office.store.now += 61
    await office.store.recover()
    assert office.store.sub().state is SubmissionState.UNKNOWN


async def test_storage_that_is_away_changes_nothing_for_the_row(office: Office) -> None:
    office.store.insert()
    office.media.storage_away = True
    office.runpod.answers.append(RunRefused(400, "no"))
    await office.tick()
    assert office.store.job().ending_code == "run_refused"
