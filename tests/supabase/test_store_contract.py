"""What dispatch and reconcile rely on, held by the real store and by the tests' fake one alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from devstack.postgres import SUPERUSER
from devstack.supabase.app import Gateway, Project
from devstack.supabase.tokens import Keys
from tests.fakes import FakeStore, job_id
from tests.harness import LIMITS, SUBMISSION
from tests.postgres import Database
from worker.jobs.change import Change, SubmissionChange
from worker.jobs.errors import StoreRefused
from worker.jobs.job import Case, Job, SubmissionState
from worker.ports import JobStore, NotBegun, Written
from worker.supabase.store import SupabaseStore, connect

OWNER = "11111111-2222-4333-8444-555555555555"
INSTANTS = {
    "video_jobs": ("lease_expires_at", "available_at", "updated_at", "created_at"),
    "video_job_attempts": (
        "created_at", "submitted_at", "started_at", "ended_at", "expires_at", "missing_since",
        "incomplete_since", "cancel_asked_at", "next_poll_at",
    ),
}  # fmt: skip


class Table(Protocol):
    """A store, and what people and time do to its rows."""

    store: JobStore

    def insert(self, number: int = 1) -> None: ...
    def cancel(self, number: int = 1) -> None: ...
    def delete(self, number: int = 1) -> None: ...
    def pass_time(self, seconds: float) -> None: ...


class FakeTable:
    """The tests' fake."""

    def __init__(self) -> None:
        self.fake = FakeStore(owner=OWNER)
        self.store: JobStore = self.fake

    def insert(self, number: int = 1) -> None:
        self.fake.insert(number)

    def cancel(self, number: int = 1) -> None:
        self.fake.cancel(number)

    def delete(self, number: int = 1) -> None:
        self.fake.delete(number)

    def pass_time(self, seconds: float) -> None:
        self.fake.now += seconds


class RealTable:
    """The migrations on a real Postgres, behind the gateway and the official client."""

    def __init__(self, database: Database, store: SupabaseStore) -> None:
        self.database = database
        self.store: JobStore = store

    def insert(self, number: int = 1) -> None:
        self.database.insert(id=job_id(number))

    def cancel(self, number: int = 1) -> None:
        query = "update public.video_jobs set cancel_requested = true where id = %s"
        self.database.sql(query, job_id(number))

    def delete(self, number: int = 1) -> None:
        self.database.sql("delete from public.video_jobs where id = %s", job_id(number))

    def pass_time(self, seconds: float) -> None:
        """Age every row: what happened is longer ago, what is due is due sooner."""
        with self.database.connect(superuser=True) as admin:
            admin.execute("set session_replication_role = replica")
            for table, columns in INSTANTS.items():
                moved = ", ".join(f"{c} = {c} - make_interval(secs => %s)" for c in columns)
                admin.execute(f"update public.{table} set {moved}", [seconds] * len(columns))


@pytest.fixture(params=["fake", "real"])
async def table(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Table]:
    if request.param == "fake":
        yield FakeTable()
        return
    database: Database = request.getfixturevalue("database")
    gateway = Gateway(
        Project(
            admin_url=database.postgres.url(database.name, user=SUPERUSER),
            authenticator_url=database.postgres.url(database.name, user="authenticator"),
            keys=Keys.load(tmp_path / "keys.json"),
            files=tmp_path / "files",
        )
    )
    transport = httpx.ASGITransport(app=gateway.app)
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=10) as http:
        client = await connect("http://gateway.test", gateway.project.keys.service_role, http)
        yield RealTable(
            database,
            SupabaseStore(
                client, owner=OWNER, lease_seconds=60, poll_seconds=30, endpoint_id="endpoint"
            ),
        )
    await gateway._callers.close()
    await gateway._admin.close()


async def claimed(table: Table, number: int = 1) -> Job:
    """One row that this store's owner holds."""
    (case,) = await table.store.claim(1, LIMITS, holding=[job_id(n) for n in range(number)])
    assert case.job is not None
    return case.job


async def begun(table: Table) -> Case:
    """A claimed row whose submission is committed."""
    table.insert()
    case = await table.store.begin(await claimed(table), SUBMISSION, LIMITS)
    assert isinstance(case, Case)
    return case


