"""Several sessions at once: limits of users hold all the time, and counts are right in the end."""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from uuid import UUID, uuid4

import psycopg

from tests.postgres import Database, Row
from tests.sql.test_line import MISSING, WRONG
from tests.sql.worker import ENDPOINT, LIMITS, USER_LIMITS, Worker

MOST = 2
STEPS = 150
USERS = [uuid4() for _ in range(4)]
NAMES = "insert insert claim claim begin record end release cancel retry delete lock recount"
OVER = """
select u.user_id, x.in_flight from public.video_job_users u
cross join lateral public.video_job_usage_v1(u.user_id) x where x.in_flight > %s
"""
# In between another session may have taken the row, or ended it.
OVERTAKEN = (psycopg.errors.RaiseException, AssertionError)


class Session:
    """One of those who work at the same time; what it does is drawn from its seed."""

    def __init__(self, database: Database, seed: int) -> None:
        self.connection = database.connect()
        self.database = Database(
            postgres=database.postgres, name=database.name, connection=self.connection
        )
        self.worker = Worker(connection=self.connection, crowded=True)
        self.random = random.Random(seed)
        self.over: list[Row] = []
        self.errors: list[psycopg.Error] = []

    def run(self) -> None:
        try:
            with self.connection:
                for _ in range(STEPS):
                    self.step(self.random.choice(NAMES.split()))
                    self.over += self.database.sql(OVER, MOST)
        except psycopg.Error as error:
            self.errors.append(error)

    def step(self, name: str) -> None:
        with suppress(*OVERTAKEN):
            self.do(name)

    def any_row(self, condition: str) -> Row | None:
        statement = (
            f"select j.* from public.video_jobs j where {condition} order by random() limit 1"
        )
        return next(iter(self.database.sql(statement)), None)

    def do(self, name: str) -> None:
        user = self.random.choice(USERS)
        if name == "insert":
            self.database.insert(user_id=user)
        elif name == "claim":
            claim(self.worker, self.random.randint(1, 4))
        elif name == "recount":
            self.worker("recount_video_job_users_v1", p_want=10)
        elif name == "lock":
            self.lock(user)
        else:
            self.move(name)

    def lock(self, user: UUID) -> None:
        """Hold a user's row while other sessions work."""
        with self.connection.transaction():
            self.database.sql(
                "select from public.video_job_users where user_id = %s for update", user
            )
            self.connection.execute("select pg_sleep(0.02)")

    def move(self, name: str) -> None:
        sending = (
            "exists (select from public.video_job_attempts a where a.job_id = j.id"
            " and a.state = 'submitting')"
        )
        preparing = "j.status = 'preparing' and j.lease_owner is not null"
        conditions = {
            "begin": f"{preparing} and not {sending}",
            "release": f"{preparing} and not {sending}",
            "record": f"{preparing} and {sending}",
            "end": "j.status = 'submitted'",
            "cancel": "j.status in ('queued', 'preparing', 'submitted')",
            "delete": "j.status in ('queued', 'preparing', 'failed')",
            "retry": "j.status in ('failed', 'cancelled')",
        }
        job = self.any_row(conditions[name])
        if job is None:
            return
        if name == "begin":
            Worker(connection=self.connection, owner=job["lease_owner"]).begin(job)
        elif name == "record":
            self.worker.record(job, f"run-{uuid4()}")
        elif name == "release":
            self.worker.release(job)
        elif name == "end":
            self.worker.end_run(job["id"], job["attempt"], "failed", status="failed",
                                error_code="x")  # fmt: skip
        else:
            statement = {
                "cancel": "update public.video_jobs set cancel_requested = true where id = %s",
                "delete": "delete from public.video_jobs where id = %s",
                "retry": "select from public.retry_video_job_v1(%s)",
            }[name]
            self.database.sql(statement, job["id"])


def claim(worker: Worker, want: int) -> None:
    worker("claim_video_jobs_v1", p_owner=worker.owner, p_want=want, p_lease_seconds=60,
           p_endpoint_id=ENDPOINT, **LIMITS)  # fmt: skip


def test_limits_hold_and_counts_are_right_however_sessions_interleave(
    database: Database, worker: Worker
) -> None:
    limits = USER_LIMITS.as_row() | {"max_in_flight_per_user": MOST}
    worker("set_video_job_limits_v1", p_limits=limits)
    sessions = [Session(database, seed) for seed in range(5)]
    threads = [threading.Thread(target=session.run) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error for session in sessions for error in session.errors] == []
    assert [row for session in sessions for row in session.over] == []
    claim(worker, 0)
    assert database.sql("select user_id from public.video_job_stale_users") == []
    assert database.sql(WRONG) == []
    assert database.sql(MISSING) == []
