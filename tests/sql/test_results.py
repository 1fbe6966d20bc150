"""The way back: run ids, due looks, and writes that take only on what they were decided on."""

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.postgres import Database, Row
from tests.sql.test_claims import at_once
from tests.sql.worker import Worker, age, alter, change, ended, expire_lease, submitted


def begun(database: Database, worker: Worker) -> Row:
    """A job whose POST is under way."""
    database.insert()
    job = worker.claim_one()
    worker.begin(job)
    return job


# Recording a run's id ---------------------------------------------------------------------------


def test_a_recorded_run_is_wanted_and_its_row_submitted(database: Database, worker: Worker) -> None:
    job = begun(database, worker)
    (answer,) = worker.record(job, "run-1")
    assert answer["wanted"]
    row = answer["case"]["job"]
    assert (row["status"], row["phase"], row["runpod_job_id"]) == (
        "submitted", "waiting_gpu", "run-1",
    )  # fmt: skip
    assert (row["lease_owner"], row["lease_left"]) == (None, None)
    assert [sub["state"] for sub in answer["case"]["submissions"]] == ["queued"]
    (again,) = worker.record(job, "run-1")
    assert again["wanted"]
    assert again["case"]["job"]["revision"] == row["revision"], "the same news twice is no change"


def test_an_unknown_submission_is_adopted(database: Database, worker: Worker) -> None:
    job = begun(database, worker)
    worker.end(job, "preparing", phase="confirming_submission", submission="unknown", raw_error="?")
    (answer,) = worker.record(job, "run-1")
    assert answer["wanted"]
    assert database.job(job["id"])["status"] == "submitted"
    (sub,) = database.submissions(job["id"])
    assert (sub["state"], sub["runpod_job_id"], sub["raw_error"]) == ("queued", "run-1", None)


def test_a_submission_that_was_given_up_opens_again(database: Database, worker: Worker) -> None:
    """The row is in line again by now: its run is there after all, so it needs no other."""
    job = begun(database, worker)
    worker.end(job, "preparing", phase="confirming_submission", submission="unknown")
    worker.end_run(job["id"], 1, "expired", status="queued", phase="in_line")
    (answer,) = worker.record(job, "run-late")
    assert answer["wanted"]
    assert answer["case"]["job"]["status"] == "submitted"
    (sub,) = database.submissions(job["id"])
    assert (sub["state"], sub["ended_at"]) == ("queued", None)


@pytest.mark.parametrize("why", ["superseded", "cancelled", "deleted", "ended"])
def test_a_run_that_nobody_waits_for_is_not_wanted_but_stays_on_record(
    database: Database, worker: Worker, why: str
) -> None:
    job = begun(database, worker)
    match why:
        case "superseded":
            worker.end(job, "preparing", submission="unknown")
            worker.end_run(job["id"], 1, "expired", status="queued")
            second = worker.claim_one()
            worker.begin(second)
            worker.record(second, "run-2")
        case "cancelled":
            database.sql("update public.video_jobs set cancel_requested = true")
        case "deleted":
            database.sql("delete from public.video_jobs")
        case "ended":
            alter(database, job["id"], "status = 'failed', error_code = 'run_lost'")
    (answer,) = worker.record(job, "run-1")
    assert answer["wanted"] is False
    sub = database.submissions(job["id"])[0]
    assert (sub["state"], sub["runpod_job_id"]) == ("queued", "run-1")


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
    one = submitted(database, worker, run_id="run-1")
    assert worker.record(one, "run-2") == []
    two = begun(database, worker)
    assert worker.record(two, "run-1") == []
    assert worker.record({"id": uuid4(), "attempt": 1}, "run-3") == []
    ids = [row["runpod_job_id"] for job in (one, two) for row in database.submissions(job["id"])]
    assert ids == ["run-1", None]


# Looks that are due -----------------------------------------------------------------------------


def test_two_that_look_at_the_same_time_share_the_work(database: Database, worker: Worker) -> None:
    jobs = {str(submitted(database, worker)["id"]) for _ in range(12)}

    def look(one: Worker) -> list[str]:
        return [case["job_id"] for _ in range(6) for case in one.take_due(2)]

    found = [job_id for part in at_once(database, 3, look) for job_id in part]
    assert sorted(found) == sorted(jobs)
    assert worker.take_due() == [], "not due again before the next poll"


def test_only_open_submissions_are_looked_at_oldest_look_first(
    database: Database, worker: Worker
) -> None:
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
    part = {"attempt": 1, "set": {"state": "completed", "video_url": "v"}, "ended": True}
    decided = change(
        case, job={"status": "completed", "video_url": "v"}, submissions=[part], completed=True
    )
    answers = at_once(database, 4, lambda one: one.write(decided)[0]["took"])
    assert sorted(answers) == [False, False, False, True]
    assert database.events(job["id"]).count("completed") == 1


def test_flags_become_instants_of_the_database(database: Database, worker: Worker) -> None:
    job = submitted(database, worker)

    def flags(**values: object) -> Row:
        part = {"attempt": 1, "set": {}, **values}
        assert worker.write(change(worker.case(job["id"]), submissions=[part]))[0]["took"]
        return database.submissions(job["id"])[0]

    first = flags(started=True, missing=True, incomplete=True, cancel_asked=True, seen=True)
    assert first["missing_looks"] == 1
    columns = ("started_at", "missing_since", "incomplete_since", "cancel_asked_at", "seen_at")
    assert all(first[name] for name in columns)
    second = flags(started=True, missing=True)
    assert (second["missing_looks"], second["missing_since"]) == (2, first["missing_since"])
    assert second["started_at"] == first["started_at"]
    third = flags(missing=None)
    assert third["missing_looks"] == 2
    fourth = flags(missing=False, incomplete=False, ended=True)
    assert (fourth["missing_since"], fourth["missing_looks"]) == (None, 0)
    assert fourth["incomplete_since"] is None
    assert fourth["ended_at"] is not None


def test_durations_become_instants_of_the_row(database: Database, worker: Worker) -> None:
    job = submitted(database, worker)
    worker.write(
        change(worker.case(job["id"]), job={"status": "running"}, eta_seconds=90, started=True)
    )
    worker.write(change(worker.case(job["id"]), job={"status": "queued"}, retry_seconds=40))
    row = database.row(
        "select extract(epoch from eta_at - started_at)::float as eta,"
        " extract(epoch from available_at - updated_at)::float as again from public.video_jobs"
    )
    assert (round(row["eta"]), round(row["again"])) == (90, 40)


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


def test_a_write_leaves_what_is_not_its_business(database: Database, worker: Worker) -> None:
    job = submitted(database, worker)
    row = worker.change(job["id"], user_id=str(uuid4()), attempt=9, image_url="x", priority=4)
    assert (row["user_id"], row["attempt"], row["priority"]) == (None, 1, 0)
    assert row["image_url"] == job["image_url"]


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

    def churn(one: Worker) -> None:
        for turn in range(8):
            cases = one.take_due(50, everything=True)
            one.write(*(change(case, job={"phase_detail": f"{turn}"}) for case in reversed(cases)))
            one.recover()
            victim = jobs[8 + turn]["id"]
            one.connection.execute("delete from public.video_jobs where id = %s", [victim])

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
