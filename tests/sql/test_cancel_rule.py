"""The one ending outside decide(): the trigger ends a cancelled job that nobody works on."""

from dataclasses import replace

import pytest

from tests.harness import POLICY
from tests.postgres import Database, Row
from tests.sql.worker import Worker, by_hand, expire_lease
from worker.jobs.change import Decision, Kind
from worker.jobs.events import Reviewed
from worker.jobs.lifecycle import decide

CANCEL = "update public.video_jobs set cancel_requested = true where id = %s returning *"
ROWS = ["queued", "preparing with a lease", "preparing without a lease", "submitted", "running"]
OPEN = ["submitting", "unknown", "queued", "running"]
ENDED = ["refused", "failed", "cancelled", "lost", "expired"]


def made(database: Database, row: str, *states: str) -> Row:
    """A job in one of ROWS with submissions in these states, whether or not that can happen."""
    job = database.insert()
    status, _, lease = row.partition(" ")
    leased = lease == "with a lease"
    by_hand(
        database,
        "update public.video_jobs set status = %s, phase = 'waiting_gpu', phase_detail = 'x',"
        " attempt = 9, lease_owner = case when %s then gen_random_uuid() end,"
        " lease_expires_at = case when %s then now() + interval '1 minute' end where id = %s",
        status, leased, leased, job["id"],
    )  # fmt: skip
    for number, state in enumerate(reversed(states)):
        run = None if state in ("submitting", "unknown", "refused", "expired") else f"r{number}"
        by_hand(
            database,
            "insert into public.video_job_attempts (job_id, attempt, try_number, endpoint_id,"
            " state, runpod_job_id, expires_at, next_poll_at) values"
            " (%s, %s, 1, 'e', %s, %s, now() + interval '1 hour', now() + interval '1 minute')",
            job["id"], 9 - number, state, run,
        )  # fmt: skip
    return database.job(job["id"])


def decided(worker: Worker, job: Row) -> Decision:
    """What decide() says of the job as it is, if its cancel were requested."""
    case = worker.known(job["id"])
    assert case.job is not None
    asked = replace(case, job=replace(case.job, cancel_requested=True))
    return decide(asked, Reviewed(), POLICY)


def check(database: Database, worker: Worker, job: Row, *, ends: bool) -> None:
    """A cancel ends the job in the trigger exactly when decide() says that it is cancelled."""
    decision = decided(worker, job)
    (row,) = database.sql(CANCEL, job["id"])
    assert (decision.kind is Kind.CANCELLED, row["status"] == "cancelled") == (ends, ends)
    if ends:
        assert {name: row[name] for name in decision.change.job} == decision.change.job
        assert row["completed_at"] == row["updated_at"]
    else:
        assert (row["status"], row["phase"]) == (job["status"], "cancelling")
        assert row["completed_at"] is None
    assert row["phase_detail"] is None


@pytest.mark.parametrize("state", [None, *OPEN, *ENDED])
@pytest.mark.parametrize("row", ROWS)
def test_the_trigger_and_decide_end_the_same_jobs(
    database: Database, worker: Worker, row: str, state: str | None
) -> None:
    job = made(database, row, *([] if state is None else [state]))
    check(database, worker, job, ends=row != "preparing with a lease" and state not in OPEN)


@pytest.mark.parametrize("first", ENDED)
@pytest.mark.parametrize("second", OPEN)
@pytest.mark.parametrize("row", ROWS)
def test_an_open_submission_beside_an_ended_one_keeps_the_job(
    database: Database, worker: Worker, row: str, first: str, second: str
) -> None:
    check(database, worker, made(database, row, first, second), ends=False)


@pytest.mark.parametrize("state", OPEN)
def test_an_open_submission_of_an_earlier_try_does_not_keep_the_job(
    database: Database, worker: Worker, state: str
) -> None:
    """It is unwanted and stopped by itself; the present try has nothing that could cost money."""
    job = made(database, "queued", state)
    by_hand(database, "update public.video_jobs set try_number = 2 where id = %s", job["id"])
    check(database, worker, database.job(job["id"]), ends=True)


def test_the_end_of_the_row_of_an_expired_lease_is_left_to_the_sweep(
    database: Database, worker: Worker
) -> None:
    """Its holder may still say how the claim ended; the next sweep does not wait for it."""
    database.insert()
    job = worker.claim_one()
    expire_lease(database, job["id"])
    (row,) = database.sql(CANCEL, job["id"])
    assert (row["status"], row["phase"]) == ("preparing", "cancelling")
    assert [decision.kind for decision in worker.recover()] == [Kind.CANCELLED]
    assert database.job(job["id"])["status"] == "cancelled"
