"""Results: run ids, due polls, and writes that take only on what they were decided on."""

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.harness import POLICY
from tests.postgres import Database, Row
from tests.sql.test_claims import at_once
from tests.sql.worker import Worker, age, alter, change, ended, expire_lease, submitted
from worker.jobs.events import Event, NotFound, Observed
from worker.jobs.run import RunState, RunUpdate

REFUSED = psycopg.errors.RaiseException


def begun(database: Database, worker: Worker) -> Row:
    """A job whose POST is under way."""
    database.insert()
    job = worker.claim_one()
    worker.begin(job)
    return job


def observed(job: Row, state: RunState, **values: Any) -> Observed:
    """What /status says of the job's run."""
    update = RunUpdate(run_id=job["runpod_job_id"], state=state, **values)
    return Observed(attempt=job["attempt"], update=update)


# Recording a run's id ---------------------------------------------------------------------------


def test_a_recorded_run_is_wanted_and_its_row_submitted(database: Database, worker: Worker) -> None:
    job = begun(database, worker)
    assert worker.record(job, "run-1").effects.cancel == ()
    row = database.job(job["id"])
    assert (row["status"], row["phase"], row["runpod_job_id"]) == (
        "submitted", "waiting_gpu", "run-1",
    )  # fmt: skip
    assert (row["lease_owner"], row["lease_expires_at"]) == (None, None)
    (sub,) = database.submissions(job["id"])
    assert (sub["state"], sub["cancel_asked_at"]) == ("queued", None)
    again = worker.record(job, "run-1")
    assert (again.change.empty, again.effects.cancel) == (True, ()), "the same news twice"
    assert database.job(job["id"]) == row


def test_an_unknown_submission_is_adopted(database: Database, worker: Worker) -> None:
    job = begun(database, worker)
    worker.doubt(job)
    assert database.submissions(job["id"])[0]["raw_error"] == "read timeout"
    assert worker.record(job, "run-1").effects.cancel == ()
    assert database.job(job["id"])["status"] == "submitted"
    (sub,) = database.submissions(job["id"])
    assert (sub["state"], sub["runpod_job_id"], sub["raw_error"]) == ("queued", "run-1", None)


def test_a_submission_that_was_given_up_opens_again(database: Database, worker: Worker) -> None:
    """The row is in line again by now: its run is there after all, so it needs no other."""
    job = begun(database, worker)
    worker.doubt(job)
    worker.end_run(job["id"], 1, "expired", status="queued", phase="in_line")
    assert worker.record(job, "run-late").effects.cancel == ()
    assert database.job(job["id"])["status"] == "submitted"
    (sub,) = database.submissions(job["id"])
    assert (sub["state"], sub["ended_at"]) == ("queued", None)


@pytest.mark.parametrize("why", ["superseded", "cancelled", "deleted", "ended"])
def test_a_run_that_nobody_waits_for_is_not_wanted_but_stays_on_record(
    database: Database, worker: Worker, why: str
) -> None:
    job = begun(database, worker)
    match why:
        case "superseded":
            worker.doubt(job)
            worker.end_run(job["id"], 1, "expired", status="queued")
            second = worker.claim_one()
            worker.begin(second)
            worker.record(second, "run-2")
            worker.end_run(job["id"], 2, "running", status="running")
        case "cancelled":
            database.sql("update public.video_jobs set cancel_requested = true")
        case "deleted":
            database.sql("delete from public.video_jobs")
        case "ended":
            alter(database, job["id"], "status = 'failed', error_code = 'run_lost'")
    decision = worker.record(job, "run-1")
    assert [sub.runpod_job_id for sub in decision.effects.cancel] == ["run-1"]
    sub = database.submissions(job["id"])[0]
    assert (sub["state"], sub["runpod_job_id"]) == ("queued", "run-1")
    assert sub["cancel_asked_at"] is not None, "so that its end is no failure of the job"


def test_of_two_waiting_runs_the_older_one_is_kept(database: Database, worker: Worker) -> None:
    job = begun(database, worker)
    worker.doubt(job)
    worker.end_run(job["id"], 1, "expired", status="queued")
    second = worker.claim_one()
    worker.begin(second)
    worker.record(second, "run-2")
    decision = worker.record(job, "run-1")
    assert [sub.runpod_job_id for sub in decision.effects.cancel] == ["run-2"]
    row = database.job(job["id"])
    assert (row["status"], row["runpod_job_id"]) == ("submitted", "run-1")


