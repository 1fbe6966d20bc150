"""The doorbell at the local stack: from a row changed by plain SQL to a ring."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from devstack.postgres import Postgres
from devstack.stack import Stack
from tests.supabase.realtime_ears import Ears, listening, until
from worker.supabase.realtime import RingKind

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
    """Run one statement as the database's owner, like psql, or as the worker's functions do."""
    async with await psycopg.AsyncConnection.connect(stack.database_url) as link:
        await link.execute("select set_config('video_jobs.writer', %s, true)", [writer])
        cursor = await link.execute(text.encode(), values)
        row = await cursor.fetchone() if cursor.description else None
        return str(row[0]) if row else ""


async def rings_within_a_second(stack: Stack, ears: Ears) -> None:
    """One ring may be late or lost, by Realtime's nature; three in a row may not."""
    for _ in range(3):
        job_id = await sql(stack, INSERT)
        try:
            async with asyncio.timeout(1):
                while (await ears.rings.get()).job_id != job_id:
                    pass
        except TimeoutError:
            continue
        return
    pytest.fail("no row rang within a second")


@pytest.mark.parametrize("kind", ["service_role", "secret"])
async def test_a_row_inserted_by_sql_rings_within_a_second_for_both_kinds_of_key(stack, kind):
    async with listening(stack.url, getattr(stack.keys, kind)) as ears:
        await ears.ready()
        await rings_within_a_second(stack, ears)


async def test_cancel_retry_and_delete_ring_and_progress_does_not(stack):
    async with listening(stack.url, stack.keys.service_role) as ears:
        await ears.ready()
        job_id = await sql(stack, INSERT)
        assert (await ears.ring()).kind is RingKind.INSERT
        update = "update public.video_jobs set {} where id = %s"
        for columns in ("status = 'preparing', attempt = 1", "progress = 10", "progress = 20"):
            await sql(stack, update.format(columns), job_id, writer="worker")
        await sql(stack, update.format("cancel_requested = true"), job_id)
        ring = await ears.ring()
        assert (ring.kind, ring.job_id) == (RingKind.CANCEL, job_id), "nothing rang in between"
        await sql(stack, "delete from public.video_jobs where id = %s", job_id)
        ring = await ears.ring()
        assert (ring.kind, ring.job_id) == (RingKind.DELETE, job_id)
        assert ears.rings.empty()


async def test_a_status_set_back_to_queued_rings_as_a_retry(stack):
    async with listening(stack.url, stack.keys.service_role) as ears:
        await ears.ready()
        job_id = await sql(stack, INSERT)
        await ears.ring()
        await sql(stack, "update public.video_jobs set status = 'cancelled' where id = %s", job_id)
        assert (await ears.ring()).kind is RingKind.CANCEL
        await sql(stack, "update public.video_jobs set status = 'queued' where id = %s", job_id)
        ring = await ears.ring()
        assert (ring.kind, ring.job_id) == (RingKind.RETRY, job_id)


@pytest.mark.parametrize(
    "fault", ["cut", "closed 1012", "system error", "token expired", "frozen", "joins refused"]
)
async def test_the_doorbell_comes_back_after_each_fault_of_the_gateway(stack, fault):
    hub = stack.gateway.realtime
    async with listening(stack.url, stack.keys.service_role) as ears:
        await ears.ready()
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
            await until(lambda: ears.bell.rebuilds > 0)
            hub.apply({"freeze": False})
        else:
            hub.apply({"refuse_joins": "UnableToConnectToProject: no"})
            await hub.drop()
            await until(lambda: ears.bell.rebuilds > 3)
            hub.apply({"refuse_joins": None})
        await ears.ready()
        await rings_within_a_second(stack, ears)


async def test_a_swallowed_row_is_reported_by_the_sweep_and_the_doorbell_recovers(stack):
    hub = stack.gateway.realtime
    async with listening(stack.url, stack.keys.service_role) as ears:
        await ears.ready()
        hub.apply({"mute": True})
        await sql(stack, INSERT)
        await until(lambda: hub.lost == 1)
        hub.apply({"mute": False})
        for _ in range(3):
            ears.bell.missed()
        await ears.ready()
        await rings_within_a_second(stack, ears)


async def test_a_table_outside_the_publication_is_told_and_heals_when_it_is_added(stack):
    await sql(stack, "alter publication supabase_realtime drop table public.video_jobs")
    async with listening(stack.url, stack.keys.service_role) as ears:
        await until(lambda: len(ears.troubles) > 4)
        assert "Please check Realtime is enabled" in str(ears.troubles)
        assert ears.readies.empty()
        await sql(stack, "alter publication supabase_realtime add table public.video_jobs")
        await ears.ready()
        await rings_within_a_second(stack, ears)


async def test_a_wrong_key_is_told_in_words_that_help(stack):
    async with listening(stack.url, "sb_secret_wrong") as ears:
        await until(lambda: len(ears.troubles) > 2)
        assert "HTTP 401: check SUPABASE_SERVICE_ROLE_KEY" in str(ears.troubles)
