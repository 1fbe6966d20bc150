"""Who is served next, and what users may have: turns, limits, and counts that are never wrong."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.postgres import Database, Row
from tests.sql.worker import ENDPOINT, LIMITS, USER_LIMITS, Worker, alter, by_hand, submitted
from worker.dispatch.dispatcher import RESERVED_SECONDS
from worker.jobs.events import InputNotDelivered
from worker.jobs.waiting import IN_LINE, sentences
from worker.settings import Settings

INSERT = """
insert into public.video_jobs (user_id, image_url) select %s, 'i' from generate_series(1, %s)
"""
ANN, BEN, CAT = uuid4(), uuid4(), uuid4()
REFUSED = psycopg.errors.RaiseException


def insert(database: Database, user: UUID, count: int = 1, *, cancelled: bool = False) -> None:
    """Rows as a browser inserts them."""
    statement = (
        "insert into public.video_jobs (user_id, image_url, cancel_requested)"
        " select %s, 'i', %s from generate_series(1, %s)"
    )
    database.role("authenticated", statement, user, cancelled, count, user=user)


def claimed(rows: list[Row]) -> list[str]:
    return sorted(row["prompt"] for row in rows)


def user_row(database: Database, user: UUID) -> Row:
    return database.row("select * from public.video_job_users where user_id = %s", user)


# Turns ------------------------------------------------------------------------------------------


def test_turns_interleave_users_whatever_they_insert(database: Database, worker: Worker) -> None:
    for number in range(5):
        database.insert(user_id=ANN, prompt=f"a{number}")
    for number in range(2):
        database.insert(user_id=BEN, prompt=f"b{number}")
    order = [worker.claim_one()["prompt"] for _ in range(7)]
    assert order == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


@pytest.mark.parametrize("served", [0, 1, 7])
def test_a_user_with_many_rows_delays_another_by_one_place_at_most(
    database: Database, worker: Worker, served: int
) -> None:
    for number in range(30):
        database.insert(user_id=ANN, prompt=f"a{number}")
    for _ in range(served):
        worker.claim_one()
    database.insert(user_id=BEN, prompt="ben")
    assert "ben" in claimed(worker.claim(2))


def test_a_returning_user_gets_no_advantage_from_having_been_away(
    database: Database, worker: Worker
) -> None:
    """Turns that a user did not use are not saved up."""
    for number in range(9):
        database.insert(user_id=ANN, prompt=f"a{number}")
    for _ in range(6):
        worker.claim_one()
    for number in range(3):
        database.insert(user_id=BEN, prompt=f"b{number}")
    assert [worker.claim_one()["prompt"] for _ in range(6)] == ["b0", "a6", "b1", "a7", "b2", "a8"]


def test_a_user_who_was_held_for_hours_does_not_go_before_everybody_afterwards(
    database: Database, worker: Worker
) -> None:
    """Turns that a limit kept from being used are not saved up either."""
    limits: Any = {"max_failed_preparations_per_user_per_hour": 1}
    for number in range(6):
        database.insert(user_id=ANN, prompt=f"a{number}")
    worker.reject(worker.claim(1, **limits)[0])
    for number in range(20):
        database.insert(user_id=BEN, prompt=f"b{number}")
    for _ in range(15):
        worker.claim(1, **limits)
    by_hand(database, "update public.video_job_events set at = at - interval '1 hour'")
    by_hand(database, "update public.video_job_users set held_until = now() where held is not null")
    database.insert(user_id=CAT, prompt="cat")
    database.insert(user_id=ANN, prompt="late")
    order = [worker.claim(1, **limits)[0]["prompt"] for _ in range(12)]
    expected = "a1 cat a2 b15 a3 b16 a4 b17 a5 b18 b19 late"
    assert " ".join(order) == expected


def test_a_released_row_keeps_its_turn_and_a_retried_one_gets_a_new_one(
    database: Database, worker: Worker
) -> None:
    database.insert(user_id=ANN, prompt="first")
    first = worker.claim_one()
    for _ in range(3):
        database.insert(user_id=BEN)
    worker.release(first)
    again = worker.claim_one()
    assert (again["prompt"], again["turn"]) == ("first", first["turn"])
    worker.reject(again)
    for _ in range(2):
        worker.claim_one()
    database.sql("select * from public.retry_video_job_v1(%s)", first["id"])
    row = database.job(first["id"])
    assert row["turn"] > first["turn"]
    assert row["phase_detail"] == IN_LINE


def test_urgent_rows_do_not_push_new_users_behind_everybody(
    database: Database, worker: Worker
) -> None:
    """How far a priority has been served says nothing of the others."""
    for _ in range(20):
        database.insert(user_id=ANN, priority=5)
    for number in range(4):
        database.insert(user_id=BEN, prompt=f"b{number}")
    for _ in range(20):
        worker.claim_one()
    database.insert(user_id=CAT, prompt="cat")
    assert "cat" in claimed(worker.claim(2))


def test_while_others_wait_a_user_has_one_row_in_preparation(
    database: Database, worker: Worker
) -> None:
    for number in range(3):
        database.insert(user_id=ANN, prompt=f"a{number}")
    worker.claim(1)
    for name, user in (("ben", BEN), ("cat", CAT)):
        for _ in range(2):
            database.insert(user_id=user, prompt=name)
    assert claimed(worker.claim(2)) == ["ben", "cat"]
    worker.claim(9)
    assert database.sql("select from public.video_jobs where status = 'queued'") == []


def test_rows_that_wait_for_an_instant_are_passed_over_until_then(
    database: Database, worker: Worker
) -> None:
    """The user's next row is claimed meanwhile; afterwards the turn counts as before."""
    for name in ("late", "next", "last"):
        database.insert(user_id=ANN, prompt=name)
    late = worker.claim_one()
    worker.release(late, retry_seconds=60)
    assert database.job(late["id"])["delayed"]
    assert worker.claim_one()["prompt"] == "next"
    by_hand(database, "update public.video_jobs set available_at = now() where id = %s", late["id"])
    assert worker.claim_one()["prompt"] == "late"
    assert not database.job(late["id"])["delayed"]


