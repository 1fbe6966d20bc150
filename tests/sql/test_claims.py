"""Which rows a claim takes, in which order, and the limits that hold under concurrent claims."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.postgres import Database, Row
from tests.sql.worker import (
    USER_LIMITS,
    Worker,
    age,
    alter,
    ended,
    expire_lease,
    submitted,
)
from worker.jobs.waiting import IN_LINE, sentences

ANN, BEN = uuid4(), uuid4()
SENTENCES = sentences(USER_LIMITS)


def at_once(database: Database, count: int, do: Callable[[Worker], Any]) -> list[Any]:
    """Several workers, each with its own session, doing something in the same moment."""
    barrier = Barrier(count)

    def act(_: int) -> Any:
        with database.connect() as connection:
            worker = Worker(connection=connection, crowded=True)
            barrier.wait(10)
            return do(worker)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))


def names(rows: list[Row]) -> list[str]:
    """The claimed rows, by the name that the test gave them; a claim's answer has no order."""
    return sorted(row["prompt"] for row in rows)


def test_a_claim_takes_the_row_and_its_next_attempt_in_one_step(
    database: Database, worker: Worker
) -> None:
    database.insert(user_id=ANN)
    (row,) = worker.claim()
    assert (row["status"], row["phase"], row["attempt"]) == ("preparing", "checking_media", 1)
    assert row["lease_owner"] == worker.owner
    left = database.row("select lease_expires_at - now() as left from public.video_jobs")["left"]
    assert 55 < left.total_seconds() <= 60
    assert worker.claim() == []


def test_claimers_at_the_same_time_never_share_a_row(database: Database) -> None:
    for _ in range(40):
        database.insert()

    def all_of_them(worker: Worker) -> list[UUID]:
        found: list[UUID] = []
        while rows := worker.claim(3, max_in_flight=100, max_queued_runs=100):
            found += [row["id"] for row in rows]
        return found

    found = [job_id for ids in at_once(database, 4, all_of_them) for job_id in ids]
    assert len(found) == len(set(found)) == 40


@pytest.mark.parametrize(
    ("limit", "user"),
    [
        ({"max_in_flight": 3}, None),
        ({"max_queued_runs": 3}, None),
        ({"max_in_flight_per_user": 3}, ANN),
        ({"max_submissions_per_user_per_day": 3}, ANN),
    ],
)
def test_claimers_at_the_same_time_never_overrun_a_limit(
    database: Database, limit: Any, user: UUID | None
) -> None:
    for _ in range(12):
        database.insert(user_id=user)
    found = at_once(database, 4, lambda worker: worker.claim(2, **limit))
    assert sum(len(rows) for rows in found) == 3


def test_runs_and_claims_count_for_max_in_flight_but_unknown_submissions_do_not(
    database: Database, worker: Worker
) -> None:
    submitted(database, worker)
    database.insert()
    unknown = worker.claim_one()
    worker.begin(unknown)
    worker.doubt(unknown)
    for _ in range(5):
        database.insert()
    assert len(worker.claim(9, max_in_flight=3)) == 2
    assert worker.claim(9, max_in_flight=3) == []


def test_only_runs_that_wait_at_this_endpoint_count_for_max_queued_runs(
    database: Database, worker: Worker
) -> None:
    """A run that has started leaves its place; a claim will soon need one."""
    running, elsewhere, _ = (submitted(database, worker) for _ in range(3))
    worker.end_run(running["id"], 1, "running")
    database.sql(
        "update public.video_job_attempts set endpoint_id = 'other' where job_id = %s",
        elsewhere["id"],
    )
    for _ in range(5):
        database.insert()
    assert len(worker.claim(1, max_queued_runs=3)) == 1
    assert len(worker.claim(9, max_queued_runs=3)) == 1
    assert worker.claim(9, max_queued_runs=3) == []


@pytest.mark.parametrize("state", ["unknown", "queued", "running"])
def test_what_a_user_has_in_flight_holds_back_its_next_job(
    database: Database, worker: Worker, state: str
) -> None:
    submitted(database, worker, user_id=ANN)
    database.sql("update public.video_job_attempts set state = %s", state)
    database.insert(user_id=ANN)
    assert worker.claim(9, max_in_flight_per_user=1) == []
    assert len(worker.claim(9, max_in_flight_per_user=2)) == 1


