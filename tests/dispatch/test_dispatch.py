"""From a queued row to a recorded run, one tick of the dispatcher at a time."""

import asyncio
import errno

import pytest

from tests.fakes import FakeRunPod, job_id
from tests.harness import Harness
from worker.dispatch import submitter
from worker.jobs.errors import (
    BucketUnusable,
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


@pytest.fixture
def harness() -> Harness:
    return Harness()


async def test_a_row_is_claimed_submitted_and_recorded(harness: Harness) -> None:
    harness.store.insert()
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.SUBMITTED
    assert harness.store.job().runpod_job_id == "run-1"
    assert harness.store.submission_count() == 1
    assert [run.run_id for run in harness.tracker.on_endpoint("endpoint")] == ["run-1"]
    assert harness.runpod.posts[0]["webhook"] == f"https://w/{job_id()}/1"
    assert harness.media.discarded == []
    assert harness.dispatcher.claims == {}


async def test_as_many_rows_are_taken_as_fit_in_hand(harness: Harness) -> None:
    for number in range(1, 15):
        harness.store.insert(number)
    await harness.dispatch()
    assert len(harness.runpod.posts) == 12


async def test_a_refusal_fails_the_job_and_costs_no_submission(harness: Harness) -> None:
    harness.store.insert()
    harness.runpod.answers.append(RunRefused(400, "no such input"))
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.FAILED
    assert harness.store.job().error_code == "run_refused"
    assert harness.store.submission_count() == 0
    assert harness.store.sub().state is SubmissionState.REFUSED
    assert harness.media.discarded == [f"{job_id()}/1/a"]
    assert harness.gate.room is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RunPodUnavailable(None, "no DNS"), "degraded"),
        (RunPodRateLimited(9.0), "degraded"),
        (OperatorFault(401, "wrong key"), "down"),
    ],
)
async def test_a_proved_refusal_by_the_provider_gives_the_row_back_and_pauses(
    harness: Harness, error: Exception, status: str
) -> None:
    harness.store.insert()
    harness.runpod.answers.append(error)
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.store.submission_count() == 0
    assert harness.store.job().phase_detail == "Waiting: the GPU provider takes no jobs just now."
    assert harness.gate.room == 0
    assert harness.readiness.status == status


@pytest.mark.parametrize(("asked", "wait"), [(45.0, 45.0), (None, 10.0)])
async def test_a_row_waits_as_long_as_runpod_says(
    harness: Harness, asked: float | None, wait: float
) -> None:
    harness.store.insert()
    harness.runpod.answers.append(RunPodRateLimited(asked))
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.store.wait_of() == wait


async def test_a_row_that_waits_for_us_says_so_and_is_tried_less_and_less_often(
    harness: Harness,
) -> None:
    """Storage that refuses what we prepare, for example: its files are fetched again each time."""
    harness.store.insert()
    waits = []
    for _ in range(3):
        harness.media.problems.append(StoreUnavailable("Storage did not store the object: 413."))
        await harness.dispatch()
        assert harness.store.job().status is JobStatus.QUEUED
        assert str(harness.store.job().phase_detail).startswith("Waiting: ")
        assert harness.readiness.reasons == ["data: Storage did not store the object: 413."]
        waits.append(harness.store.wait_of())
        harness.store.now += waits[-1]
    assert waits == [10.0, 20.0, 40.0]
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.SUBMITTED
    assert harness.readiness.status == "ok"


async def test_attempts_that_only_found_no_room_do_not_make_a_failure_wait_longer(
    harness: Harness,
) -> None:
    """A storm brought it to light: one hiccup of Supabase, and the row waited for minutes."""
    harness.store.insert(1)
    harness.store.set(1, attempt=9)
    harness.media.problems.append(StoreUnavailable("Supabase does not answer."))
    await harness.dispatch()
    assert harness.store.wait_of(1) == 10.0
    harness.store.now += 10.0
    await harness.dispatch()
    assert harness.store.job(1).status is JobStatus.SUBMITTED


async def test_work_that_breaks_off_before_the_post_is_no_unknown_submission(
    harness: Harness,
) -> None:
    """It was committed, but nothing was sent: the row does not wait for a whole time to live."""
    harness.store.insert()
    begin = harness.store.begin

    async def odd(*arguments: object) -> None:
        await begin(*arguments)  # type: ignore[arg-type]
        raise ZeroDivisionError("odd")

    harness.store.begin = odd  # type: ignore[assignment, method-assign]
    await harness.dispatch()
    assert harness.store.sub().state is SubmissionState.REFUSED
    assert harness.store.job().status is JobStatus.QUEUED


