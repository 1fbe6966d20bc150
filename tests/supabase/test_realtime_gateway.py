"""The listener at the local stack: from a row changed by plain SQL to a hint."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from realtime import AsyncRealtimeClient
from realtime.types import RealtimeChannelOptions

from devstack.postgres import Postgres
from devstack.stack import Stack
from tests.supabase.heard import PATIENT, Heard, listening, until
from worker.supabase.realtime import HintKind

# The library reads attributes that its own websockets release has deprecated.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:ConnectionClosed\.(code|reason) is deprecated:DeprecationWarning"
)
INSERT = """
insert into public.video_jobs (image_url, audio_url)
values ('https://x.example/i.png', 'https://x.example/a.wav') returning id::text
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    server.start()
    yield server
    server.remove()


@pytest.fixture
async def stack(postgres: Postgres) -> AsyncIterator[Stack]:
    async with Stack(postgres=postgres, runpod=False) as running:
        yield running


async def sql(stack: Stack, text: str, *values: object, writer: str = "") -> str:
    """Run one statement as the database's owner, or with `writer` as the worker's functions do."""
    async with await psycopg.AsyncConnection.connect(stack.database_url) as link:
        await link.execute("select set_config('video_jobs.writer', %s, true)", [writer])
        cursor = await link.execute(text.encode(), values)
        row = await cursor.fetchone() if cursor.description else None
        return str(row[0]) if row else ""


async def hears_within_a_second(stack: Stack, heard: Heard) -> None:
    """Check that one of three inserts is heard quickly; Realtime may delay or lose a single one."""
    for _ in range(3):
        job_id = await sql(stack, INSERT)
        try:
            async with asyncio.timeout(1):
                while (await heard.hints.get()).job_id != job_id:
                    pass
        except TimeoutError:
            continue
        return
    pytest.fail("no row was heard of within a second")


@pytest.mark.parametrize("kind", ["service_role", "secret"])
async def test_a_row_inserted_by_sql_is_heard_within_a_second_with_both_kinds_of_key(stack, kind):
    async with listening(stack.url, getattr(stack.keys, kind)) as heard:
        await heard.ready()
        await hears_within_a_second(stack, heard)


async def test_cancel_retry_and_delete_give_hints_and_progress_does_not(stack):
    async with listening(stack.url, stack.keys.service_role) as heard:
        await heard.ready()
        job_id = await sql(stack, INSERT)
        assert (await heard.hint()).kind is HintKind.INSERT
        update = "update public.video_jobs set {} where id = %s"
        for columns in ("status = 'preparing', attempt = 1", "progress = 10", "progress = 20"):
            await sql(stack, update.format(columns), job_id, writer="worker")
        await sql(stack, update.format("cancel_requested = true"), job_id)
        hint = await heard.hint()
        assert (hint.kind, hint.job_id) == (HintKind.CANCEL, job_id), "no hint in between"
        await sql(stack, "delete from public.video_jobs where id = %s", job_id)
        hint = await heard.hint()
        assert (hint.kind, hint.job_id) == (HintKind.DELETE, job_id)
        assert heard.hints.empty()


async def test_a_status_set_back_to_queued_is_heard_as_a_retry(stack):
    async with listening(stack.url, stack.keys.service_role) as heard:
        await heard.ready()
        job_id = await sql(stack, INSERT)
        await heard.hint()
        await sql(stack, "update public.video_jobs set status = 'cancelled' where id = %s", job_id)
        assert (await heard.hint()).kind is HintKind.CANCEL
        await sql(stack, "update public.video_jobs set status = 'queued' where id = %s", job_id)
        hint = await heard.hint()
        assert (hint.kind, hint.job_id) == (HintKind.RETRY, job_id)