# Room -------------------------------------------------------------------------------------------


def test_rows_that_are_long_in_preparation_reserve_no_place_at_runpod(
    database: Database, worker: Worker
) -> None:
    """Five rows of a slow host must not keep five honest ones waiting."""
    for _ in range(9):
        database.insert()
    assert len(worker.claim(9, max_queued_runs=5)) == 5
    assert worker.claim(9, max_queued_runs=5) == []
    by_hand(
        database,
        f"update public.video_jobs set claimed_at = now() - interval '{RESERVED_SECONDS} seconds'"
        " where status = 'preparing'",
    )
    assert worker.claim(9, max_queued_runs=5, max_preparing=5) == []
    assert len(worker.claim(9, max_queued_runs=5, max_preparing=7)) == 2
    assert len(worker.claim(9, max_queued_runs=5)) == 2


def test_a_new_row_reserves_a_place_at_runpod_for_a_moment(
    database: Database, worker: Worker
) -> None:
    """The dispatcher looks again when that is over: both must have the same number."""
    database.insert()
    database.insert()
    worker.claim(1, max_queued_runs=1)
    for seconds, claimed_now in ((RESERVED_SECONDS - 1, 0), (RESERVED_SECONDS, 1)):
        by_hand(
            database,
            f"update public.video_jobs set claimed_at = now() - interval '{seconds} seconds'"
            " where status = 'preparing'",
        )
        assert len(worker.claim(1, max_queued_runs=1)) == claimed_now


def test_rows_of_hosts_that_failed_before_reserve_no_place_at_runpod(
    database: Database, worker: Worker
) -> None:
    """31 of them, each tried three times, kept an honest row in line for more than a minute."""
    for _ in range(2):
        database.insert()
    by_hand(database, "update public.video_jobs set input_tries = 1")
    for _ in range(2):
        database.insert()
    assert len(worker.claim(2, max_queued_runs=2)) == 2
    assert len(worker.claim(9, max_queued_runs=2)) == 2
    assert worker.claim(9, max_queued_runs=2) == []