async def test_an_unknown_outcome_is_parked_and_never_sent_again(harness: Harness) -> None:
    harness.store.insert()
    harness.runpod.answers.append(SubmissionUnknown("read timeout"))
    await harness.dispatch()
    harness.now += 100
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.PREPARING
    assert harness.store.job().phase == "confirming_submission"
    assert harness.store.submission_count() == 1
    assert harness.store.sub().state is SubmissionState.UNKNOWN
    assert len(harness.runpod.posts) == 1
    assert harness.media.discarded == []


async def test_after_trouble_only_health_is_asked_then_one_post_goes_through(
    harness: Harness,
) -> None:
    for number in (1, 2, 3):
        harness.store.insert(number)
    harness.gate.trip("502")
    pause = await harness.dispatch()
    assert pause is not None
    assert harness.runpod.probes == 0
    assert "claim" not in harness.store.calls
    harness.now += pause
    harness.runpod.health_says = RunPodUnavailable(502)
    again = await harness.dispatch()
    assert again is not None
    assert again > pause / 2
    assert harness.runpod.posts == []
    harness.now += again
    harness.runpod.health_says = FakeRunPod().health_says
    await harness.dispatch()
    assert len(harness.runpod.posts) == 1
    await harness.dispatch()
    assert len(harness.runpod.posts) == 3
    assert harness.readiness.status == "ok"


async def test_while_one_post_tries_no_second_row_is_taken(harness: Harness) -> None:
    """It would be fetched and decoded only to be given back."""
    for number in (1, 2):
        harness.store.insert(number)
    harness.gate.trip("502")
    harness.now += 100
    harness.media.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        await harness.dispatcher.tick(tasks)
        await harness.media.opening.wait()
        await harness.dispatcher.tick(tasks)
        assert list(harness.dispatcher.claims) == [job_id(1)]
        harness.media.gate.set()
    assert harness.store.job(1).status is JobStatus.SUBMITTED
    assert harness.store.job(2).attempt == 0


async def test_an_operators_fault_found_by_the_probe_keeps_everything_waiting(
    harness: Harness,
) -> None:
    harness.store.insert()
    harness.gate.trip("502")
    harness.now += 100
    harness.runpod.health_says = OperatorFault(404, "no such endpoint")
    await harness.dispatch()
    assert harness.readiness.reasons == ["runpod: no such endpoint"]
    assert harness.readiness.status == "down"
    assert harness.store.job().status is JobStatus.QUEUED


async def test_an_operators_fault_is_over_only_when_a_job_was_taken(harness: Harness) -> None:
    """/health answers an account without credit too."""
    harness.gate.trip("no credit.", operator=True)
    harness.now += 100
    await harness.dispatch()
    assert harness.readiness.status == "degraded"
    assert harness.readiness.reasons == [
        "runpod: no credit. /health answers; the next job will tell."
    ]
    harness.store.insert()
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.SUBMITTED
    assert harness.readiness.status == "ok"


async def test_a_request_that_is_refused_shows_that_runpod_is_back(harness: Harness) -> None:
    harness.gate.trip("502")
    harness.now += 100
    harness.store.insert()
    harness.runpod.answers.append(RunRefused(400, "no such input"))
    await harness.dispatch()
    assert harness.store.job().error_code == "run_refused"
    assert harness.gate.room is None
    assert harness.readiness.status == "ok"


@pytest.mark.parametrize("trouble", ["lease lost", "machine slept", "table away", "own error"])
async def test_a_trial_that_was_not_made_lets_another_post_try(
    harness: Harness, trouble: str
) -> None:
    """Else no POST would ever be made again: while one is awaited, /health is not asked."""
    harness.gate.trip("502")
    harness.now += 100
    harness.store.insert()

    def meddle(function: str) -> None:
        if function != "begin":
            return
        if trouble == "lease lost":
            harness.store.now += 61
        elif trouble == "machine slept":
            harness.now += 31
        elif trouble == "table away":
            raise StoreUnavailable("away")
        else:
            raise ZeroDivisionError("odd")

    harness.store.meddle = meddle
    await harness.dispatch()
    assert harness.runpod.posts == []
    assert harness.gate.room == 1