async def case_of(table: Table, number: int = 1) -> Case:
    case = await table.store.case(job_id(number))
    assert case is not None
    return case


def change(case: Case, *, attempt: int | None = None, **parts: Any) -> Change:
    """A change decided on this case; `sub` and `sub_instants` are a submission's."""
    subs: tuple[SubmissionChange, ...] = ()
    if attempt is not None:
        subs = (
            SubmissionChange(
                attempt=attempt,
                values=parts.pop("sub", {}),
                instants=parts.pop("sub_instants", {}),
            ),
        )
    revision = None if case.job is None else case.job.revision
    return Change(
        job_id=case.job_id, revision=revision, states=case.states, submissions=subs, **parts
    )


async def write(table: Table, what: Change) -> Written:
    (written,) = await table.store.write([what])
    return written


async def accepted(table: Table, *, run_id: str = "run-1") -> Case:
    """A row whose run is recorded and due to be polled."""
    case = await begun(table)
    written = await write(
        table,
        change(
            case, attempt=1, sub={"state": "queued", "runpod_job_id": run_id},
            sub_instants={"submitted_at": 0.0, "next_poll_at": 0.0},
            job={"status": "submitted", "lease_owner": None, "lease_expires_at": None},
        ),
    )  # fmt: skip
    assert written.took
    return written.case


async def test_a_claim_takes_rows_for_a_lease_and_their_next_attempt(table: Table) -> None:
    for number in (1, 2):
        table.insert(number)
    cases = await table.store.claim(5, LIMITS)
    rows = [case.job for case in cases if case.job is not None]
    assert sorted(row.id for row in rows) == [job_id(1), job_id(2)]
    assert {(row.status.value, row.phase, row.attempt) for row in rows} == {
        ("preparing", "checking_media", 1)
    }
    assert all(row.lease_left is not None and 55 < row.lease_left <= 60 for row in rows)
    assert await table.store.claim(5, LIMITS, holding=[row.id for row in rows]) == []


async def test_a_claim_whose_answer_was_lost_is_handed_out_again(table: Table) -> None:
    table.insert()
    first = await claimed(table)
    table.pass_time(30)
    (case,) = await table.store.claim(1, LIMITS)
    assert case.job is not None
    assert (case.job.id, case.job.attempt) == (first.id, first.attempt)
    assert case.job.lease_left is not None
    assert case.job.lease_left > 55


async def test_a_row_that_has_begun_is_not_handed_out_again(table: Table) -> None:
    await begun(table)
    assert await table.store.claim(1, LIMITS) == []


async def test_a_lease_is_renewed_only_while_it_holds(table: Table) -> None:
    table.insert()
    job = await claimed(table)
    table.pass_time(59)
    assert [row.id for row in await table.store.renew([job.id])] == [job.id]
    row = (await case_of(table)).job
    assert row is not None
    assert row.lease_left is not None
    assert row.lease_left > 55
    table.pass_time(61)
    assert await table.store.renew([job.id]) == []


async def test_a_submission_is_committed_with_its_plan(table: Table) -> None:
    case = await begun(table)
    (sub,) = case.submissions
    assert (sub.state, sub.attempt) == (SubmissionState.SUBMITTING, 1)
    assert (sub.expected_seconds, sub.input_objects) == (1000.0, ("inputs/a",))
    assert 8900 < sub.ttl_left <= 9000
    assert case.submission_count == 1
    assert case.states == {"1": "submitting"}


@pytest.mark.parametrize("why", ["lease", "cancel", "deleted", "twice"])
async def test_a_submission_needs_its_claim(table: Table, why: str) -> None:
    table.insert()
    job = await claimed(table)
    if why == "lease":
        table.pass_time(61)
    elif why == "cancel":
        table.cancel()
    elif why == "deleted":
        table.delete()
    else:
        assert await table.store.begin(job, SUBMISSION, LIMITS) != NotBegun.CLAIM_LOST
    assert await table.store.begin(job, SUBMISSION, LIMITS) is NotBegun.CLAIM_LOST