def test_a_cancelled_jobs_run_shows_that_it_is_being_stopped(
    database: Database, worker: Worker
) -> None:
    job = begun(database, worker)
    database.sql("update public.video_jobs set cancel_requested = true")
    worker.record(job, "run-1")
    row = database.job(job["id"])
    assert (row["status"], row["phase"]) == ("submitted", "cancelling")


def test_a_submission_has_one_run_and_a_run_one_submission(
    database: Database, worker: Worker
) -> None:
    """Another id for the same submission says nothing; another submission's id is refused."""
    first = submitted(database, worker, run_id="run-1")
    assert worker.record(first, "run-2").change.empty
    second = begun(database, worker)
    with pytest.raises(psycopg.errors.UniqueViolation):
        worker.record(second, "run-1")
    assert database.job(second["id"])["status"] == "preparing"
    assert worker.record({"id": uuid4(), "attempt": 1}, "run-3").change.empty
    assert worker.record({**first, "attempt": 9}, "run-4").change.empty
    ids = [
        sub["runpod_job_id"] for job in (first, second) for sub in database.submissions(job["id"])
    ]
    assert ids == ["run-1", None]


# Polls that are due -----------------------------------------------------------------------------


def test_pollers_at_the_same_time_share_the_work(database: Database, worker: Worker) -> None:
    jobs = [submitted(database, worker)["id"] for _ in range(12)]
    for job_id in jobs:
        age(database, job_id, "next_poll_at", 1)

    def poll(poller: Worker) -> list[str]:
        return [case["job_id"] for _ in range(6) for case in poller.take_due(2)]

    found = [job_id for part in at_once(database, 3, poll) for job_id in part]
    assert sorted(found) == sorted(str(job_id) for job_id in jobs)
    assert worker.take_due() == [], "not due again before the next poll"


def test_a_recorded_run_is_not_due_in_the_same_moment(database: Database, worker: Worker) -> None:
    """RunPod may not know its own run yet; it is polled soon."""
    job = submitted(database, worker)
    assert worker.take_due() == []
    assert 0 < worker.known(job["id"]).submissions[0].next_poll_in <= POLICY.soon


def test_only_open_submissions_are_polled_oldest_first(database: Database, worker: Worker) -> None:
    first, second, over = (submitted(database, worker) for _ in range(3))
    begun(database, worker)
    worker.end_run(over["id"], 1, "failed", status="failed", error_code="run_failed")
    age(database, second["id"], "next_poll_at", 50)
    age(database, first["id"], "next_poll_at", 10)
    assert [worker.take_due(1)[0]["job_id"] for _ in range(2)] == [
        str(second["id"]), str(first["id"]),
    ]  # fmt: skip
    assert worker.take_due() == []


def test_at_start_up_every_open_submission_is_taken_page_by_page(
    database: Database, worker: Worker
) -> None:
    jobs = sorted(str(submitted(database, worker)["id"]) for _ in range(5))
    for job_id in jobs[::2]:
        age(database, job_id, "next_poll_at", -300)  # type: ignore[arg-type] # a UUID's text
    found: list[str] = []
    after: Any = None
    while page := worker.take_due(2, everything=True, after=after):
        found += [case["job_id"] for case in page]
        after = page[-1]["job_id"]
    assert found == jobs


def test_a_case_holds_the_present_try_and_older_open_submissions_with_ages(
    database: Database, worker: Worker
) -> None:
    job = ended(database, worker, "failed")
    age(database, job["id"], "started_at", 100)
    database.sql("select * from public.retry_video_job_v1(%s)", job["id"])
    assert worker.case(job["id"])["submissions"] == []
    database.sql("update public.video_job_attempts set state = 'running'")
    age(database, job["id"], "created_at", 500)
    (sub,) = worker.case(job["id"])["submissions"]
    assert (sub["attempt"], round(sub["age"]), round(sub["endpoint_started_ago"])) == (1, 500, 100)
    assert 7000 < sub["ttl_left"] < 7200
    assert worker.case(uuid4()) is None


# Writing decisions ------------------------------------------------------------------------------


def test_a_change_takes_once_and_brings_the_fresh_case(database: Database, worker: Worker) -> None:
    job = submitted(database, worker)
    decided = change(worker.case(job["id"]), job={"status": "running", "progress": 7})
    (first,), (second,) = worker.write(decided), worker.write(decided)
    assert (first["took"], second["took"]) == (True, False)
    for answer in (first, second):
        assert answer["case"]["job"]["progress"] == 7
        assert answer["case"]["job"]["revision"] == decided["revision"] + 1  # type: ignore[operator]


