"""The listener against a scripted server: its hints, and every way a socket can fail silently."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from uuid import uuid4

import pytest

from tests.supabase.heard import KEY, Heard, listening, state_of, until
from tests.supabase.realtime_server import Behaviour, Peer, Realtime, Recording, accept, realtime
from worker.runtime.metrics import METRICS
from worker.supabase.realtime import ChangeHint, HintKind, RealtimeListener, Timings

# The library reads attributes that its own websockets release has deprecated.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:ConnectionClosed\.(code|reason) is deprecated:DeprecationWarning"
)


async def works(server: Realtime, heard: Heard) -> None:
    """Check that the listener asks for a sweep, is ready, and reports a row inserted now."""
    await heard.ready()
    peer = await server.peer()
    while peer.ended.is_set() or not peer.bindings:
        peer = await server.peer()
    job_id = str(uuid4())
    await peer.change("INSERT", {"id": job_id, "status": "queued"})
    hint = await heard.hint()
    assert hint == ChangeHint(kind=HintKind.INSERT, job_id=job_id)
    assert state_of(heard) == "ready"
    assert heard.listener.reason is None


def counted(kind: HintKind) -> float:
    """Return the number of such hints in the metrics."""
    labels = {"kind": kind.value}
    return METRICS.registry.get_sample_value("worker_realtime_hints_total", labels) or 0


async def test_insert_cancel_retry_and_delete_give_hints_of_their_kind():
    before = {kind: counted(kind) for kind in HintKind}
    async with realtime() as server, listening(server.url) as heard:
        await heard.ready()
        peer = await server.peer()
        await peer.change("INSERT", {"id": "a", "status": "queued"})
        await peer.change("UPDATE", {"id": "b", "status": "running", "cancel_requested": True})
        await peer.change("UPDATE", {"id": "c", "status": "queued", "cancel_requested": False})
        await peer.change("DELETE", {"id": "d"})
        assert [(hint.kind, hint.job_id) for hint in [await heard.hint() for _ in range(4)]] == [
            (HintKind.INSERT, "a"),
            (HintKind.CANCEL, "b"),
            (HintKind.RETRY, "c"),
            (HintKind.DELETE, "d"),
        ]
        assert {kind: counted(kind) - before[kind] for kind in HintKind} == dict.fromkeys(
            HintKind, 1
        )
        assert heard.listener.last_event_age is not None


async def test_our_own_progress_updates_are_not_subscribed_to():
    async with realtime() as server, listening(server.url) as heard:
        await heard.ready()
        peer = await server.peer()
        wanted = [(b["event"], b["schema"], b["table"], b.get("filter")) for b in peer.bindings]
        assert wanted == [
            ("INSERT", "public", "video_jobs", None),
            ("UPDATE", "public", "video_jobs", "cancel_requested=eq.true"),
            ("UPDATE", "public", "video_jobs", "status=eq.queued"),
            ("DELETE", "public", "video_jobs", None),
        ]
        await peer.change("UPDATE", {"id": "a", "status": "running", "cancel_requested": False})
        await peer.change("INSERT", {"id": "b"})
        assert (await heard.hint()).job_id == "b"


async def test_an_event_with_errors_is_still_a_hint():
    async with realtime() as server, listening(server.url) as heard:
        await heard.ready()
        peer = await server.peer()
        too_large = ["Error 413: Payload Too Large"]
        await peer.change("INSERT", {"id": "a"}, errors=too_large)
        await peer.change("INSERT", {}, errors=too_large, record={})
        await peer.change("INSERT", {}, errors=too_large, record=None)
        assert [(await heard.hint()).job_id for _ in range(3)] == ["a", None, None]


async def test_a_callback_that_raises_does_not_stop_the_listener():
    hints: asyncio.Queue[ChangeHint] = asyncio.Queue()

    def on_hint(hint: ChangeHint) -> None:
        hints.put_nowait(hint)
        raise RuntimeError("a bug of ours")

    def on_ready() -> None:
        raise RuntimeError("another one")

    async with realtime() as server, asyncio.TaskGroup() as group:
        listener = RealtimeListener(url=server.url, key=KEY, on_hint=on_hint, on_ready=on_ready)
        task = group.create_task(listener.run())
        peer = await server.peer()
        await until(lambda: listener.state == "ready")
        for name in ("a", "b"):
            await peer.change("INSERT", {"id": name})
            async with asyncio.timeout(5):
                assert (await hints.get()).job_id == name
        assert listener.rebuilds == 0
        task.cancel()


async def test_a_sweep_is_requested_when_changes_flow_and_not_at_the_join():
    flow = asyncio.Event()

    async def join(peer: Peer, ref: str) -> None:
        await peer.joined(ref)
        await peer.send("presence_state", {})
        await flow.wait()
        await peer.system("ok", "Subscribed to something else", extension="broadcast")
        await peer.system("ok", "Subscribed to PostgreSQL")
        await peer.system("ok", "Subscribed to PostgreSQL")

    patient = Timings(join=1, ready=20, check=0.02)
    async with (
        realtime(Behaviour(join=join)) as server,
        listening(server.url, timings=patient) as heard,
    ):
        peer = await server.peer()
        await until(lambda: bool(peer.bindings))
        assert state_of(heard) == "connecting"
        assert heard.listener.ready_for is None
        flow.set()
        await heard.ready()
        await heard.ready()
        assert state_of(heard) == "ready"
        assert heard.readies.empty()


async def close_with(code: int, peer: Peer) -> None:
    await peer.connection.close(code)


async def drop(peer: Peer) -> None:
    peer.drop()


async def freeze(peer: Peer) -> None:
    peer.freeze()


async def system_error(peer: Peer) -> None:
    await peer.system("error", "Too many database timeouts")


async def token_expires(peer: Peer) -> None:
    await peer.system("error", "Token has expired 0 seconds ago", extension="system")
    await peer.send("phx_close", {}, ref="1")


async def channel_crashes(peer: Peer) -> None:
    await peer.send("phx_error", {"reason": "channel_crash"})


async def channel_closes(peer: Peer) -> None:
    await peer.send("phx_close", {}, ref="1")


async def frame_too_large(peer: Peer) -> None:
    await peer.change("INSERT", {"id": "big", "prompt": "x" * 1_100_000})


FAULTS: dict[str, Callable[[Peer], Awaitable[None]]] = {
    "closed 1000": lambda peer: close_with(1000, peer),
    "closed 1001": lambda peer: close_with(1001, peer),
    "closed 1011": lambda peer: close_with(1011, peer),
    "closed 1012": lambda peer: close_with(1012, peer),
    "connection cut": drop,
    "peer frozen": freeze,
    "system error while joined": system_error,
    "token expired": token_expires,
    "channel crashed": channel_crashes,
    "channel closed": channel_closes,
    "frame over 1 MiB": frame_too_large,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_session_that_goes_wrong_is_replaced_by_a_new_socket(fault):
    async with realtime() as server, listening(server.url) as heard:
        await heard.ready()
        peer = await server.peer()
        session = heard.listener._session
        assert session is not None
        socket = session._client._ws_connection
        assert socket is not None
        await FAULTS[fault](peer)
        await works(server, heard)
        assert (heard.listener.rebuilds, heard.listener.sessions) == (1, 2)
        assert socket.transport.is_closing(), "the old socket is closed for certain"


async def refuse(peer: Peer, ref: str) -> None:
    reason = {"reason": "InvalidJWTToken: Token has expired 55 seconds ago"}
    await peer.send("phx_reply", {"status": "error", "response": reason}, ref)


async def too_many_joins(peer: Peer, ref: str) -> None:
    reason = {"reason": "ClientJoinRateLimitReached: Too many joins per second"}
    await peer.send("phx_reply", {"status": "error", "response": reason}, ref)


async def ignore(peer: Peer, ref: str) -> None:
    pass


async def never_subscribed(peer: Peer, ref: str) -> None:
    await peer.joined(ref)


async def other_bindings(peer: Peer, ref: str) -> None:
    peer.bindings = [{**b, "filter": "status=eq.other"} for b in peer.bindings]
    await peer.joined(ref)


async def garbage(peer: Peer, ref: str) -> None:
    await peer.connection.send("no json")
    await peer.connection.send(b"\x00\xff")
    await accept(peer, ref)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(join=refuse), "Realtime says: InvalidJWTToken"),
        (Behaviour(join=too_many_joins), "ClientJoinRateLimitReached"),
        (Behaviour(join=ignore), "the join was not answered"),
        (Behaviour(join=never_subscribed), "did not confirm the subscription"),
        (Behaviour(join=other_bindings), "mismatch between server and client bindings"),
        (Behaviour(heartbeats=False), "a heartbeat was not answered"),
        (Behaviour(handshake=HTTPStatus.UNAUTHORIZED), "HTTP 401: check SUPABASE_SERVICE_ROLE_KEY"),
        (Behaviour(handshake=HTTPStatus.TOO_MANY_REQUESTS), "HTTP 429"),
        (Behaviour(handshake=HTTPStatus.SERVICE_UNAVAILABLE), "HTTP 503"),
    ],
)
async def test_a_session_that_never_works_is_replaced_and_says_why(behaviour, reason):
    async with realtime(behaviour) as server, listening(server.url) as heard:
        if behaviour.heartbeats is False:
            await heard.ready()
        await works(server, heard)
        assert [(state, reason in str(why)) for state, why in heard.failures if why] == [
            ("down", True),
            ("down", True),
        ]


async def test_unreadable_frames_are_ignored():
    async with realtime(Behaviour(join=garbage)) as server, listening(server.url) as heard:
        await works(server, heard)
        assert heard.listener.sessions == 1


async def test_a_server_that_was_down_for_many_attempts_is_used_again():
    """The library alone gives up for good after its fifth attempt."""
    async with realtime() as server, listening(server.url) as heard:
        await heard.ready()
        await server.peer()
        await server.stop()
        await until(lambda: heard.listener.rebuilds >= 12)
        assert state_of(heard) == "down"
        assert heard.listener.reason is not None
        await server.start()
        await works(server, heard)


async def test_a_socket_is_renewed_after_a_while_and_that_is_no_failure():
    short = Timings(join=1, check=0.02, recycle=0.1)
    async with realtime() as server, listening(server.url, timings=short) as heard:
        first = await server.peer()
        for _ in range(3):
            await heard.ready()
            assert state_of(heard) == "ready"
        assert heard.listener.rebuilds == 0
        async with asyncio.timeout(5):
            await first.ended.wait()


async def test_a_reading_task_that_ended_is_noticed():
    async with realtime() as server, listening(server.url) as heard:
        await heard.ready()
        await server.peer()
        session = heard.listener._session
        assert session is not None
        reader = session._client._listen_task
        assert reader is not None
        reader.cancel()
        await works(server, heard)
        assert heard.failures[-2][1] == heard.failures[-1][1] == "the reading task has ended"


async def test_heartbeats_of_ours_are_answered_and_keep_the_session():
    async with realtime() as server, listening(server.url) as heard:
        await heard.ready()
        peer = await server.peer()
        await until(lambda: peer.heartbeats > 4)
        assert heard.listener.sessions == 1


async def test_several_rows_found_only_by_the_sweep_replace_a_silent_session():
    """After a restart of Postgres, or beyond the rate limit, the socket is open but silent."""
    async with realtime() as server, listening(server.url) as heard:
        await heard.ready()
        peer = await server.peer()
        for _ in range(2):
            heard.listener.missed()
        await peer.change("INSERT", {"id": "a"})
        await heard.hint()
        for _ in range(2):
            heard.listener.missed()
        seen = peer.heartbeats
        await until(lambda: peer.heartbeats > seen + 1)
        assert heard.listener.sessions == 1, "an event in between shows that the session works"
        heard.listener.missed()
        await works(server, heard)
        assert heard.listener.misses == 5


async def test_misses_count_anew_in_a_new_session():
    async with realtime() as server, listening(server.url) as heard:
        for _ in range(2):
            await heard.ready()
            for _ in range(2):
                heard.listener.missed()
            session = heard.listener._session
            assert session is not None
            assert not session._ended.is_set()
            session.end("the socket broke")
        assert heard.listener.misses == 4


async def test_a_row_from_before_the_listener_was_ready_is_not_a_miss():
    async with realtime() as server, listening(server.url) as heard:
        for _ in range(5):
            heard.listener.missed()
        await heard.ready()
        for _ in range(5):
            heard.listener.missed(age=60)
        assert heard.listener.misses == 0


@pytest.mark.parametrize("url", ["", "x.supabase.co", "ftp://x.supabase.co", "https://"])
def test_an_invalid_project_url_is_refused_at_start(url):
    with pytest.raises(ValueError, match="Supabase URL"):
        RealtimeListener(url=url, key=KEY, on_hint=print, on_ready=print)


async def test_the_key_goes_to_the_server_and_into_no_log(caplog, capsys):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets.client").setLevel(logging.NOTSET)
    secret = {"id": "a", "prompt": "ROWDATA"}

    async def unreadable(peer: Peer, ref: str) -> None:
        await accept(peer, ref)
        await peer.send("postgres_changes", {"ids": [1], "data": {"record": secret}})
        await peer.change("INSERT", secret)

    async def echo_key(peer: Peer, ref: str) -> None:
        reason = {"reason": f"InvalidJWTToken: {peer.token}"}
        await peer.send("phx_reply", {"status": "error", "response": reason}, ref)

    first, second = Behaviour(join=unreadable), Behaviour(join=echo_key)
    async with realtime(first, second) as server, listening(server.url) as heard:
        await heard.hint()
        peer = await server.peer()
        assert peer.token == KEY
        assert server.paths[0] == f"/realtime/v1/websocket?apikey={KEY}&vsn=1.0.0"
        peer.drop()
        await heard.ready()
        await heard.ready()
    client_logs = [r.getMessage() for r in caplog.records if not r.name.startswith("websockets.s")]
    printed = capsys.readouterr()
    everything = "\n".join([*client_logs, printed.out, printed.err])
    assert "InvalidJWTToken" in everything, "the reason is logged"
    assert KEY not in everything
    assert "ROWDATA" not in everything


@pytest.mark.parametrize(
    "name",
    ["insert_update_delete", "identity_full", "subscribed_twice"],
)
async def test_the_frames_of_a_real_server_give_one_hint_for_each_row(name):
    recording = Recording.load(name)
    behaviour = Behaviour(join=recording.play)
    async with realtime(behaviour) as server, listening(server.url) as heard:
        await heard.ready()
        inserts, deletes = recording.changes("INSERT"), recording.changes("DELETE")
        hints = [await heard.hint() for _ in range(len(inserts) + len(deletes))]
        assert [r.job_id for r in hints if r.kind is HintKind.INSERT] == inserts
        assert [r.job_id for r in hints if r.kind is HintKind.DELETE] == deletes
        assert heard.hints.empty()
        assert heard.readies.qsize() == (1 if name == "subscribed_twice" else 0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("join_refused", "UnableToConnectToProject"),
        ("table_not_published", "Please check Realtime is enabled"),
        ("token_expires_while_joined", "Token has expired"),
        ("server_restarted", "1012"),
        ("server_killed", "no close frame received or sent"),
        ("closed_for_silence", "1000"),
    ],
)
async def test_a_session_that_a_real_server_ended_is_replaced(name, reason):
    recording = Recording.load(name)
    async with realtime(Behaviour(join=recording.play)) as server, listening(server.url) as heard:
        await until(lambda: heard.listener.rebuilds == 1)
        for job_id in recording.changes("INSERT"):
            assert (await heard.hint()).job_id == job_id
        await until(lambda: heard.listener.sessions == 2 and state_of(heard) == "ready")
    assert reason in str(heard.failures)


async def test_without_the_right_to_read_rows_there_are_no_hints_and_misses_are_noticed():
    recording = Recording.load("no_select_grant")
    async with realtime(Behaviour(join=recording.play)) as server, listening(server.url) as heard:
        await heard.ready()
        assert json.dumps(recording.lines).count("Error 401") > 1
        for _ in range(3):
            heard.listener.missed()
        await works(server, heard)