async def test_rows_claimed_before_the_trouble_are_given_back_unsent(harness: Harness) -> None:
    for number in (1, 2):
        harness.store.insert(number)
    harness.runpod.gate = asyncio.Event()
    harness.media.gate = asyncio.Event()

    async def trouble() -> None:
        harness.gate.trip("502")

    await harness.during(harness.media.opening, trouble, harness.media.gate, harness.runpod.gate)
    assert harness.runpod.posts == []
    assert {job.status for job in harness.store.jobs} == {JobStatus.QUEUED}
    assert harness.store.attempts == {}
    assert len(harness.media.discarded) == 2


async def test_waiting_for_a_second_try_gives_the_place_back(harness: Harness) -> None:
    harness.store.insert()
    away = InputUnavailable("audio_unreachable", "https://h/a answered 503.", retry_in=45.0)
    harness.media.problems.append(away)
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.dispatcher.claims == {}
    assert harness.slept == []
    assert harness.store.wait_of() == 45.0
    assert harness.store.job().phase_detail == (
        "Waiting: https://h/a answered 503. Try 2 of 3 follows in 45 s."
    )
    assert harness.readiness.status == "ok"


async def away(harness: Harness, *, times: int, seconds: float = 1.0) -> None:
    """The audio's host fails so many tries, each time in a new process."""
    for _ in range(times):
        error = InputUnavailable("audio_unreachable", "timeout", seconds=seconds)
        harness.media.problems.append(error)
        harness.restart()
        await harness.dispatch()
        harness.store.now += 300


async def test_an_input_that_comes_at_the_third_try_is_used(harness: Harness) -> None:
    harness.store.insert()
    await away(harness, times=2)
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.SUBMITTED
    assert (harness.store.job().input_tries, harness.store.job().input_seconds) == (0, 0)


async def test_an_input_that_stays_away_fails_the_job_whatever_restarts(harness: Harness) -> None:
    harness.store.insert()
    await away(harness, times=3)
    assert harness.media.opened == 3
    assert harness.store.job().status is JobStatus.FAILED
    assert harness.store.job().error_code == "audio_unreachable"
    assert harness.store.attempts == {}


async def test_all_tries_of_a_job_share_its_120_seconds(harness: Harness) -> None:
    harness.store.insert()
    await away(harness, times=1, seconds=70.5)
    await away(harness, times=1, seconds=45.0)
    assert harness.media.allowed == [120, 49]
    assert harness.store.job().status is JobStatus.FAILED


async def test_an_input_in_our_own_storage_is_waited_for(harness: Harness) -> None:
    """Storage being away is no fault of the user's file: the row waits, and /readyz says why."""
    harness.store.insert(audio_url="storage://inputs/u/a.mp3")
    harness.media.problems.append(InputUnavailable("audio_unreachable", "Storage answered 503."))
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.store.job().phase_detail == "Waiting: Storage answered 503."
    assert harness.readiness.reasons == ["storage: Storage answered 503."]
    harness.store.now += 60
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.SUBMITTED
    assert harness.readiness.status == "ok"


@pytest.mark.parametrize(
    ("code", "status"),
    [("image_unreachable", JobStatus.QUEUED), ("audio_unreachable", JobStatus.FAILED)],
)
async def test_only_the_file_that_lies_in_our_own_storage_is_waited_for(
    harness: Harness, code: str, status: JobStatus
) -> None:
    harness.store.insert(image_url="storage://inputs/u/i.jpg", audio_url="https://h/a")
    for _ in range(3):
        harness.media.problems.append(InputUnavailable(code, "503"))
        await harness.dispatch()
        harness.store.now += 300
    assert harness.store.job().status is status


