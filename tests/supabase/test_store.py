"""The store against the real functions, through the gateway and the official client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.postgres import SUPERUSER, free_port
from devstack.supabase.app import Gateway, Project
from devstack.supabase.tokens import Keys
from tests.postgres import Database
from worker.jobs.change import Change, SubmissionChange
from worker.jobs.errors import StoreRefused, StoreUnavailable
from worker.jobs.job import Case, Job, JobStatus, SubmissionState
from worker.ports import ClaimLimits, NewSubmission
from worker.supabase.store import SupabaseStore, connect

LIMITS = ClaimLimits(
    max_in_flight=20,
    max_queued_runs=20,
    max_preparing=12,
)
SUBMISSION = NewSubmission(
    max_submissions=3,
    endpoint_id="abc123",
    ttl_seconds=7200,
    template_hash="hash",
    plan={"expected_seconds": 100},
    columns={"frames": 81, "warnings": [{"code": "c", "message": "Größe"}]},
    input_objects=("inputs/a", "inputs/b"),
)
NewStore = Callable[..., AbstractAsyncContextManager[SupabaseStore]]


@pytest.fixture
async def gateway(database: Database, tmp_path: Path) -> AsyncIterator[Gateway]:
    """The gateway in this process, without its socket."""
    gateway = Gateway(
        Project(
            admin_url=database.postgres.url(database.name, user=SUPERUSER),
            authenticator_url=database.postgres.url(database.name, user="authenticator"),
            keys=Keys.load(tmp_path / "keys.json"),
            files=tmp_path / "files",
        )
    )
    yield gateway
    await close(gateway)


async def close(gateway: Gateway) -> None:
    """Release the database; the gateway's whole life would need a replication slot."""
    await gateway._callers.close()
    await gateway._admin.close()


@asynccontextmanager
async def store_at(
    url: str, key: str, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[SupabaseStore]:
    """A store whose requests go to a URL, or to a transport of the test."""
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=10) as http:
        client = await connect(url, key, http)
        yield SupabaseStore(
            client,
            owner="11111111-2222-4333-8444-555555555555",
            lease_seconds=60,
            poll_seconds=30,
            endpoint_id="abc123",
        )


@pytest.fixture
def new_store(gateway: Gateway) -> NewStore:
    """Makes stores that reach the gateway with a key, by default the service role's."""

    def make(key: str | None = None) -> AbstractAsyncContextManager[SupabaseStore]:
        transport = httpx.ASGITransport(app=gateway.app)
        return store_at("http://gateway.test", key or gateway.project.keys.service_role, transport)

    return make


@pytest.fixture
async def store(new_store: NewStore) -> AsyncIterator[SupabaseStore]:
    async with new_store() as store:
        yield store


async def claimed(store: SupabaseStore) -> Job:
    (case,) = await store.claim(1, LIMITS)
    assert case.job is not None
    return case.job


async def submitted(store: SupabaseStore) -> Job:
    job = await claimed(store)
    case = await store.begin(job, SUBMISSION, LIMITS)
    assert isinstance(case, Case)
    assert case.job is not None
    part = SubmissionChange(
        attempt=job.attempt, values={"state": "queued", "runpod_job_id": f"run-{job.id}"},
        instants={"submitted_at": 0.0, "next_poll_at": 0.0},
    )  # fmt: skip
    change = Change(
        job_id=job.id, revision=case.job.revision, states=case.states, submissions=(part,),
        job={"status": "submitted", "lease_owner": None, "lease_expires_at": None},
    )  # fmt: skip
    (written,) = await store.write([change])
    assert written.took
    return job