def test_a_job_held_back_says_why(database: Database, worker: Worker) -> None:
    rows = [database.insert(user_id=ANN) for _ in range(3)]
    assert {database.job(row["id"])["phase_detail"] for row in rows} == {IN_LINE}
    worker.claim(9, max_in_flight_per_user=1)
    worker.refresh_queue()
    said = [database.job(row["id"])["phase_detail"] for row in rows]
    assert said == [None, SENTENCES["in_flight"], SENTENCES["in_flight"]]
    worker.claim(9, max_submissions_per_user_per_day=1)
    worker.refresh_queue()
    assert database.job(rows[1]["id"])["phase_detail"] == SENTENCES["submissions"]
    worker.claim(9, max_in_flight_per_user=1, max_submissions_per_user_per_day=9)
    worker.claim(0)
    worker.refresh_queue()
    assert database.job(rows[1]["id"])["phase_detail"] == IN_LINE


def test_the_daily_limit_counts_retries_and_deleted_jobs_and_forgets_after_a_day(
    database: Database, worker: Worker
) -> None:
    limits: Any = {"max_submissions_per_user_per_day": 3}
    deleted = submitted(database, worker, user_id=ANN)
    worker.end_run(deleted["id"], 1, "completed")
    database.sql("delete from public.video_jobs where id = %s", deleted["id"])
    retried = database.insert(user_id=ANN)
    for _ in range(2):
        job = worker.claim_one()
        worker.begin(job)
        worker.record(job, f"run-{job['attempt']}")
        worker.end_run(
            job["id"], job["attempt"], "failed", status="failed", error_code="run_failed"
        )
        database.sql("select * from public.retry_video_job_v1(%s)", retried["id"])
    assert worker.claim(9, **limits) == []
    age(database, deleted["id"], "created_at", 86_401)
    assert len(worker.claim(9, **limits)) == 1


def test_the_daily_limit_looks_back_over_24_hours(database: Database, worker: Worker) -> None:
    job = submitted(database, worker, user_id=ANN)
    worker.end_run(job["id"], 1, "failed", status="failed", error_code="run_failed")
    age(database, job["id"], "created_at", 86_340)
    database.insert(user_id=ANN)
    assert worker.claim(max_submissions_per_user_per_day=1) == []
    age(database, job["id"], "created_at", 86_401)
    assert len(worker.claim(max_submissions_per_user_per_day=1)) == 1


def test_a_claim_and_the_submission_it_began_count_once_for_the_daily_limit(
    database: Database, worker: Worker
) -> None:
    database.insert(user_id=ANN)
    assert len(worker.begin(worker.claim_one())) == 1
    for _ in range(2):
        database.insert(user_id=ANN)
    assert len(worker.claim(9, max_submissions_per_user_per_day=2)) == 1


def test_a_lease_that_has_run_out_holds_its_users_places_until_it_is_recovered(
    database: Database, worker: Worker
) -> None:
    """Its POST may be under way, so its run may be live."""
    database.insert(user_id=ANN)
    job = worker.claim_one()
    worker.begin(job)
    expire_lease(database, job["id"])
    database.insert(user_id=ANN)
    assert worker.claim(9, max_in_flight_per_user=1) == []
    assert worker.claim(9, max_submissions_per_user_per_day=1) == []
    age(database, job["id"], "next_poll_at", 1)
    worker.recover()
    assert worker.known(job["id"]).states == {"1": "unknown"}
    assert worker.claim(9, max_in_flight_per_user=1) == []
    assert len(worker.claim(9, max_in_flight_per_user=2)) == 1


def test_a_refused_post_and_a_release_cost_the_user_nothing(
    database: Database, worker: Worker
) -> None:
    database.insert(user_id=ANN)
    limits: Any = {"max_submissions_per_user_per_day": 1, "max_in_flight_per_user": 1}
    (job,) = worker.claim(**limits)
    worker.begin(job)
    worker.refuse(job)
    (job,) = worker.claim(**limits)
    worker.release(job)
    assert len(worker.claim(**limits)) == 1
    assert worker.known(job["id"]).submission_count == 0


def test_jobs_without_a_user_have_no_limit(database: Database, worker: Worker) -> None:
    for _ in range(4):
        database.insert()
    limits: Any = {"max_in_flight_per_user": 1, "max_submissions_per_user_per_day": 1}
    assert len(worker.claim(9, **limits)) == 4


def test_a_flood_of_one_user_does_not_delay_anothers_first_job(
    database: Database, worker: Worker
) -> None:
    for number in range(30):
        database.insert(user_id=ANN, prompt=f"ann {number}")
    database.insert(user_id=BEN, prompt="ben 0")
    database.insert(prompt="dashboard 0")
    database.insert(user_id=BEN, prompt="ben 1")
    assert names(worker.claim(3)) == ["ann 0", "ben 0", "dashboard 0"]
    worker.claim(1)
    assert names(worker.claim(1)) == ["ben 1"]