@pytest.mark.parametrize("limit", ["max_in_flight", "max_queued_runs"])
def test_a_submission_that_has_no_room_is_not_begun(
    database: Database, worker: Worker, limit: str
) -> None:
    one: Any = {limit: 1}
    submitted(database, worker)
    database.insert(prompt="ready")
    job = worker.claim_one()
    assert worker.begin(job, **one) == []
    assert database.submissions(job["id"]) == []
    worker.release(job)
    assert worker.claim(9, **one) == []
    worker.end_run(database.sql("select job_id from public.video_job_attempts")[0]["job_id"],
                   1, "lost")  # fmt: skip
    (job,) = worker.claim(9, **one)
    assert len(worker.begin(job, **one)) == 1


# Limits of users --------------------------------------------------------------------------------


def test_a_user_may_have_two_hundred_jobs_waiting_and_no_more(database: Database) -> None:
    insert(database, ANN, 200)
    with pytest.raises(REFUSED, match="200 jobs waiting"):
        insert(database, ANN)
    insert(database, BEN)


def test_a_service_key_may_insert_as_many_as_it_likes(database: Database) -> None:
    database.role("service_role", INSERT, ANN, 250)


def test_cancelled_rows_count_for_the_day(database: Database, worker: Worker) -> None:
    """Rows that are cancelled at once never wait, and would fill the database."""
    worker.claim(0, max_rows_per_user_per_day=3)
    insert(database, ANN, 3, cancelled=True)
    with pytest.raises(REFUSED, match="started 3 jobs within 24 hours") as refused:
        insert(database, ANN, cancelled=True)
    assert refused.value.diag.message_hint == "too_many_jobs_today"
    insert(database, BEN)
    by_hand(database, "update public.video_job_events set at = at - interval '24 hours'")
    insert(database, ANN)


def test_cancelled_rows_of_one_statement_count_for_the_day(
    database: Database, worker: Worker
) -> None:
    """Their events are written at its end: 12,000 went in with one request."""
    worker.claim(0, max_rows_per_user_per_day=3)
    many = (
        "insert into public.video_jobs (image_url, audio_url, cancel_requested) "
        "select 'https://a.example/i', 'https://a.example/a', true from generate_series(1, %s)"
    )
    with pytest.raises(REFUSED, match=r"started 3 jobs within 24 hours.* after 2"):
        database.role("authenticated", many, 12_000, user=ANN)
    database.role("authenticated", many, 2, user=ANN)
    with pytest.raises(REFUSED, match="started 3 jobs"):
        database.role("authenticated", many, 2, user=ANN)
    database.role("authenticated", many, 1, user=ANN)
    database.role("authenticated", many, 3, user=BEN)


def test_retries_of_a_browser_count_for_the_day(database: Database, worker: Worker) -> None:
    """Cancelling and retrying for ever would write events without end."""
    worker.claim(0, max_rows_per_user_per_day=3)
    insert(database, ANN)
    (row,) = database.sql("select id from public.video_jobs")
    cancel = "update public.video_jobs set cancel_requested = true where id = %s"
    retry = "select status from public.retry_video_job_v1(%s)"
    for _ in range(2):
        database.role("authenticated", cancel, row["id"], user=ANN)
        assert database.role("authenticated", retry, row["id"], user=ANN) == [{"status": "queued"}]
    database.role("authenticated", cancel, row["id"], user=ANN)
    with pytest.raises(REFUSED, match="started 3 jobs"):
        database.role("authenticated", retry, row["id"], user=ANN)
    assert database.role("service_role", retry, row["id"]) == [{"status": "queued"}]


