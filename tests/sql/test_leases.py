"""Leases and fences: who lost a row can write nothing, and nothing is executed twice."""

from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.harness import POLICY
from tests.postgres import Database, Row
from tests.sql.worker import Worker, age, alter, by_hand, expire_lease, submitted
from worker.jobs.events import Rejected, Released
from worker.jobs.lifecycle import decide


@pytest.fixture
def other(database: Database) -> Worker:
    """A second worker."""
    return Worker(connection=database.connection)


def claimed(database: Database, worker: Worker, **columns: object) -> Row:
    database.insert(**columns)
    return worker.claim_one()


def renew(worker: Worker, *jobs: Row) -> list[Row]:
    ids = [job["id"] for job in jobs]
    return worker(
        "renew_video_job_leases_v1", p_owner=worker.owner, p_job_ids=ids, p_lease_seconds=90
    )


def left(database: Database, job: Row) -> float:
    """Seconds until the lease of a job is over."""
    row = database.row(
        "select extract(epoch from lease_expires_at - now())::float as seconds"
        " from public.video_jobs where id = %s",
        job["id"],
    )
    return float(row["seconds"])


def test_renewing_answers_with_what_is_still_held(
    database: Database, worker: Worker, other: Worker
) -> None:
    held, expired, released, cancelled = (claimed(database, worker) for _ in range(4))
    foreign = claimed(database, other)
    expire_lease(database, expired["id"])
    worker.release(released, retry_seconds=60)
    database.sql(
        "update public.video_jobs set cancel_requested = true where id = %s", cancelled["id"]
    )
    rows = {row["id"]: row for row in renew(worker, held, expired, released, cancelled, foreign)}
    assert set(rows) == {held["id"], cancelled["id"]}
    assert rows[cancelled["id"]]["cancel_requested"]
    assert 85 < left(database, held) <= 90
    assert left(database, foreign) <= 60


def test_a_lease_that_holds_is_not_recovered(database: Database, worker: Worker) -> None:
    claimed(database, worker)
    assert worker.recover() == []


def test_an_expired_claim_without_a_post_is_in_line_again(
    database: Database, worker: Worker
) -> None:
    job = claimed(database, worker)
    expire_lease(database, job["id"])
    (decision,) = worker.recover()
    assert decision.effects.lease_expired
    row = database.job(job["id"])
    assert (row["status"], row["phase"], row["lease_owner"]) == ("queued", "in_line", None)
    assert (row["lease_expires_at"], row["attempt"], row["crashes"]) == (None, 1, 1)
    assert worker.known(job["id"]).submission_count == 0


def test_an_expired_claim_with_a_post_under_way_is_unknown_never_posted_again(
    database: Database, worker: Worker
) -> None:
    job = claimed(database, worker)
    worker.begin(job)
    age(database, job["id"], "next_poll_at", -300)
    expire_lease(database, job["id"])
    assert len(worker.recover()) == 1
    row = database.job(job["id"])
    assert (row["status"], row["phase"]) == ("preparing", "confirming_submission")
    assert (row["lease_owner"], row["lease_expires_at"]) == (None, None)
    (sub,) = database.submissions(job["id"])
    assert (sub["state"], sub["raw_error"]) == (
        "unknown", "the worker stopped while POST /run was under way",
    )  # fmt: skip
    assert [case["job_id"] for case in worker.take_due()] == [str(job["id"])]
    assert worker.claim() == []
    assert worker.recover() == [], "once is enough"


@pytest.mark.parametrize(
    ("posted", "status", "phase"),
    [(False, "cancelled", "done"), (True, "preparing", "cancelling")],
)
def test_an_expired_claim_that_was_cancelled(
    database: Database, worker: Worker, posted: bool, status: str, phase: str
) -> None:
    job = claimed(database, worker)
    if posted:
        worker.begin(job)
    database.sql("update public.video_jobs set cancel_requested = true")
    expire_lease(database, job["id"])
    assert len(worker.recover()) == 1
    row = database.job(job["id"])
    assert (row["status"], row["phase"], row["lease_owner"]) == (status, phase, None)