async def test_our_own_storage_is_waited_for_an_hour_from_its_first_failure(
    harness: Harness,
) -> None:
    """A row that has waited in line for long is not to blame when Storage fails it at last."""
    harness.store.insert(
        image_url="storage://inputs/u/i.jpg",
        created_at="2026-01-01T00:00:00+00:00",
        updated_at="2026-01-01T05:00:00+00:00",
    )
    for seconds in (0, 1800, 1799):
        harness.now += seconds
        harness.store.now += 60
        harness.media.problems.append(InputUnavailable("image_unreachable", "503"))
        await harness.dispatch()
        assert harness.store.job().status is JobStatus.QUEUED
    harness.now += 1
    for _ in range(3):
        harness.store.now += 60
        harness.media.problems.append(InputUnavailable("image_unreachable", "503"))
        await harness.dispatch()
    assert harness.store.job().status is JobStatus.FAILED


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open"),
        (MemoryError(), "the memory is used up"),
        (RuntimeError("can't start new thread"), "no more threads or processes can be started"),
    ],
)
async def test_trouble_of_our_own_machine_makes_jobs_wait(
    harness: Harness, error: Exception, reason: str
) -> None:
    """No row ends for it; /readyz says what is wrong, until something works again."""
    for number in (1, 2):
        harness.store.insert(number)
    harness.media.problems.extend([error, error])
    await harness.dispatch()
    for number in (1, 2):
        assert harness.store.job(number).status is JobStatus.QUEUED
        assert str(harness.store.job(number).phase_detail).startswith("Waiting: ")
        assert harness.store.wait_of(number) > 0
    assert harness.readiness.status == "down"
    assert harness.readiness.reasons == [f"machine: {reason}; jobs wait"]
    harness.store.now += 60
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.SUBMITTED
    assert harness.readiness.status == "ok"


async def test_an_unusable_bucket_makes_jobs_wait_for_its_operator(harness: Harness) -> None:
    """Whoever watches /readyz reads which bucket; the row's owner reads that nothing is lost."""
    harness.store.insert()
    reason = "Supabase Storage did not store an object in bucket video-prepared: 404."
    harness.media.problems.append(BucketUnusable(reason))
    await harness.dispatch()
    job = harness.store.job()
    assert job.status is JobStatus.QUEUED
    assert "storage must be repaired by its operator" in str(job.phase_detail)
    assert (harness.readiness.status, harness.readiness.reasons) == ("down", [f"bucket: {reason}"])
    harness.store.now += 1000
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.SUBMITTED
    assert harness.readiness.status == "ok"


async def test_an_unreadable_file_is_no_trouble_of_the_machine(harness: Harness) -> None:
    """Pillow and others raise OSError for a broken file, too, but without such a number."""
    harness.store.insert()
    harness.media.problems.append(OSError("image file is truncated"))
    await harness.dispatch()
    assert harness.store.job().error_code == "internal_error"


async def test_only_a_file_out_of_our_storage_shows_that_it_is_back(harness: Harness) -> None:
    harness.readiness.report("storage", "Storage answered 503.")
    harness.store.insert(1)
    await harness.dispatch()
    assert harness.readiness.reasons == ["storage: Storage answered 503."]
    harness.store.insert(2, image_url="storage://inputs/u/i.jpg")
    await harness.dispatch()
    assert harness.readiness.reasons == []


async def test_only_the_answer_to_a_post_is_waited_for_on_the_way_down(harness: Harness) -> None:
    """A run that is known and only waits to be recorded does not hold up the end for long."""
    harness.store.insert()
    harness.runpod.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        await harness.dispatcher.tick(tasks)
        await harness.runpod.posting.wait()
        assert harness.dispatcher.posting

        def meddle(function: str) -> None:
            if function == "write":
                raise StoreUnavailable("away")

        harness.store.meddle = meddle
        harness.runpod.gate.set()
        async with asyncio.timeout(5):
            while not harness.slept:
                await asyncio.sleep(0)
        assert not harness.dispatcher.posting
        harness.store.meddle = lambda function: None
    assert harness.store.job().runpod_job_id == "run-1"


async def test_a_host_that_uses_up_all_its_time_gets_no_second_try(harness: Harness) -> None:
    harness.store.insert()
    await away(harness, times=1, seconds=119.0)
    assert harness.media.opened == 1
    assert harness.store.job().status is JobStatus.FAILED


async def test_a_bad_input_fails_the_job_at_once(harness: Harness) -> None:
    harness.store.insert()
    harness.media.problems.append(JobFailed("image_unreadable", "not an image"))
    await harness.dispatch()
    assert harness.media.opened == 1
    assert harness.store.job().error_code == "image_unreadable"


async def test_a_row_that_was_sent_often_enough_is_not_sent_again(harness: Harness) -> None:
    harness.store.insert()
    for attempt in (1, 2, 3):
        await harness.submitted(run_id=f"run-{attempt}")
        harness.store.set(status="queued")
        harness.store.set_sub(attempt, state="failed")
    await harness.dispatch()
    assert harness.store.job().error_code == "too_many_submissions"
    assert harness.runpod.posts == []