def test_an_update_that_changes_nothing_writes_nothing(database: Database) -> None:
    insert(database, ANN)
    (row,) = database.sql("select * from public.video_jobs")
    for value in (False, True, True):
        statement = "update public.video_jobs set cancel_requested = %s where id = %s"
        database.role("authenticated", statement, value, row["id"], user=ANN)
    after = database.job(row["id"])
    assert (after["status"], after["revision"]) == ("cancelled", row["revision"] + 1)
    assert database.events(row["id"]) == ["inserted", "cancelled"]


def test_rows_tell_who_inserted_them(database: Database) -> None:
    insert(database, ANN)
    database.role("service_role", INSERT, ANN, 1)
    database.insert(user_id=ANN)
    rows = database.sql("select inserted_by from public.video_jobs order by created_at")
    assert [row["inserted_by"] for row in rows] == ["user", "service", "service"]


def test_failed_preparations_hold_a_users_next_rows_for_the_rest_of_the_hour(
    database: Database, worker: Worker
) -> None:
    limits: Any = {"max_failed_preparations_per_user_per_hour": 2}
    for number in range(5):
        database.insert(user_id=ANN, prompt=f"a{number}")
    for _ in range(2):
        (job,) = worker.claim(1, **limits)
        worker.reject(job, "image_unreadable")
    assert worker.claim(9, **limits) == []
    database.insert(user_id=BEN, prompt="ben")
    assert claimed(worker.claim(9, **limits)) == ["ben"]
    assert user_row(database, ANN)["held"] == "preparations"
    worker.refresh_queue()
    waiting = database.sql("select * from public.video_jobs where status = 'queued'")
    assert {row["phase_detail"] for row in waiting} == {sentences(USER_LIMITS)["preparations"]}
    assert {row["queue_position"] for row in waiting} == {None}
    by_hand(database, "update public.video_job_events set at = at - interval '1 hour'")
    by_hand(database, "update public.video_job_users set held_until = now()")
    assert len(worker.claim(9, **limits)) == 3


def test_each_try_at_a_host_that_does_not_deliver_is_a_failed_preparation(
    database: Database, worker: Worker
) -> None:
    """It held a place, although the job is not over."""
    job = database.insert(user_id=ANN)
    database.insert(user_id=ANN)
    claimed_row = worker.claim_one()
    event = InputNotDelivered(
        attempt=claimed_row["attempt"], code="image_unreachable", message="No.", seconds=9.0
    )
    worker.happen(job["id"], event)
    assert database.job(job["id"])["status"] == "queued"
    assert worker.claim(9, max_failed_preparations_per_user_per_hour=1) == []
    assert user_row(database, ANN)["held"] == "preparations"


def test_a_run_that_fails_is_no_failed_preparation(database: Database, worker: Worker) -> None:
    job = submitted(database, worker, user_id=ANN)
    worker.end_run(job["id"], 1, "failed", status="failed", error_code="run_failed")
    database.insert(user_id=ANN)
    assert len(worker.claim(1, max_failed_preparations_per_user_per_hour=1)) == 1
    assert database.events(job["id"])[-1] == "failed"


def test_the_migrations_limits_are_the_settings_defaults(database: Database) -> None:
    row = database.row("select * from public.video_job_limits")
    fields = Settings.model_fields
    assert {name: row[name] for name in USER_LIMITS.as_row()} == {
        name: fields[name].default for name in USER_LIMITS.as_row()
    }


def test_setting_limits_tells_of_former_ones_that_differ(
    database: Database, worker: Worker
) -> None:
    ours = USER_LIMITS.as_row()
    worker("set_video_job_limits_v1", p_limits=ours)
    assert worker("set_video_job_limits_v1", p_limits=ours) == [{"set_video_job_limits_v1": None}]
    others = ours | {"max_in_flight_per_user": 7}
    (answer,) = worker("set_video_job_limits_v1", p_limits=others)
    assert answer["set_video_job_limits_v1"] == ours
    assert worker("get_video_job_limits_v1") == [{"get_video_job_limits_v1": others}]