def test_a_deleted_row_whose_sender_is_gone_becomes_unknown_too(
    database: Database, worker: Worker
) -> None:
    """Otherwise its run, if there is one, would never be looked for."""
    job = claimed(database, worker)
    worker.begin(job)
    database.sql("delete from public.video_jobs")
    assert worker.recover() == []
    assert database.submissions(job["id"])[0]["state"] == "submitting", "its sender may live"
    age(database, job["id"], "next_poll_at", 1)
    worker.recover()
    assert database.submissions(job["id"])[0]["state"] == "unknown"
    case = worker.known(job["id"])
    assert (case.job, case.submissions[0].next_poll_in <= POLICY.soon) == (None, True)


@pytest.mark.parametrize("status", ["preparing", "submitted", "running"])
def test_a_row_without_any_record_of_its_run_does_not_wait_for_ever(
    database: Database, worker: Worker, status: str
) -> None:
    """Preparing: its submission was unknown, and nobody holds the row."""
    job = submitted(database, worker)
    by_hand(database, "update public.video_jobs set status = %s", status)
    database.sql("delete from public.video_job_attempts")
    assert worker.recover() == []
    by_hand(database, "update public.video_jobs set updated_at = now() - interval '61 seconds'")
    assert worker.stranded() == [job["id"]]
    worker.recover()
    row = database.job(job["id"])
    assert (row["status"], row["error_code"]) == ("failed", "run_lost")
    assert "gone" in row["error_message"]


def test_what_is_stranded_is_found_page_by_page(database: Database, worker: Worker) -> None:
    """An expired lease, a sender that is gone, and a row without submissions; each once."""
    expired, sent, forgotten, held = (database.insert()["id"] for _ in range(4))
    for job in worker.claim(4):
        if job["id"] in (sent, forgotten):
            worker.begin(job)
        if job["id"] == forgotten:
            worker.record(job, "run-1")
    expire_lease(database, expired)
    expire_lease(database, sent)
    age(database, sent, "next_poll_at", 1)
    database.sql("delete from public.video_job_attempts where job_id = %s", forgotten)
    by_hand(database, "update public.video_jobs set updated_at = now() - interval '61 seconds'")
    found: list[UUID] = []
    while page := worker.stranded(1, after=found[-1] if found else None):
        found += page
    assert found == sorted([expired, sent, forgotten])
    assert held not in found


def test_a_run_of_an_older_attempt_keeps_its_row(database: Database, worker: Worker) -> None:
    """A late webhook brought it back while a newer claim had not begun: attempt 2 has no record."""
    job = submitted(database, worker)
    worker.end_run(job["id"], 1, "expired", status="queued", phase="in_line")
    database.sql("update public.video_job_attempts set runpod_job_id = null")
    worker.claim_one()
    worker.record(job, "run-late")
    assert database.job(job["id"])["status"] == "submitted"
    by_hand(database, "update public.video_jobs set updated_at = now() - interval '10 minutes'")
    assert worker.recover() == []


def lost_to_nobody(database: Database, worker: Worker, other: Worker, job: Row) -> None:
    expire_lease(database, job["id"])


def lost_to_another(database: Database, worker: Worker, other: Worker, job: Row) -> None:
    expire_lease(database, job["id"])
    worker.recover()
    other.claim_one()


def lost_to_itself(database: Database, worker: Worker, other: Worker, job: Row) -> None:
    """The same process claimed it again after a freeze: only the attempt tells."""
    expire_lease(database, job["id"])
    worker.recover()
    worker.claim_one()


def lost_to_a_cancel(database: Database, worker: Worker, other: Worker, job: Row) -> None:
    database.sql("update public.video_jobs set cancel_requested = true")


def lost_to_a_delete(database: Database, worker: Worker, other: Worker, job: Row) -> None:
    database.sql("delete from public.video_jobs")