def test_a_change_decided_on_other_submissions_does_not_take(
    database: Database, worker: Worker
) -> None:
    """The row is unchanged, but its run has ended meanwhile."""
    job = submitted(database, worker)
    decided = change(worker.case(job["id"]), job={"progress": 9})
    database.sql("update public.video_job_attempts set state = 'running'")
    (answer,) = worker.write(decided)
    assert not answer["took"]
    assert answer["case"]["submissions"][0]["state"] == "running"
    assert database.job(job["id"])["progress"] == 0


def test_of_two_that_decide_at_the_same_time_one_writes(database: Database, worker: Worker) -> None:
    job = submitted(database, worker)
    case = worker.case(job["id"])
    part = {"attempt": 1, "set": {"state": "completed", "video_url": "v"}, "instants": {}}
    decided = change(case, job={"status": "completed", "video_url": "v"}, submissions=[part])
    answers = at_once(database, 4, lambda writer: writer.write(decided)[0]["took"])
    assert sorted(answers) == [False, False, False, True]
    assert database.events(job["id"]).count("completed") == 1


def test_durations_become_instants_of_a_submission(database: Database, worker: Worker) -> None:
    """All by one clock; null clears, and what is not named stays."""
    job = submitted(database, worker)
    named = ("started_at", "missing_since", "incomplete_since", "cancel_asked_at", "seen_at")

    def write(**instants: float | None) -> Row:
        part = {"attempt": 1, "set": {"missing_looks": 2}, "instants": instants}
        assert worker.write(change(worker.case(job["id"]), submissions=[part]))[0]["took"]
        return database.submissions(job["id"])[0]

    first = write(**dict.fromkeys(named, 0), next_poll_at=40)
    assert {first[name] for name in named} == {first["started_at"]}
    assert (first["next_poll_at"] - first["seen_at"]).total_seconds() == 40
    assert first["missing_looks"] == 2
    second = write(missing_since=None, ended_at=0)
    assert second["missing_since"] is None
    assert second["ended_at"] > first["seen_at"]
    kept = {"missing_since", "ended_at"}
    assert {n: v for n, v in second.items() if n not in kept} == {
        n: v for n, v in first.items() if n not in kept
    }


def test_a_missing_run_is_counted_from_the_first_time_until_it_is_seen(
    database: Database, worker: Worker
) -> None:
    job = submitted(database, worker)

    def after(event: Event) -> Row:
        worker.happen(job["id"], event)
        return database.submissions(job["id"])[0]

    missing = NotFound(attempt=1, healthy=True)
    first, second = after(missing), after(missing)
    assert (first["missing_looks"], second["missing_looks"]) == (1, 2)
    assert first["missing_since"] == second["missing_since"] is not None
    doubtful = after(NotFound(attempt=1, healthy=False))
    assert (doubtful["missing_looks"], doubtful["missing_since"]) == (2, first["missing_since"])
    seen = after(observed(job, RunState.RUNNING))
    assert (seen["missing_looks"], seen["missing_since"], seen["state"]) == (0, None, "running")
    again = after(observed(job, RunState.RUNNING))
    assert again["started_at"] == seen["started_at"], "it starts once"
    assert again["seen_at"] > seen["seen_at"]


def test_a_run_without_a_video_is_incomplete_from_the_first_time(
    database: Database, worker: Worker
) -> None:
    job = submitted(database, worker)
    worker.happen(job["id"], observed(job, RunState.COMPLETED))
    first = database.submissions(job["id"])[0]
    worker.happen(job["id"], observed(job, RunState.COMPLETED))
    second = database.submissions(job["id"])[0]
    assert first["incomplete_since"] == second["incomplete_since"] is not None
    assert second["ended_at"] is None
    worker.happen(job["id"], observed(job, RunState.COMPLETED, video_url="v"))
    last, row = database.submissions(job["id"])[0], database.job(job["id"])
    assert (last["state"], last["video_url"]) == ("completed", "v")
    assert (row["status"], row["video_url"]) == ("completed", "v")
    assert last["ended_at"] == row["completed_at"]


def test_durations_become_instants_of_the_row(database: Database, worker: Worker) -> None:
    job = submitted(database, worker)

    def write(status: str, **instants: float | None) -> Row:
        data = change(worker.case(job["id"]), job={"status": status}, job_instants=instants)
        assert worker.write(data)[0]["took"]
        return database.job(job["id"])

    row = write("running", eta_at=90, started_at=0)
    assert (row["eta_at"] - row["started_at"]).total_seconds() == 90
    started = row["started_at"]
    row = write("queued", available_at=40, eta_at=None)
    assert (row["available_at"] - row["updated_at"]).total_seconds() == 40
    assert (row["eta_at"], row["started_at"]) == (None, started)