def test_browsers_reach_neither_counts_nor_limits(database: Database) -> None:
    for table in ("users", "stale_users", "turns", "limits"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.role("authenticated", f"select from public.video_job_{table}", user=ANN)
    for call in (
        f"video_job_recount_user_v1('{BEN}')", f"video_job_usage_v1('{BEN}')",
        f"video_job_next_turn_v1('{BEN}', 0)", f"video_job_check_user_v1('{BEN}')",
        "set_video_job_limits_v1('{}')", "video_job_line_v1(1, true)",
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.role("authenticated", f"select * from public.{call}", user=ANN)


# Counts -----------------------------------------------------------------------------------------

WRONG = """
select u.user_id, to_jsonb(u) as kept, n.usage, n.head from public.video_job_users u
cross join lateral (
  select to_jsonb(x) as usage, (
    select j.id from public.video_jobs j
    where j.user_id = u.user_id and j.status = 'queued' and not j.delayed
    order by j.priority desc, j.turn, j.created_at, j.id limit 1) as head
  from public.video_job_usage_v1(u.user_id) x) n
where (u.preparing, u.in_flight, u.head_id)
  is distinct from ((n.usage ->> 'preparing')::integer, (n.usage ->> 'in_flight')::integer, n.head)
"""
MISSING = """
select j.user_id from public.video_jobs j where j.status = 'queued' and j.user_id is not null
  and not exists (select from public.video_job_users u where u.user_id = j.user_id)
"""

NAMES = "insert claim begin record doubt release later reject end cancel retry delete wake give"
STEPS = st.lists(
    st.tuples(st.sampled_from([*NAMES.split(), "priority"]), st.integers(0, 99)), max_size=25
)


def step(database: Database, worker: Worker, name: str, number: int) -> None:
    """One thing that happens, if the table has a row that it can happen to."""
    who = (ANN, BEN, CAT, None)[number % 4]
    if name == "insert":
        database.insert(user_id=who, priority=number % 3)
        return
    if name == "claim":
        worker.claim(1 + number % 3, max_in_flight_per_user=1 + number % 3)
        return
    wanted = {
        "begin": "preparing", "release": "preparing", "later": "preparing", "reject": "preparing",
        "record": "preparing", "doubt": "preparing", "end": "submitted", "retry": "failed",
    }.get(name, "queued")  # fmt: skip
    rows = database.sql("select * from public.video_jobs where status = %s order by id", wanted)
    if not rows:
        return
    job = rows[number % len(rows)]
    subs = database.submissions(job["id"])
    submitting = bool(subs) and subs[-1]["state"] == "submitting"
    if name == "begin" and not submitting:
        worker.begin(job)
    elif name in ("record", "doubt") and submitting:
        worker.record(job, f"run-{uuid4()}") if name == "record" else worker.doubt(job)
    elif name in ("release", "later", "reject") and not submitting:
        worker.reject(job) if name == "reject" else worker.release(
            job, retry_seconds=60 if name == "later" else 0
        )
    elif name == "end":
        worker.end_run(job["id"], job["attempt"], "failed", status="failed", error_code="x")
    elif name == "retry" and not any(s["state"] in ("queued", "running", "unknown") for s in subs):
        database.sql("select from public.retry_video_job_v1(%s)", job["id"])
    elif name == "cancel":
        database.sql(
            "update public.video_jobs set cancel_requested = true where id = %s", job["id"]
        )
    elif name == "delete":
        database.sql("delete from public.video_jobs where id = %s", job["id"])
    elif name == "priority":
        database.sql("update public.video_jobs set priority = 9 where id = %s", job["id"])
    elif name == "wake":
        alter(database, job["id"], "available_at = now()")
    elif name == "give" and job["attempt"] == 0:
        database.sql("update public.video_jobs set user_id = %s where id = %s", who, job["id"])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_counts_are_those_of_a_full_count_whatever_happens(
    database: Database, worker: Worker, steps: list[tuple[str, int]]
) -> None:
    by_hand(
        database, "truncate public.video_jobs, public.video_job_attempts, public.video_job_users"
    )
    for name, number in steps:
        step(database, worker, name, number)
        assert database.sql(WRONG) == [], (name, number)
        assert database.sql(MISSING) == [], (name, number)


def test_counts_that_were_emptied_come_back(database: Database, worker: Worker) -> None:
    for _ in range(3):
        database.insert(user_id=ANN)
    worker.claim(1, max_in_flight_per_user=1)
    by_hand(database, "truncate public.video_job_users")
    worker("set_video_job_limits_v1", p_limits=USER_LIMITS.as_row())
    assert len(worker.claim(9)) == 2
    by_hand(database, "truncate public.video_job_attempts")
    by_hand(database, "update public.video_jobs set status = 'completed', video_url = 'v'")
    assert user_row(database, ANN)["in_flight"] == 3
    worker("recount_video_job_users_v1", p_want=10)
    assert user_row(database, ANN)["in_flight"] == 0


def test_a_user_who_is_locked_is_counted_by_the_next_claim(
    database: Database, worker: Worker
) -> None:
    """Two transactions that wait for a user of each other would wait for ever."""
    for _ in range(2):
        database.insert(user_id=ANN)
    (job,) = worker.claim()
    with database.connect() as other, other.transaction():
        other.execute("select from public.video_job_users for update")
        worker.release(job)
        (cancelled,) = database.sql("select id from public.video_jobs where id <> %s", job["id"])
        statement = "update public.video_jobs set cancel_requested = true where id = %s"
        database.sql(statement, cancelled["id"])
    assert user_row(database, ANN)["in_flight"] == 1
    worker("claim_video_jobs_v1", p_owner=worker.owner, p_want=1, p_lease_seconds=60,
           p_endpoint_id=ENDPOINT, **LIMITS)  # fmt: skip
    assert user_row(database, ANN)["in_flight"] == 1
    assert database.job(job["id"])["attempt"] == 2
    assert database.sql(WRONG) == []


# Sentences --------------------------------------------------------------------------------------

BUSY = sentences(USER_LIMITS)["in_flight"]


def said(database: Database, row: Row) -> str | None:
    detail: str | None = database.job(row["id"])["phase_detail"]
    return detail


def test_a_row_that_is_added_while_its_user_is_held_says_why_it_waits(
    database: Database, worker: Worker
) -> None:
    database.insert(user_id=ANN)
    job = worker.claim(1, max_in_flight_per_user=1)[0]
    worker.refresh_queue()
    added = [database.insert(user_id=ANN) for _ in range(2)]
    worker.refresh_queue()
    assert [said(database, row) for row in added] == [BUSY, BUSY]
    worker.reject(job)
    worker.refresh_queue()
    assert [said(database, row) for row in added] == [IN_LINE, IN_LINE]


def test_a_row_that_is_retried_while_its_user_is_held_says_why_it_waits(
    database: Database, worker: Worker
) -> None:
    rows = [database.insert(user_id=ANN) for _ in range(3)]
    worker.reject(worker.claim_one())
    worker.claim(1, max_in_flight_per_user=1)
    worker.refresh_queue()
    database.sql("select from public.retry_video_job_v1(%s)", rows[0]["id"])
    assert said(database, rows[0]) == IN_LINE
    worker.refresh_queue()
    assert said(database, rows[0]) == BUSY


def test_rows_that_move_up_while_their_user_is_held_say_why_they_wait(
    database: Database, worker: Worker
) -> None:
    """The first five are told; the sixth becomes one of them without the user being told again."""
    rows = [database.insert(user_id=ANN) for _ in range(7)]
    job = worker.claim(1, max_in_flight_per_user=1)[0]
    worker.refresh_queue()
    assert [said(database, row) for row in rows[-2:]] == [BUSY, IN_LINE]
    worker.reject(job)
    worker.claim(1, max_in_flight_per_user=1)
    worker.refresh_queue()
    assert said(database, rows[-1]) == BUSY