async def test_an_error_of_our_own_fails_that_job_alone(harness: Harness) -> None:
    for number in (1, 2):
        harness.store.insert(number)
    harness.media.problems.append(ZeroDivisionError("odd"))
    await harness.dispatch()
    assert harness.store.job(1).error_code == "internal_error"
    assert harness.store.job(2).status is JobStatus.SUBMITTED


async def test_an_error_of_our_own_during_the_post_leaves_it_unknown(harness: Harness) -> None:
    """The row must not end, or be sent again, while a run may exist."""
    harness.store.insert()
    harness.runpod.answers.append(ZeroDivisionError("odd"))
    await harness.dispatch()
    assert harness.store.job().status is JobStatus.PREPARING
    assert harness.store.sub().state is SubmissionState.UNKNOWN
    assert harness.media.discarded == []


async def test_a_cancel_while_preparing_stops_the_work_and_ends_the_row(harness: Harness) -> None:
    harness.store.insert()
    harness.media.gate = asyncio.Event()

    async def cancel() -> None:
        harness.store.cancel()
        await harness.dispatcher.renew()

    await harness.during(harness.media.opening, cancel)
    assert harness.store.job().status is JobStatus.CANCELLED
    assert harness.runpod.posts == []


async def test_a_lost_lease_stops_the_work_and_writes_nothing(harness: Harness) -> None:
    harness.store.insert()
    harness.media.gate = asyncio.Event()

    async def lose() -> None:
        harness.store.set(lease_owner="another", lease_expires_at=1e9, attempt=2)
        await harness.dispatcher.renew()

    await harness.during(harness.media.opening, lose)
    assert harness.store.job().status is JobStatus.PREPARING
    assert harness.runpod.posts == []


async def test_a_lease_that_is_lost_before_the_submission_prevents_the_post(
    harness: Harness,
) -> None:
    harness.store.insert()

    def meddle(function: str) -> None:
        if function == "begin":
            harness.store.now += 61

    harness.store.meddle = meddle
    await harness.dispatch()
    assert harness.runpod.posts == []
    assert harness.store.attempts == {}
    assert harness.media.discarded == [f"{job_id()}/1/a"]


async def test_a_clock_that_jumped_before_the_post_prevents_it(harness: Harness) -> None:
    """The machine slept between the fence and the POST."""
    harness.store.insert()

    def meddle(function: str) -> None:
        if function == "begin":
            harness.now += 31

    harness.store.meddle = meddle
    await harness.dispatch()
    assert harness.runpod.posts == []
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.store.submission_count() == 0
    assert harness.store.sub().state is SubmissionState.REFUSED


async def test_a_job_let_go_before_its_work_began_is_given_back(harness: Harness) -> None:
    harness.store.insert()
    async with asyncio.TaskGroup() as tasks:
        await harness.dispatcher.tick(tasks)
        await harness.dispatcher.stop(5)
    assert harness.store.job().status is JobStatus.QUEUED
    assert harness.dispatcher.claims == {}
    assert harness.media.opened == 0


async def test_rows_that_a_claim_brings_after_the_stop_are_given_back(harness: Harness) -> None:
    harness.store.insert()
    stopped = asyncio.Event()

    def meddle(function: str) -> None:
        if function == "claim":
            harness.dispatcher._stopping = True
            stopped.set()

    harness.store.meddle = meddle
    await harness.dispatch()
    assert stopped.is_set()
    assert harness.store.job().status is JobStatus.QUEUED
    assert await harness.dispatch() is None
    assert harness.store.calls.count("claim") == 1


async def test_stop_gives_back_what_is_prepared_and_waits_for_what_is_sent(
    harness: Harness,
) -> None:
    harness.store.insert(1)
    harness.runpod.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        await harness.dispatcher.tick(tasks)
        await harness.runpod.posting.wait()
        harness.store.insert(2)
        harness.media.opening.clear()
        harness.media.gate = asyncio.Event()
        await harness.dispatcher.tick(tasks)
        await harness.media.opening.wait()
        stop = tasks.create_task(harness.dispatcher.stop(5))
        await asyncio.sleep(0)
        harness.runpod.gate.set()
        await stop
    assert harness.store.job(1).status is JobStatus.SUBMITTED
    assert harness.store.job(2).status is JobStatus.QUEUED


async def test_a_post_that_is_cut_off_at_the_end_stays_unknown(harness: Harness) -> None:
    """Given back, the row would be claimed while its run may be live."""
    harness.store.insert()
    harness.runpod.gate = asyncio.Event()

    async def cut() -> None:
        task = harness.dispatcher.claims[job_id()].task
        assert task is not None
        task.cancel()

    await harness.during(harness.runpod.posting, cut)
    assert harness.store.sub().state is SubmissionState.UNKNOWN
    assert harness.store.job().status is JobStatus.PREPARING
    assert harness.media.discarded == []