async def test_a_submission_needs_room_within_the_limit(table: Table) -> None:
    for attempt in (1, 2, 3):
        if attempt == 1:
            table.insert()
        case = await table.store.begin(await claimed(table), SUBMISSION, LIMITS)
        assert isinstance(case, Case)
        state = "refused" if attempt == 1 else "lost"
        back = {"status": "queued", "lease_owner": None, "lease_expires_at": None}
        what = change(case, attempt=attempt, sub={"state": state}, job=back)
        assert (await write(table, what)).took
    (case,) = await table.store.claim(1, LIMITS)
    assert case.job is not None
    assert case.submission_count == 2
    assert isinstance(await table.store.begin(case.job, SUBMISSION, LIMITS), Case)


async def test_a_change_takes_only_on_what_it_was_decided_on(table: Table) -> None:
    case = await accepted(table)
    first = await write(table, change(case, job={"phase": "generating"}))
    assert first.took
    late = await write(table, change(case, job={"phase": "saving"}))
    assert not late.took
    assert late.case.job is not None
    assert late.case.job.phase == "generating"
    other = change(first.case, attempt=1, sub={"state": "running"})
    assert (await write(table, other)).took
    stale = Change(
        job_id=case.job_id, revision=late.case.job.revision, states=case.states,
        job={"phase": "saving"},
    )  # fmt: skip
    assert not (await write(table, stale)).took


async def test_a_write_changes_what_it_names_and_nothing_else(table: Table) -> None:
    case = await accepted(table)
    before = case.job
    assert before is not None
    written = await write(table, change(case, job={"phase_detail": "Hello."}))
    after = written.case.job
    assert after is not None
    assert after.phase_detail == "Hello."
    assert (after.phase, after.runpod_job_id) == (before.phase, before.runpod_job_id)
    assert written.case.states == case.states


async def test_instants_are_seconds_from_now_and_null_clears_them(table: Table) -> None:
    case = await accepted(table)
    what = change(
        case, attempt=1, sub_instants={"missing_since": 0.0, "cancel_asked_at": -5.0},
        sub={"missing_looks": 2}, job={}, job_instants={"started_at": 0.0},
    )  # fmt: skip
    written = await write(table, what)
    (sub,) = written.case.submissions
    assert sub.missing_for is not None
    assert -0.5 <= sub.missing_for < 5
    assert sub.missing_looks == 2
    assert sub.cancel_asked_ago is not None
    assert 4 < sub.cancel_asked_ago < 10
    assert written.case.job is not None
    assert written.case.job.started_at is not None
    cleared = change(written.case, attempt=1, sub_instants={"missing_since": None})
    (sub,) = (await write(table, cleared)).case.submissions
    assert sub.missing_for is None


@pytest.mark.parametrize(
    "parts",
    [
        {"job": {"gpu_type": "5090"}},
        {"job": {"image_url": "https://h/other"}},
        {"job": {"attempt": 7}},
        {"job_instants": {"created_at": 0.0}},
        {"attempt": 1, "sub": {"gpu_type": "5090"}},
        {"attempt": 1, "sub": {"endpoint_id": "other"}},
    ],
)
async def test_a_column_that_the_worker_may_not_write_is_refused_by_name(
    table: Table, parts: dict[str, Any]
) -> None:
    """Loudly: a misspelt column must not be lost in silence."""
    case = await accepted(table)
    names = {name for part in parts.values() if isinstance(part, dict) for name in part}
    with pytest.raises(StoreRefused, match=f"may not write {names.pop()}"):
        await table.store.write([change(case, **parts)])
    assert (await case_of(table)).job == case.job


async def test_one_run_belongs_to_one_submission(table: Table) -> None:
    await accepted(table, run_id="run-1")
    table.insert(2)
    case = await table.store.begin(await claimed(table, 2), SUBMISSION, LIMITS)
    assert isinstance(case, Case)
    with pytest.raises(StoreRefused):
        await table.store.write([change(case, attempt=1, sub={"runpod_job_id": "run-1"})])


async def test_a_refused_write_changes_nothing_of_its_call(table: Table) -> None:
    case = await accepted(table)
    good = change(case, job={"phase": "generating"})
    table.insert(2)
    bad = change(await case_of(table, 2), job={"gpu_type": "5090"})
    with pytest.raises(StoreRefused):
        await table.store.write([good, bad])
    assert (await case_of(table)).job == case.job