@pytest.mark.parametrize(
    "lost",
    [lost_to_nobody, lost_to_another, lost_to_itself, lost_to_a_cancel, lost_to_a_delete],
)
def test_a_lost_claim_begins_no_submission(
    database: Database, worker: Worker, other: Worker, lost: Any
) -> None:
    job = claimed(database, worker)
    lost(database, worker, other, job)
    assert worker.begin(job) == []
    assert database.submissions(job["id"]) == []


def test_only_the_owner_of_the_lease_begins_a_submission(
    database: Database, worker: Worker, other: Worker
) -> None:
    """The attempt alone would do as long as nobody else ever learns of it."""
    job = claimed(database, worker)
    assert other.begin(job) == []
    assert database.submissions(job["id"]) == []
    assert len(worker.begin(job)) == 1


@pytest.mark.parametrize("status", ["queued", "submitted", "running"])
def test_nothing_begins_for_a_row_that_is_not_being_prepared(
    database: Database, worker: Worker, status: str
) -> None:
    """Whatever it still says of a lease."""
    job = claimed(database, worker)
    alter(database, job["id"], f"status = '{status}'")
    assert database.job(job["id"])["lease_owner"] == worker.owner
    assert worker.begin(job) == []
    assert database.submissions(job["id"]) == []


@pytest.mark.parametrize("lost", [lost_to_another, lost_to_itself, lost_to_a_delete])
@pytest.mark.parametrize("end", [Worker.release, Worker.reject])
def test_a_lost_claim_ends_nothing(
    database: Database, worker: Worker, other: Worker, lost: Any, end: Any
) -> None:
    job = claimed(database, worker)
    lost(database, worker, other, job)
    before = database.sql("select * from public.video_jobs")
    assert end(worker, job).change.empty
    assert database.sql("select * from public.video_jobs") == before


@pytest.mark.parametrize("lost", [lost_to_another, lost_to_itself, lost_to_a_delete])
@pytest.mark.parametrize("event", [Released, Rejected])
def test_what_was_decided_while_the_claim_was_held_does_not_take_when_it_is_lost(
    database: Database, worker: Worker, other: Worker, lost: Any, event: Any
) -> None:
    """The fence of the write, which the decision cannot see."""
    job = claimed(database, worker)
    more = {"code": "audio_missing", "message": "No."} if event is Rejected else {}
    decision = decide(worker.known(job["id"]), event(attempt=1, **more), POLICY)
    assert not decision.change.empty
    lost(database, worker, other, job)
    before = database.sql("select * from public.video_jobs")
    (written,) = worker.write(decision.change.as_json())
    assert not written["took"]
    assert database.sql("select * from public.video_jobs") == before


def test_beginning_writes_the_plan_the_submission_and_the_lease(
    database: Database, worker: Worker
) -> None:
    job = claimed(database, worker, user_id="11111111-1111-1111-1111-111111111111")
    alter(database, job["id"], "lease_expires_at = now() + interval '1 second'")
    (row,) = worker.begin(job, windows=1, warnings=[{"code": "c", "message": "m"}], seed_used=7)
    assert (row["frames"], row["windows"], row["seed_used"]) == (81, 1, 7)
    assert worker.known(job["id"]).submission_count == 1
    assert row["warnings"] == [{"code": "c", "message": "m"}]
    assert left(database, job) > 55
    (sub,) = database.submissions(job["id"])
    assert (sub["state"], sub["endpoint_id"], sub["input_objects"]) == (
        "submitting", "abc123", ["o1"],
    )  # fmt: skip
    assert (sub["plan"], sub["user_id"]) == ({"expected_seconds": 100}, job["user_id"])


def test_no_submission_beside_an_open_one_or_beyond_the_permitted_number(
    database: Database, worker: Worker
) -> None:
    job = claimed(database, worker)
    assert worker.begin(job, max_submissions=0) == []
    assert len(worker.begin(job)) == 1
    assert worker.begin(job) == [], "a second call for one claim"
    assert len(database.submissions(job["id"])) == 1