async def test_what_is_left_at_the_very_end_is_broken_off_a_post_too(harness: Harness) -> None:
    """The process would not end otherwise."""
    harness.store.insert()
    harness.runpod.gate = asyncio.Event()

    async def break_off() -> None:
        await harness.dispatcher.stop(0)
        await asyncio.wait(harness.dispatcher.break_off(), timeout=5)

    await harness.during(harness.runpod.posting, break_off, harness.runpod.gate)
    assert harness.dispatcher.claims == {}
    assert harness.store.sub().state is SubmissionState.UNKNOWN


async def test_a_run_is_held_at_once_and_recorded_when_the_table_is_back(harness: Harness) -> None:
    harness.store.insert()
    times = 0

    def meddle(function: str) -> None:
        nonlocal times
        if function == "write" and (times := times + 1) < 4:
            assert harness.tracker.on_endpoint("endpoint")
            raise StoreUnavailable("away")

    harness.store.meddle = meddle
    await harness.dispatch()
    assert times == 4
    assert harness.store.job().status is JobStatus.SUBMITTED


async def test_a_run_that_nobody_wants_any_more_is_cancelled_at_once(harness: Harness) -> None:
    harness.store.insert()
    harness.runpod.gate = asyncio.Event()

    async def cancel() -> None:
        harness.store.cancel()
        await harness.dispatcher.renew()

    await harness.during(harness.runpod.posting, cancel, harness.runpod.gate)
    assert harness.runpod.cancelled == ["run-1"]
    assert harness.store.sub().state is SubmissionState.QUEUED
    assert harness.store.job().status is JobStatus.SUBMITTED


async def test_a_deleted_rows_run_is_cancelled_at_once(harness: Harness) -> None:
    harness.store.insert()
    harness.runpod.gate = asyncio.Event()

    async def delete() -> None:
        harness.store.delete()

    await harness.during(harness.runpod.posting, delete, harness.runpod.gate)
    assert harness.runpod.cancelled == ["run-1"]


@pytest.mark.parametrize("trouble", ["record deleted", "another run adopted"])
async def test_a_run_that_cannot_be_recorded_is_cancelled(harness: Harness, trouble: str) -> None:
    """Nobody would follow it."""
    harness.store.insert()
    harness.runpod.gate = asyncio.Event()

    async def happen() -> None:
        if trouble == "record deleted":
            harness.store.attempts.clear()
        else:
            harness.store.set_sub(state="queued", runpod_job_id="run-9")

    await harness.during(harness.runpod.posting, happen, harness.runpod.gate)
    assert harness.runpod.cancelled == ["run-1"]


async def test_with_the_table_away_before_the_submission_nothing_is_sent(harness: Harness) -> None:
    harness.store.insert()

    def meddle(function: str) -> None:
        if function in ("begin", "write"):
            raise StoreUnavailable("away")

    harness.store.meddle = meddle
    await harness.dispatch()
    assert harness.runpod.posts == []
    assert harness.store.job().status is JobStatus.PREPARING
    assert harness.media.discarded == [f"{job_id()}/1/a"]
    harness.store.meddle = lambda function: None
    harness.store.now += 61
    await harness.reconciler.sweep()
    assert harness.store.job().status is JobStatus.QUEUED


async def test_an_outcome_that_cannot_be_written_becomes_unknown_with_the_lease(
    harness: Harness,
) -> None:
    harness.store.insert()
    harness.runpod.answers.append(RunRefused(400, "no"))

    def meddle(function: str) -> None:
        if function == "write":
            raise StoreUnavailable("away")

    harness.store.meddle = meddle
    await harness.dispatch()
    assert harness.store.calls.count("write") == submitter.SETTLE_TRIES
    harness.store.meddle = lambda function: None
    harness.store.now += 61
    await harness.reconciler.sweep()
    assert harness.store.sub().state is SubmissionState.UNKNOWN


async def test_storage_that_is_away_changes_nothing_for_the_row(harness: Harness) -> None:
    harness.store.insert()
    harness.media.storage_away = True
    harness.runpod.answers.append(RunRefused(400, "no"))
    await harness.dispatch()
    assert harness.store.job().error_code == "run_refused"
