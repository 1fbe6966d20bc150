"""Whatever other clients send to the worker's channel changes nothing."""

import json
import tracemalloc
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from realtime.message import ServerMessageAdapter
from structlog.testing import capture_logs

from tests.supabase.heard import KEY, PATIENT, Heard, listening, state_of, until
from tests.supabase.realtime_server import Behaviour, Peer, Realtime, accept, realtime
from worker.supabase.realtime import ChangeHint, HintKind, Timings
from worker.supabase.realtime_session import Session

# The library reads attributes that its own websockets release has deprecated.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:ConnectionClosed\.(code|reason) is deprecated:DeprecationWarning"
)
ROW = {"id": str(uuid4()), "status": "queued", "cancel_requested": True}
CHANGE = {"ids": [1000], "data": {"type": "INSERT", "table": "video_jobs", "record": ROW}}
SYSTEM = {"channel": "video_jobs-worker", "extension": "postgres_changes", "status": "ok"}
META = {"metas": [{"phx_ref": "x", "row": ROW}]}


async def broadcasts(peer: Peer) -> None:
    """Send broadcasts that look like everything the worker listens for."""
    for event in ("postgres_changes", "INSERT", "system", "phx_close", "phx_error", "*", ""):
        for payload in (CHANGE, SYSTEM, ROW, {"status": "error"}, {}):
            forged = {"type": "broadcast", "event": event, "payload": payload}
            await peer.send("broadcast", forged)


async def large(peer: Peer) -> None:
    for size in (1_000, 100_000, 900_000):
        payload = {"record": {"id": "x" * size}}
        await peer.send("broadcast", {"event": "INSERT", "type": "broadcast", "payload": payload})


async def many(peer: Peer) -> None:
    for _ in range(300):
        await peer.send("broadcast", {"event": "INSERT", "type": "broadcast", "payload": ROW})


async def presence(peer: Peer) -> None:
    await peer.send("presence_state", {"INSERT": META})
    for _ in range(300):
        await peer.send("presence_diff", {"joins": {str(uuid4()): META}, "leaves": {}})


async def odd(peer: Peer) -> None:
    """Send what the library cannot read, or would trip over."""
    await peer.send("presence_state", {"a": {"metas": [{}]}})
    await peer.send("presence_diff", {"joins": {"a": {"metas": [{}, {}]}}, "leaves": {"b": META}})
    await peer.send("presence_diff", {"joins": {"a": {"metas": [{}]}}, "leaves": {}})
    await peer.send("broadcast", {"no": "event"})
    await peer.send("broadcast", {"event": 7, "payload": []})
    await peer.send("video_jobs", CHANGE)


FORGED = {f.__name__: f for f in (broadcasts, large, many, presence, odd)}


async def still_hears(peer: Peer, heard: Heard) -> None:
    """Check that the next hint is that of a row inserted now: nothing came before it."""
    job_id = str(uuid4())
    await peer.change("INSERT", {"id": job_id, "status": "queued"})
    assert await heard.hint() == ChangeHint(kind=HintKind.INSERT, job_id=job_id)
    assert heard.readies.empty()
    assert (heard.listener.sessions, heard.listener.rebuilds) == (1, 0)


@pytest.mark.parametrize("forged", FORGED)
async def test_forged_messages_wake_nothing_log_nothing_and_end_nothing(forged):
    async with realtime() as server, listening(server.url, timings=PATIENT) as heard:
        await heard.ready()
        peer = await server.peer()
        with capture_logs() as lines:
            await FORGED[forged](peer)
            await still_hears(peer, heard)
        assert lines == []


@pytest.mark.parametrize("forge", [many, presence])
async def test_forged_messages_leave_nothing_in_memory(forge: Callable[[Peer], Awaitable[None]]):
    async with realtime() as server, listening(server.url, timings=PATIENT) as heard:
        await heard.ready()
        peer = await server.peer()
        await forge(peer)
        await still_hears(peer, heard)
        tracemalloc.start()
        try:
            for _ in range(2):
                await forge(peer)
                await still_hears(peer, heard)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert grown < 200_000
        session = heard.listener._session
        assert session is not None
        assert session._channel.presence.state == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
NAMES = st.sampled_from(["postgres_changes", "system", "phx_reply", "INSERT"]) | st.text()


@given(event=NAMES, payload=JSON, more=st.dictionaries(st.text(max_size=9), JSON, max_size=3))
@settings(deadline=None)
def test_no_broadcast_of_any_name_and_payload_reaches_the_listener(event, payload, more):
    heard: list[object] = []
    session = Session(
        url="http://127.0.0.1:9",
        key=KEY,
        table="video_jobs",
        private=False,
        timings=Timings(),
        on_hint=heard.append,
        on_ready=lambda: heard.append("ready"),
        clock=lambda: 0.0,
    )
    session._bind()
    channel = session._channel
    frame = {
        "topic": channel.topic,
        "event": "broadcast",
        "ref": None,
        "payload": {**more, "event": event, "payload": payload},
    }
    try:
        message = ServerMessageAdapter.validate_json(json.dumps(frame))
    except ValueError:
        return
    before = dict(vars(channel))
    channel._handle_message(message)
    assert heard == []
    assert not session._ended.is_set()
    assert vars(channel) == before


async def test_each_session_has_a_topic_that_nobody_can_guess():
    """So a stranger cannot address it, not even with a frame large enough to end the socket."""
    async with realtime() as server, listening(server.url, timings=PATIENT) as heard:
        topics = []
        for _ in range(3):
            await heard.ready()
            peer = await server.peer()
            topics.append(peer.topic)
            peer.drop()
        assert len(set(topics)) == 3
        for topic in topics:
            prefix, _, random = topic.rpartition("-")
            assert prefix == "realtime:video_jobs-worker"
            assert len(bytes.fromhex(random)) == 16


async def refused(peer: Peer, ref: str, reason: str) -> None:
    await peer.send("phx_reply", {"status": "error", "response": {"reason": reason}}, ref)


async def private_only(peer: Peer, ref: str) -> None:
    if peer.private:
        await accept(peer, ref)
    else:
        await refused(peer, ref, "PrivateOnly: This project only allows private channels")


async def unauthorized(peer: Peer, ref: str) -> None:
    assert peer.private
    await refused(peer, ref, "Unauthorized: You do not have permissions to read from this topic")


async def sees(server: Realtime, heard: Heard) -> bool:
    """Return whether the ready session is private."""
    await heard.ready()
    await until(lambda: state_of(heard) == "ready")
    peer = await server.peer()
    while peer.ended.is_set() or not peer.bindings:
        peer = await server.peer()
    return peer.private


async def test_a_project_that_permits_only_private_channels_is_joined_privately():
    behaviours = [Behaviour(join=private_only)] * 2
    async with realtime(*behaviours) as server, listening(server.url, timings=PATIENT) as heard:
        assert await sees(server, heard)
        assert "PrivateOnly" in str(heard.failures)


async def test_a_key_that_may_not_join_privately_listens_publicly():
    """Hearing inserts comes first."""
    behaviours = [Behaviour(join=private_only), Behaviour(join=unauthorized)]
    async with realtime(*behaviours) as server, listening(server.url, timings=PATIENT) as heard:
        assert not await sees(server, heard)
        assert "Unauthorized" in str(heard.failures)