def test_a_refused_post_and_an_earlier_try_leave_the_permitted_number_as_it_was(
    database: Database, worker: Worker
) -> None:
    """Only what may have been paid in this try counts."""
    job = claimed(database, worker)
    worker.begin(job, max_submissions=1)
    worker.refuse(job)
    second = worker.claim_one()
    assert len(worker.begin(second, max_submissions=1)) == 1
    worker.record(second, "run-1")
    worker.end_run(job["id"], 2, "failed", status="queued", phase="in_line")
    assert worker.begin(worker.claim_one(), max_submissions=1) == [], "one may have been paid"
    alter(database, job["id"], "status = 'failed', error_code = 'run_failed'")
    database.sql("select * from public.retry_video_job_v1(%s)", job["id"])
    assert len(worker.begin(worker.claim_one(), max_submissions=1)) == 1


def test_a_plan_writes_only_the_columns_of_a_plan(database: Database, worker: Worker) -> None:
    """Whatever else it names is refused, and nothing is begun."""
    job = claimed(database, worker)
    wrong: dict[str, Any] = {"status": "completed", "video_url": "x", "user_id": str(job["id"])}
    for column in wrong:
        with pytest.raises(psycopg.errors.RaiseException, match=f"plan may not write .*{column}"):
            worker.begin(job, **{column: wrong[column]})
    assert database.submissions(job["id"]) == []
    assert database.job(job["id"])["status"] == "preparing"


@pytest.mark.parametrize(
    ("learn", "status", "count", "state"),
    [
        (Worker.refuse, "queued", 0, "refused"),
        (partial(Worker.refuse, code="run_refused"), "failed", 0, "refused"),
        (Worker.doubt, "preparing", 1, "unknown"),
    ],
)
def test_what_the_sender_learnt_of_its_post_is_written(
    database: Database, worker: Worker, learn: Any, status: str, count: int, state: str
) -> None:
    """Also when its lease is over: nobody else can know it."""
    job = claimed(database, worker)
    worker.begin(job)
    expire_lease(database, job["id"])
    worker.recover()
    learn(worker, job)
    row = database.job(job["id"])
    assert (row["status"], worker.known(job["id"]).submission_count) == (status, count)
    assert [sub["state"] for sub in database.submissions(job["id"])] == [state]
    learn(worker, job)
    assert database.job(job["id"]) == row, "once only"
    assert [sub["state"] for sub in database.submissions(job["id"])] == [state]


@pytest.mark.parametrize("end", [Worker.release, Worker.reject])
def test_the_end_of_a_cancelled_claim_cancels_its_job(
    database: Database, worker: Worker, end: Any
) -> None:
    job = claimed(database, worker)
    database.sql("update public.video_jobs set cancel_requested = true")
    end(worker, job)
    row = database.job(job["id"])
    assert (row["status"], row["phase"], row["error_code"]) == ("cancelled", "done", None)


def test_an_unknown_submission_of_a_cancelled_job_keeps_it_open(
    database: Database, worker: Worker
) -> None:
    job = claimed(database, worker)
    worker.begin(job)
    database.sql("update public.video_jobs set cancel_requested = true")
    worker.doubt(job)
    row = database.job(job["id"])
    assert (row["status"], row["phase"]) == ("preparing", "cancelling")


def test_what_became_of_a_deleted_jobs_post_is_still_written(
    database: Database, worker: Worker
) -> None:
    job = claimed(database, worker)
    worker.begin(job)
    database.sql("delete from public.video_jobs")
    worker.refuse(job)
    assert database.submissions(job["id"])[0]["state"] == "refused"


@pytest.mark.parametrize("end", [Worker.release, Worker.reject])
def test_a_late_end_of_a_claim_does_not_touch_a_post_to_be_confirmed(
    database: Database, worker: Worker, end: Any
) -> None:
    """The attempt is the same, but the claim is over: in line again it would be posted twice."""
    job = claimed(database, worker)
    worker.begin(job)
    expire_lease(database, job["id"])
    worker.recover()
    assert end(worker, job).change.empty
    row = database.job(job["id"])
    assert (row["status"], row["phase"]) == ("preparing", "confirming_submission")