@pytest.mark.parametrize(
    "fault", ["cut", "closed 1012", "system error", "token expired", "frozen", "joins refused"]
)
async def test_the_listener_recovers_from_each_fault_of_the_gateway(stack, fault):
    hub = stack.gateway.realtime
    async with listening(stack.url, stack.keys.service_role) as heard:
        await heard.ready()
        if fault == "cut":
            await hub.drop()
        elif fault == "closed 1012":
            await hub.drop(1012)
        elif fault == "system error":
            hub.system_error("Too many database timeouts", fatal=False)
        elif fault == "token expired":
            hub.system_error("Token has expired 0 seconds ago", fatal=True)
        elif fault == "frozen":
            hub.apply({"freeze": True})
            await until(lambda: heard.listener.rebuilds > 0)
            hub.apply({"freeze": False})
        else:
            hub.apply({"refuse_joins": "UnableToConnectToProject: no"})
            await hub.drop()
            await until(lambda: heard.listener.rebuilds > 3)
            hub.apply({"refuse_joins": None})
        await heard.ready()
        await hears_within_a_second(stack, heard)


async def test_a_lost_event_is_reported_by_the_sweep_and_the_listener_recovers(stack):
    hub = stack.gateway.realtime
    async with listening(stack.url, stack.keys.service_role) as heard:
        await heard.ready()
        hub.apply({"mute": True})
        await sql(stack, INSERT)
        await until(lambda: hub.lost == 1)
        hub.apply({"mute": False})
        for _ in range(3):
            heard.listener.missed()
        await heard.ready()
        await hears_within_a_second(stack, heard)


async def test_a_deaf_worker_says_so_until_it_hears_again(stack):
    hub = stack.gateway.realtime
    async with listening(stack.url, stack.keys.service_role) as heard:
        await heard.ready()
        hub.apply({"mute": True})
        for number in range(1, 4):
            await sql(stack, INSERT)
            await until(lambda number=number: hub.lost == number)  # type: ignore[misc]
            heard.listener.missed()
        await heard.ready()
        assert "the last 3 new rows came without an event" in str(heard.listener.problem)
        hub.apply({"mute": False})
        await hears_within_a_second(stack, heard)
        assert heard.listener.problem is None


async def test_a_stranger_with_the_anon_key_cannot_reach_the_workers_channel(stack):
    """Not by any name that the code shows, and not by size."""
    topics = ["video_jobs-worker", "video_jobs", "video_jobs-worker-", "*", "phoenix"]
    async with listening(stack.url, stack.keys.service_role, timings=PATIENT) as heard:
        await heard.ready()
        stranger = AsyncRealtimeClient(f"{stack.url}/realtime/v1", stack.keys.anon)
        await stranger.connect()
        echoes: asyncio.Queue[object] = asyncio.Queue()
        for topic in topics:
            params: RealtimeChannelOptions = {
                "config": {"broadcast": {"self": True}, "presence": None, "private": False}
            }
            channel = stranger.channel(topic, params)
            channel.on_broadcast("INSERT", echoes.put_nowait)
            await channel.subscribe()
            for size in (10, 900_000):
                await channel.send_broadcast("INSERT", {"record": {"id": "x" * size}})
        async with asyncio.timeout(60):
            for _ in range(2 * len(topics)):
                await echoes.get()
        job_id = await sql(stack, INSERT)
        assert (await heard.hint()).job_id == job_id, "nothing was heard before it"
        assert heard.readies.empty()
        assert heard.listener.sessions == 1
        await stranger.close()


async def test_a_table_outside_the_publication_is_reported_and_works_once_it_is_added(stack):
    await sql(stack, "alter publication supabase_realtime drop table public.video_jobs")
    async with listening(stack.url, stack.keys.service_role) as heard:
        await until(lambda: len(heard.failures) > 4)
        assert "Please check Realtime is enabled" in str(heard.failures)
        assert heard.readies.empty()
        await sql(stack, "alter publication supabase_realtime add table public.video_jobs")
        await heard.ready()
        await hears_within_a_second(stack, heard)


async def test_a_wrong_key_is_reported_with_the_setting_to_check(stack):
    async with listening(stack.url, "sb_secret_wrong") as heard:
        await until(lambda: len(heard.failures) > 2)
        assert "HTTP 401: check SUPABASE_SERVICE_ROLE_KEY" in str(heard.failures)