async def test_a_job_goes_the_whole_way(database: Database, store: SupabaseStore) -> None:
    """Claim, begin, write, poll, write: each answer holds what a decision needs."""
    row = database.insert(metadata={"model": "m"}, width=720, height=1280)
    job = await claimed(store)
    assert (job.id, job.status, job.attempt) == (str(row["id"]), JobStatus.PREPARING, 1)
    assert (job.width, job.metadata) == (720, {"model": "m"})
    assert [held.id for held in await store.renew([job.id])] == [job.id]
    begun = await store.begin(job, SUBMISSION, LIMITS)
    assert isinstance(begun, Case)
    assert begun.submission_count == 1
    assert begun.job is not None
    part = SubmissionChange(
        attempt=1,
        values={"state": "queued", "runpod_job_id": "run-1"},
        instants={"submitted_at": 0.0, "next_poll_at": -1.0},
    )
    accepted = Change(
        job_id=job.id, revision=begun.job.revision, states={"1": "submitting"},
        job={"status": "submitted"}, submissions=(part,),
    )  # fmt: skip
    (written,) = await store.write([accepted])
    assert written.took
    (sub,) = written.case.submissions
    assert (sub.state, sub.runpod_job_id) == (SubmissionState.QUEUED, "run-1")
    assert (sub.input_objects, sub.expected_seconds) == (("inputs/a", "inputs/b"), 100.0)
    assert 7000 < sub.ttl_left <= 7200
    (case,) = await store.take_due(10)
    assert case.job is not None
    done = Change(
        job_id=job.id,
        revision=case.job.revision,
        states=case.states,
        job={"status": "completed", "phase": "done", "video_url": "https://v.example/v.mp4"},
        job_instants={"completed_at": 0.0},
        submissions=(
            SubmissionChange(attempt=1, values={"state": "completed"}, instants={"ended_at": 0.0}),
        ),
    )
    (written,) = await store.write([done])
    assert written.took
    assert written.case.job is not None
    assert written.case.job.status is JobStatus.COMPLETED
    (again,) = await store.write([done])
    assert not again.took
    assert database.job(job.id)["warnings"] == [{"code": "c", "message": "Größe"}]


async def test_nothing_to_do_is_empty_answers(store: SupabaseStore) -> None:
    assert await store.claim(5, LIMITS) == []
    assert await store.stranded(5) == []
    assert await store.renew([]) == []
    assert await store.take_due(5) == []
    assert await store.take_due(5, everything_after="") == []
    assert await store.write([]) == []
    assert await store.refresh_queue(10, {}) == 0
    assert await store.count() == {}
    await store.prune(30)


async def test_what_does_not_exist_is_none(store: SupabaseStore) -> None:
    assert await store.case("99999999-9999-4999-8999-999999999999") is None


async def test_a_row_that_cannot_be_read_is_set_aside_and_the_others_go_on(
    database: Database, store: SupabaseStore
) -> None:
    """A newer worker's status, or what a hand wrote: never a reason to end the process."""
    for _ in range(3):
        database.insert()
        await submitted(store)
    (odd, *_) = (row["job_id"] for row in database.sql("select job_id from video_job_attempts"))
    database.sql("update public.video_job_attempts set plan = '[1]'")
    check = "submission_state_is_not_one_of_ours"
    database.sql(f"alter table public.video_job_attempts drop constraint {check}")
    columns = "job_id, attempt, try_number, endpoint_id, state, expires_at"
    values = "%s, 9, 1, 'e', 'resting', now()"
    database.sql(f"insert into public.video_job_attempts ({columns}) values ({values})", odd)
    found = {case.job_id: case for case in await store.take_due(10)}
    assert len(found) == 3, "the page keeps its length, so that the next one is asked for"
    assert (found[str(odd)].job, found[str(odd)].submissions) == (None, ())
    assert all(case.job is not None for key, case in found.items() if key != str(odd))
    odd_case = await store.case(str(odd))
    assert odd_case is not None
    assert odd_case.job is None


async def test_start_up_pages_through_all_open_runs(
    database: Database, store: SupabaseStore
) -> None:
    for _ in range(5):
        database.insert()
        await submitted(store)
    found: list[str] = []
    while page := await store.take_due(2, everything_after=found[-1] if found else ""):
        found += [case.job_id for case in page]
    assert found == sorted(str(row["id"]) for row in database.sql("select id from video_jobs"))


async def test_a_deleted_jobs_runs_come_as_a_case_without_a_job(
    database: Database, store: SupabaseStore
) -> None:
    database.insert()
    job = await submitted(store)
    database.sql("delete from public.video_jobs")
    (case,) = await store.take_due(5)
    assert (case.job_id, case.job, case.states) == (job.id, None, {"1": "queued"})


async def test_waiting_jobs_are_counted_by_status(database: Database, store: SupabaseStore) -> None:
    for _ in range(3):
        database.insert()
    await submitted(store)
    counts = await store.count()
    assert {status: jobs for status, (jobs, _) in counts.items()} == {"queued": 2, "submitted": 1}
    assert all(oldest >= 0 for _, oldest in counts.values())