async def test_progress_never_falls_and_an_ended_row_stays_ended(table: Table) -> None:
    case = await accepted(table)
    half = (await write(table, change(case, job={"progress": 50}))).case
    lower = (await write(table, change(half, job={"progress": 20}))).case
    assert lower.job is not None
    assert lower.job.progress == 50
    end = change(
        lower, attempt=1, sub={"state": "completed"},
        job={"status": "completed", "video_url": "https://v/v.mp4"},
    )  # fmt: skip
    ended = (await write(table, end)).case
    with pytest.raises(StoreRefused):
        await table.store.write([change(ended, job={"status": "running"})])


async def test_the_cost_of_a_late_run_is_added_to_an_ended_row(table: Table) -> None:
    case = await accepted(table)
    end = change(
        case, attempt=1, sub={"state": "failed"},
        job={"status": "failed", "error_code": "run_failed", "error_message": "It broke."},
    )  # fmt: skip
    ended = (await write(table, end)).case
    paid = await write(table, change(ended, job={"cost_usd": "1.25"}))
    assert paid.took
    assert paid.case.job is not None
    assert (paid.case.job.status.value, paid.case.job.cost_usd) == ("failed", Decimal("1.25"))


@pytest.mark.parametrize("when", ["waiting", "claimed", "running"])
async def test_a_cancel_ends_a_row_that_nobody_works_on(table: Table, when: str) -> None:
    if when == "waiting":
        table.insert()
    elif when == "claimed":
        table.insert()
        await claimed(table)
    else:
        await accepted(table)
    table.cancel()
    job = (await case_of(table)).job
    assert job is not None
    assert job.cancel_requested
    expected = "cancelled" if when == "waiting" else {"claimed": "preparing"}.get(when, "submitted")
    assert job.status.value == expected
    assert job.phase == ("done" if when == "waiting" else "cancelling")


async def test_due_polls_are_shared_out_and_a_cancel_makes_them_due(table: Table) -> None:
    await accepted(table)
    (case,) = await table.store.take_due(10)
    assert case.job_id == job_id(1)
    assert await table.store.take_due(10) == []
    table.cancel()
    assert [due.job_id for due in await table.store.take_due(10)] == [job_id(1)]
    table.pass_time(31)
    assert [due.job_id for due in await table.store.take_due(10)] == [job_id(1)]
    pages = await table.store.take_due(10, everything_after="")
    assert [due.job_id for due in pages] == [job_id(1)]
    assert await table.store.take_due(10, everything_after=job_id(1)) == []


async def test_a_deleted_rows_run_is_a_case_without_a_job(table: Table) -> None:
    await accepted(table)
    table.delete()
    (case,) = await table.store.take_due(10)
    assert (case.job_id, case.job, case.states) == (job_id(1), None, {"1": "queued"})


async def test_what_no_poll_brings_up_is_stranded(table: Table) -> None:
    table.insert(1)
    await claimed(table)
    assert await table.store.stranded(10) == []
    table.pass_time(61)
    (case,) = await table.store.stranded(10)
    assert case.job is not None
    assert case.job.lease_left is not None
    assert case.job.lease_left < 0
    assert await table.store.stranded(10, after=job_id(1)) == []


async def test_a_lost_sender_is_stranded_even_without_its_row(table: Table) -> None:
    await begun(table)
    table.delete()
    assert await table.store.stranded(10) == []
    table.pass_time(121)
    (case,) = await table.store.stranded(10)
    assert (case.job, case.states) == (None, {"1": "submitting"})


async def test_a_row_that_runs_without_any_open_submission_is_stranded_after_a_minute(
    table: Table,
) -> None:
    """Somebody emptied the other table, or ended its rows by hand."""
    case = await accepted(table)
    assert (await write(table, change(case, attempt=1, sub={"state": "failed"}))).took
    assert (await write(table, change(await case_of(table), job={"phase": "generating"}))).took
    assert await table.store.stranded(10) == []
    table.pass_time(61)
    assert [found.job_id for found in await table.store.stranded(10)] == [job_id(1)]


async def test_a_move_that_the_guard_does_not_know_is_refused(table: Table) -> None:
    case = await accepted(table)
    with pytest.raises(StoreRefused):
        await table.store.write([change(case, job={"status": "preparing"})])