def test_what_a_user_has_in_flight_counts_for_its_place_in_line(
    database: Database, worker: Worker
) -> None:
    submitted(database, worker, user_id=ANN)
    database.insert(user_id=ANN, prompt="ann's second")
    database.insert(user_id=BEN, prompt="ben's first")
    assert names(worker.claim(1)) == ["ben's first"]


def test_priority_goes_before_everything(database: Database, worker: Worker) -> None:
    for name, priority in (("plain", 0), ("urgent", 5), ("late", -1)):
        database.insert(prompt=name, priority=priority)
    assert [names(worker.claim(1)) for _ in range(3)] == [["urgent"], ["plain"], ["late"]]


def test_a_row_that_has_to_wait_is_left_alone(database: Database, worker: Worker) -> None:
    job = database.insert()
    worker.release(worker.claim_one(), retry_seconds=60)
    assert worker.claim() == []
    alter(database, job["id"], "available_at = now()")
    assert len(worker.claim()) == 1


def crashed(database: Database, worker: Worker, name: str) -> Row:
    """A job whose last claim ended with its worker."""
    database.insert(prompt=name)
    job = worker.claim_one()
    expire_lease(database, job["id"])
    (decision,) = worker.recover()
    assert decision.effects.lease_expired
    row = database.job(job["id"])
    assert (row["status"], row["crashes"]) == ("queued", 1)
    return row


def test_a_row_that_crashed_is_claimed_alone_and_nothing_beside_it(
    database: Database, worker: Worker
) -> None:
    crashed(database, worker, "suspect")
    database.insert(prompt="neighbour")
    (job,) = worker.claim(9)
    assert (job["prompt"], job["claimed_alone"]) == ("suspect", True)
    assert worker.claim(9) == []
    worker.begin(job)
    worker.record(job, "run-1")
    assert names(worker.claim(9)) == ["neighbour"]


def test_two_rows_that_crashed_are_claimed_one_after_the_other(
    database: Database, worker: Worker
) -> None:
    """As after a deployment that killed a worker that held several."""
    jobs = [database.insert(prompt=name) for name in ("one", "two")]
    worker.claim(2)
    for job in jobs:
        expire_lease(database, job["id"])
    assert len(worker.recover()) == 2
    (first,) = worker.claim(9)
    worker.reject(first)
    assert len(worker.claim(9)) == 1


def test_a_row_that_crashed_waits_until_nothing_else_is_in_preparation(
    database: Database, worker: Worker
) -> None:
    """Others behind it wait too, so that it gets its turn; another worker may take it."""
    database.insert(prompt="first", priority=9)
    (first,) = worker.claim()
    alter(database, first["id"], "priority = 0")
    crashed_row = database.insert(prompt="suspect", priority=1)
    alter(database, crashed_row["id"], "crashes = 1")
    database.insert(prompt="neighbour")
    assert worker.claim(9) == []
    other = Worker(connection=database.connection)
    assert names(other.claim(9)) == ["suspect"]
    worker.reject(first)
    assert names(worker.claim(9)) == ["neighbour"]


def test_five_crashes_alone_end_the_job(database: Database, worker: Worker) -> None:
    job = crashed(database, worker, "hostile")
    for expected in ("queued", "queued", "queued", "queued", "failed"):
        assert len(worker.claim()) == 1
        expire_lease(database, job["id"])
        worker.recover()
        row = database.job(job["id"])
        assert row["status"] == expected
    assert (row["error_code"], row["crashes_alone"]) == ("too_many_crashes", 5)
    assert database.submissions(job["id"]) == []
    assert "worker's log" in row["error_message"]


def test_a_claim_that_came_through_forgets_its_crashes(database: Database, worker: Worker) -> None:
    crashed(database, worker, "was lucky")
    job = worker.claim_one()
    (row,) = worker.begin(job)
    assert (row["crashes"], row["crashes_alone"]) == (0, 0)