def test_five_hundred_changes_are_one_call(database: Database, worker: Worker) -> None:
    database.sql(
        "insert into public.video_jobs (image_url, audio_url)"
        " select 'i', 'a' from generate_series(1, 500)"
    )
    changes = [
        change(worker.case(row["id"]), job={"phase_detail": "seen"})
        for row in database.sql("select id from public.video_jobs")
    ]
    answers = worker.write(*changes)
    assert [answer["took"] for answer in answers] == [True] * 500


def test_a_refused_change_writes_nothing_of_its_call(database: Database, worker: Worker) -> None:
    """The caller then sends each alone."""
    good, bad = submitted(database, worker), submitted(database, worker)
    changes = [
        change(worker.case(good["id"]), job={"status": "running"}),
        change(worker.case(bad["id"]), job={"status": "completed"}),
    ]
    with pytest.raises(psycopg.errors.CheckViolation):
        worker.write(*changes)
    assert database.job(good["id"])["status"] == "submitted"


@pytest.mark.parametrize(
    "column", ["id", "user_id", "attempt", "try_number", "revision", "created_at", "image_url",
               "idempotency_key", "metadata", "cancel_requested", "priority", "no_such_column"],
)  # fmt: skip
def test_a_write_of_what_is_not_the_workers_is_refused_by_name(
    database: Database, worker: Worker, column: str
) -> None:
    """Loudly, with everything else of its call; a forgotten column must not be lost in silence."""
    job = submitted(database, worker)
    before = database.job(job["id"])
    for name in ("job", "job_instants"):
        given: dict[str, object] = {"job": {"progress": 9}}
        given[name] = {column: 7}
        with pytest.raises(REFUSED, match=f"The worker may not write {column}[.]"):
            worker.write(change(worker.case(job["id"]), **given))
    assert database.job(job["id"]) == before


def test_runs_of_a_deleted_job_are_written_by_their_states_alone(
    database: Database, worker: Worker
) -> None:
    job = submitted(database, worker)
    database.sql("delete from public.video_jobs")
    case = worker.end_run(job["id"], 1, "cancelled")
    assert case["job"] is None
    assert database.submissions(job["id"])[0]["state"] == "cancelled"


def test_writes_recoveries_and_deletes_in_the_same_moment_do_not_deadlock(
    database: Database, worker: Worker
) -> None:
    jobs = [submitted(database, worker) for _ in range(24)]
    for job in jobs[:8]:
        worker.end_run(job["id"], 1, "lost", status="queued")
        worker.claim_one()
        expire_lease(database, job["id"])

    def churn(writer: Worker) -> None:
        for turn in range(8):
            cases = writer.take_due(50, everything=True)
            detail = {"phase_detail": f"{turn}"}
            present = [case for case in reversed(cases) if case["job"]]
            writer.write(*(change(case, job=detail) for case in present))
            writer.recover()
            victim = jobs[8 + turn]["id"]
            writer.connection.execute("delete from public.video_jobs where id = %s", [victim])

    at_once(database, 4, churn)
    assert database.row("select count(*) as n from public.video_jobs")["n"] == 16


# Forgetting -------------------------------------------------------------------------------------


def test_pruning_keeps_open_runs_present_jobs_and_the_last_days(
    database: Database, worker: Worker
) -> None:
    present, gone, live, recent = (ended(database, worker, "failed") for _ in range(4))
    database.sql(
        "update public.video_job_attempts set state = 'running' where job_id = %s", live["id"]
    )
    database.sql("delete from public.video_jobs where id <> %s", present["id"])
    for job in (present, gone, live):
        age(database, job["id"], "created_at", 9 * 86_400)
    database.sql("update public.video_job_events set at = at - interval '9 days' where id % 2 = 0")
    before = database.row("select count(*) as n from public.video_job_events")["n"]
    (answer,) = worker("prune_video_job_history_v1", p_keep_days=7)
    assert (answer["events"], answer["attempts"]) == (before // 2, 1)
    kept = {row["job_id"] for row in database.sql("select job_id from public.video_job_attempts")}
    assert kept == {present["id"], live["id"], recent["id"]}


def test_pruning_never_forgets_what_the_daily_limit_counts(
    database: Database, worker: Worker
) -> None:
    job = ended(database, worker, "failed")
    database.sql("delete from public.video_jobs")
    age(database, job["id"], "created_at", 86_400)
    (answer,) = worker("prune_video_job_history_v1", p_keep_days=0)
    assert answer == {"events": 0, "attempts": 0}