async def test_one_write_against_the_rules_is_refused_not_unavailable(
    database: Database, store: SupabaseStore
) -> None:
    """By a constraint and by the trigger; waiting would not help either."""
    database.insert()
    job = await submitted(store)
    for values, said in (
        ({"status": "completed"}, "completed_needs_a_video_url"),
        ({"status": "preparing"}, "cannot go from submitted to preparing"),
        ({"progress": "many"}, "invalid input syntax"),
    ):
        case = await store.case(job.id)
        assert case is not None
        assert case.job is not None
        change = Change(job_id=job.id, revision=case.job.revision, states=case.states, job=values)
        with pytest.raises(StoreRefused, match=said):
            await store.write([change])


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
@pytest.mark.parametrize("body", [None, {"message": "upstream"}, "<html>Bad gateway</html>"])
async def test_a_5xx_of_any_shape_is_an_outage(
    gateway: Gateway, store: SupabaseStore, status: int, body: Any
) -> None:
    gateway.faults.add(
        {"path": "/rest/v1/rpc/", "action": "status", "when": "before", "status": status}
        | ({} if body is None else {"body": body})
    )
    with pytest.raises(StoreUnavailable):
        await store.stranded(5)


async def test_a_wrong_key_names_the_setting(new_store: NewStore, gateway: Gateway) -> None:
    """The anon key is a key of this project, but may call nothing."""
    for key in ("sb_secret_wrong", gateway.project.keys.anon):
        async with new_store(key) as store:
            with pytest.raises(StoreUnavailable, match="SUPABASE_SERVICE_ROLE_KEY"):
                await store.stranded(5)


@pytest.mark.parametrize("kind", ["service_role", "secret"])
async def test_both_kinds_of_service_key_work(
    database: Database, new_store: NewStore, gateway: Gateway, kind: str
) -> None:
    database.insert()
    async with new_store(getattr(gateway.project.keys, kind)) as store:
        assert len(await store.claim(1, LIMITS)) == 1


async def test_a_database_without_the_migrations_says_so(gateway: Gateway, tmp_path: Path) -> None:
    empty = Gateway(
        Project(
            admin_url=gateway.project.admin_url,
            authenticator_url=gateway.project.authenticator_url.rsplit("/", 1)[0] + "/postgres",
            keys=gateway.project.keys,
            files=tmp_path / "none",
        )
    )
    transport = httpx.ASGITransport(app=empty.app)
    async with store_at("http://gateway.test", empty.project.keys.service_role, transport) as store:
        with pytest.raises(StoreUnavailable, match="run the migrations"):
            await store.stranded(5)
    await close(empty)


def raising(error: Exception) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    return httpx.MockTransport(answer)


@pytest.mark.parametrize(
    "transport",
    [
        None,
        raising(httpx.ReadTimeout("slow")),
        raising(httpx.ConnectTimeout("slow")),
        raising(httpx.RemoteProtocolError("cut")),
        raising(httpx.ReadError("reset")),
    ],
)
async def test_a_connection_that_breaks_is_an_outage(
    transport: httpx.AsyncBaseTransport | None,
) -> None:
    async with store_at(f"http://127.0.0.1:{free_port()}", "key", transport) as store:
        with pytest.raises(StoreUnavailable, match="Supabase does not answer"):
            await store.stranded(5)


async def test_functions_of_another_version_are_named_as_such() -> None:
    """A database of 0.1 answers a claim with rows; nothing of it may be guessed."""
    row = {"id": "99999999-9999-4999-8999-999999999999", "status": "preparing"}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[row]))
    async with store_at("http://gateway.test", "key", transport) as store:
        with pytest.raises(StoreUnavailable, match="run the migrations"):
            await store.claim(1, LIMITS)


@pytest.mark.parametrize("body", [b"<html>", b"null", b'{"message": "hello"}', b"[1]"])
@pytest.mark.parametrize("ask", ["stranded", "claim", "take_due", "case"])
async def test_an_answer_that_is_not_ours_is_an_outage(body: bytes, ask: str) -> None:
    """A proxy's page with status 200, for example."""
    arguments = {"stranded": (1,), "claim": (1, LIMITS), "take_due": (1,), "case": ("x",)}[ask]
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    async with store_at("http://gateway.test", "key", transport) as store:
        with pytest.raises(StoreUnavailable):
            await getattr(store, ask)(*arguments)


async def test_a_server_that_is_restarted_is_an_outage_and_then_works(
    database: Database, store: SupabaseStore, gateway: Gateway
) -> None:
    """The sessions that PostgREST held are gone; the next request makes new ones."""
    await store.stranded(5)
    with database.connect(superuser=True) as admin:
        admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where usename = 'authenticator' and datname = current_database()"
        )
    for _ in range(5):
        try:
            assert await store.stranded(5) == []
            return
        except StoreUnavailable:
            await asyncio.sleep(0)
    pytest.fail("the store did not come back")
