"""The Realtime part, judged by the unmodified supabase-py client, and its faults on request."""

import asyncio

import pytest

pytestmark = pytest.mark.filterwarnings(
    # realtime-py reads attributes that its own websockets release has deprecated.
    r"ignore:ConnectionClosed\.(code|reason) is deprecated:DeprecationWarning"
)


class Ear:
    """A supabase-py channel whose events and states are kept."""

    def __init__(self, client, name: str = "ear") -> None:
        self.channel = client.channel(name)
        self.events: asyncio.Queue = asyncio.Queue()
        self.states: asyncio.Queue = asyncio.Queue()
        self.ready = asyncio.Event()
        self.channel.on_system(lambda payload: self.ready.set())

    async def listen(self, event="*", table="video_jobs", **more) -> "Ear":
        self.channel.on_postgres_changes(
            event, self.events.put_nowait, table=table, schema="public", **more
        )
        await self.channel.subscribe(lambda state, error: self.states.put_nowait(state.name))
        return self

    async def event(self) -> dict:
        async with asyncio.timeout(5):
            return (await self.events.get())["data"]

    async def state(self, wanted: str) -> None:
        async with asyncio.timeout(10):
            while await self.states.get() != wanted:
                pass

    async def hears(self) -> None:
        async with asyncio.timeout(10):
            await self.ready.wait()


@pytest.fixture
async def ear(service):
    made = await Ear(service).listen()
    await made.hears()
    return made


async def set_controls(gateway, http, **values) -> dict:
    answer = await http.put(f"{gateway.control_url}/realtime", json=values)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_row_written_by_plain_sql_gives_an_event(ear, sql):
    sql("insert into public.video_jobs (status) values ('queued')")
    data = await ear.event()
    assert (data["type"], data["record"]["status"]) == ("INSERT", "queued")


async def test_the_client_gets_events_of_its_own_writes_and_filters_work(service, sql):
    ear = await Ear(service).listen("UPDATE", filter="status=eq.cancelled")
    await ear.hears()
    made = (await service.table("video_jobs").insert({"status": "queued"}).execute()).data[0]
    change = service.table("video_jobs")
    await change.update({"status": "running"}).eq("id", made["id"]).execute()
    await change.update({"status": "cancelled"}).eq("id", made["id"]).execute()
    data = await ear.event()
    assert (data["type"], data["record"]["status"]) == ("UPDATE", "cancelled")
    assert ear.events.empty()


async def test_a_signed_in_user_gets_events_of_own_rows_only(user, service, sql):
    me = (await user.auth.get_user()).user.id
    ear = await Ear(user).listen(table="notes")
    await ear.hears()
    sql("insert into public.notes (user_id, body) values (gen_random_uuid(), 'theirs')")
    sql("insert into public.notes (user_id, body) values (%s, 'mine')", me)
    assert (await ear.event())["record"]["body"] == "mine"


@pytest.mark.parametrize("drop", [True, 1000, 1001, 1012])
async def test_a_dropped_socket_reconnects_and_misses_the_events_in_between(
    ear, sql, gateway, http, drop
):
    ear.ready.clear()
    await set_controls(gateway, http, drop=drop, system_delay=0.3)
    sql("insert into public.video_jobs (status) values ('missed')")
    await ear.hears()
    sql("insert into public.video_jobs (status) values ('heard')")
    assert (await ear.event())["record"]["status"] == "heard"


async def test_muted_and_lossy_lose_events_silently(ear, sql, gateway, http):
    await set_controls(gateway, http, mute=True)
    sql("insert into public.video_jobs (frames) values (1)")
    async with asyncio.timeout(5):
        while (await http.get(f"{gateway.control_url}/realtime")).json()["lost"] < 1:
            await asyncio.sleep(0.01)
    await set_controls(gateway, http, mute=False, lossy=0.5, seed=3)
    sql("insert into public.video_jobs (frames) select generate_series(2, 101)")
    sql("select 1")
    async with asyncio.timeout(5):
        state = {"lost": 0, "delivered": 0}
        while state["lost"] + state["delivered"] < 101:
            state = (await http.get(f"{gateway.control_url}/realtime")).json()
    assert 25 < state["lost"] < 75


async def test_a_frozen_server_is_silent_until_it_is_released(ear, sql, gateway, http):
    await set_controls(gateway, http, freeze=True)
    sql("insert into public.video_jobs (status) values ('late')")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await ear.events.get()
    await set_controls(gateway, http, freeze=False)
    assert (await ear.event())["record"]["status"] == "late"


async def test_joins_can_be_refused(service, gateway, http):
    await set_controls(gateway, http, refuse_joins="DatabaseLackOfConnections: too many")
    ear = await Ear(service).listen()
    await ear.state("CHANNEL_ERROR")
    await set_controls(gateway, http, refuse_joins=None)
    await ear.hears()


async def test_rows_between_subscribed_and_the_system_message_are_lost(service, sql, gateway, http):
    await set_controls(gateway, http, system_delay=0.5)
    ear = await Ear(service).listen()
    await ear.state("SUBSCRIBED")
    sql("insert into public.video_jobs (status) values ('too early')")
    await ear.hears()
    sql("insert into public.video_jobs (status) values ('heard')")
    assert (await ear.event())["record"]["status"] == "heard"


async def test_a_system_error_ends_the_clients_channel(ear, gateway, http):
    await set_controls(gateway, http, system_error="Too many messages per second", fatal=True)
    await ear.state("CHANNEL_ERROR")
    await ear.state("CLOSED")


async def test_an_unknown_control_is_refused(gateway, http):
    for body in ({"explode": True}, {"lossy": "much"}):
        answer = await http.put(f"{gateway.control_url}/realtime", json=body)
        assert answer.status_code == 400


async def test_after_a_restart_of_postgres_the_gap_is_lost_silently(
    ear, sql, gateway, http, server
):
    before = gateway.gateway.realtime.feed.connections
    await set_controls(gateway, http, silence_after_restart=0.5)
    await gateway.restart_postgres()
    sql("insert into public.video_jobs (status) values ('lost')")
    async with asyncio.timeout(10):
        while (await http.get(f"{gateway.control_url}/realtime")).json()[
            "feed_connections"
        ] == before:
            await asyncio.sleep(0.02)
    sql("insert into public.video_jobs (status) values ('heard')")
    assert (await ear.event())["record"]["status"] == "heard"
    assert ear.states.qsize() == 1
    assert ear.channel.is_joined


async def test_a_handshake_can_be_refused(service, gateway, http):
    rule = {"path": "/realtime/v1/websocket", "action": "status", "status": 503, "times": 1}
    await http.post(f"{gateway.control_url}/rules", json=rule)
    ear = await Ear(service).listen()
    await ear.hears()
    assert (await http.get(f"{gateway.control_url}/rules")).json()[0]["hits"] == 1