def test_a_claim_whose_answer_was_lost_is_handed_out_again_without_a_crash(
    database: Database, worker: Worker
) -> None:
    """A lost answer must not make a job look hostile; the attempt stays, as nothing was begun."""
    lost, held, sent = (database.insert() for _ in range(3))
    worker.claim(2)
    worker.begin(worker.claim_one())
    alter(database, lost["id"], "lease_expires_at = now() + interval '1 second'")
    (again,) = worker.claim(9, holding=[held["id"]])
    assert (again["id"], again["attempt"], again["crashes"]) == (lost["id"], 1, 0)
    assert again["lease_left"] > 55
    assert len(worker.begin(again)) == 1
    assert database.job(held["id"])["attempt"] == 1
    assert database.job(sent["id"])["status"] == "preparing", "its POST may be under way"
    other = Worker(connection=database.connection)
    assert other.claim(9, holding=[]) == []


def test_an_owner_that_does_not_say_what_it_holds_is_handed_nothing_again(
    database: Database, worker: Worker
) -> None:
    database.insert()
    assert len(worker.claim(9)) == 1
    assert worker.claim(9, holding=None) == []


def test_rows_that_are_handed_out_again_count_as_claimed(
    database: Database, worker: Worker
) -> None:
    """Those come first, then waiting ones, and together no more than were asked for."""
    lost = [database.insert() for _ in range(2)]
    worker.claim(2)
    waiting = [database.insert() for _ in range(2)]
    found = [row["id"] for row in worker.claim(3, holding=[])]
    assert sorted(found[:2]) == sorted(row["id"] for row in lost)
    assert found[2:] == [waiting[0]["id"]]
    assert len(worker.claim(1, holding=[])) == 1


def test_a_row_whose_lease_is_over_is_not_handed_out_again(
    database: Database, worker: Worker
) -> None:
    """The sweep may release it in the same moment, and then somebody else claims it."""
    job = database.insert()
    worker.claim()
    expire_lease(database, job["id"])
    assert worker.claim(9, holding=[]) == []
    assert [decision.kind for decision in worker.recover()] == ["lease_expired"]


def test_a_row_that_is_handed_out_again_is_still_claimed_alone(
    database: Database, worker: Worker
) -> None:
    suspect = crashed(database, worker, "suspect")
    database.insert(prompt="neighbour")
    worker.claim(9)
    assert [row["id"] for row in worker.claim(9, holding=[])] == [suspect["id"]]
    assert worker.claim(9, holding=[suspect["id"]]) == []


def test_a_cancelled_claim_whose_answer_was_lost_ends(database: Database, worker: Worker) -> None:
    """Its owner hears of the cancel with the row, and releases it."""
    job = database.insert()
    worker.claim()
    database.sql("update public.video_jobs set cancel_requested = true")
    (again,) = worker.claim(9, holding=[])
    assert again["cancel_requested"]
    worker.release(again)
    row = database.job(job["id"])
    assert (row["status"], row["phase"]) == ("cancelled", "done")


def test_a_row_whose_old_run_came_back_to_life_is_not_claimed(
    database: Database, worker: Worker
) -> None:
    job = submitted(database, worker)
    worker.change(job["id"], status="queued", phase="in_line")
    assert worker.claim() == []


def test_places_in_line_are_written_only_where_they_changed(
    database: Database, worker: Worker
) -> None:
    rows = [database.insert(priority=priority) for priority in (0, 1, 0)]

    def places() -> list[int | None]:
        return [database.job(row["id"])["queue_position"] for row in rows]

    assert (worker.refresh_queue(2), places()) == (2, [2, 1, None])
    assert (worker.refresh_queue(3), places()) == (1, [2, 1, 3])
    worker.claim()
    assert (worker.refresh_queue(3), places()) == (2, [1, None, 2])
    assert worker.refresh_queue(3) == 0


def test_claims_refreshes_and_cancels_in_the_same_moment_do_not_deadlock(
    database: Database,
) -> None:
    for number in range(60):
        database.insert(user_id=ANN if number % 2 else BEN, priority=number % 7)

    def churn(worker: Worker) -> None:
        for _ in range(12):
            for job in worker.claim(3, max_in_flight_per_user=2, max_queued_runs=9):
                worker.release(job)
            worker.refresh_queue(50)
            worker.connection.execute(
                "update public.video_jobs set priority = -priority where status = 'queued'"
                " and id in (select id from public.video_jobs order by random() limit 1)"
            )
            worker.recover()

    at_once(database, 4, churn)
    assert {row["status"] for row in database.sql("select status from public.video_jobs")} == {
        "queued"
    }


def test_ended_jobs_take_no_slot(database: Database, worker: Worker) -> None:
    for status in ("completed", "failed", "cancelled"):
        ended(database, worker, status)
    database.insert()
    assert len(worker.claim(max_in_flight=1, max_queued_runs=1)) == 1
