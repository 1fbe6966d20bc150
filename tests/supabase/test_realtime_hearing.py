"""The worker knows when it is deaf: rows that no event told of, also across sessions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.supabase.heard import PATIENT, Heard, listening, until
from tests.supabase.realtime_server import Behaviour, Peer, realtime
from worker.supabase.realtime_hearing import Hearing

# The library reads attributes that its own websockets release has deprecated.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:ConnectionClosed\.(code|reason) is deprecated:DeprecationWarning"
)


def problem_of(heard: Heard) -> str | None:
    """Return the problem; a function, because mypy takes a property for unchanging."""
    return heard.listener.problem


async def test_a_row_that_came_without_an_event_is_a_problem_until_an_event_comes():
    async with realtime() as server, listening(server.url, timings=PATIENT) as heard:
        assert "no changes are heard" in str(problem_of(heard))
        await heard.ready()
        peer = await server.peer()
        assert problem_of(heard) is None
        with capture_logs() as lines:
            heard.listener.missed()
            assert "the last new row came without an event" in str(problem_of(heard))
            heard.listener.missed()
            assert "the last 2 new rows came without an event" in str(problem_of(heard))
            assert "supabase_realtime" in str(problem_of(heard))
            await peer.change("INSERT", {"id": "a"})
            await heard.hint()
        assert problem_of(heard) is None
        assert [line["event"] for line in lines] == ["realtime.unheard", "realtime.heard_again"]


async def test_a_new_session_that_is_ready_does_not_prove_that_it_hears():
    """Beyond the rate limit every session is ready, and none hears anything."""
    async with realtime() as server, listening(server.url, timings=PATIENT) as heard:
        await heard.ready()
        await server.peer()
        for _ in range(3):
            heard.listener.missed()
        await heard.ready()
        peer = await server.peer()
        assert heard.listener.sessions == 2
        assert "the last 3 new rows" in str(problem_of(heard))
        heard.listener.missed()
        assert heard.listener.unheard == 4
        await peer.change("INSERT", {"id": "a"})
        await heard.hint()
        assert problem_of(heard) is None
        assert heard.listener.unheard == 0


async def test_a_row_from_before_the_session_is_no_sign_of_deafness():
    async with realtime() as server, listening(server.url, timings=PATIENT) as heard:
        await heard.ready()
        heard.listener.missed(age=60)
        assert problem_of(heard) is None


@given(st.lists(st.sampled_from(["hear", "miss", "begin_session"])))
def test_there_is_a_problem_exactly_when_the_last_news_was_a_miss(steps):
    """Whatever the order of sessions, events and misses."""
    hearing = Hearing(lambda: 0.0)
    for step in steps:
        getattr(hearing, step)()
    news = [step for step in steps if step != "begin_session"]
    assert (hearing.problem is not None) == (news[-1:] == ["miss"])


async def repeated(peer: Peer, ref: str) -> None:
    """Subscribe, and say so once for each binding, as after a change of the publication."""
    await peer.joined(ref)
    for _ in range(50):
        await peer.system("ok", "Subscribed to PostgreSQL")


async def test_a_burst_of_subscribed_is_one_line_and_each_asks_for_a_sweep():
    with capture_logs() as lines:
        async with (
            realtime(Behaviour(join=repeated)) as server,
            listening(server.url, timings=PATIENT) as heard,
        ):
            for _ in range(50):
                await heard.ready()
    assert [line["event"] for line in lines if line["event"] == "realtime.ready"] == [
        "realtime.ready"
    ]


async def test_a_later_subscribed_has_its_own_line():
    """A gap in what was heard, hours later, is news."""
    async with realtime() as server, listening(server.url, timings=PATIENT) as heard:
        await heard.ready()
        peer = await server.peer()
        now = heard.listener._clock()
        heard.listener._clock = lambda: now + 3600
        with capture_logs() as lines:
            await peer.system("ok", "Subscribed to PostgreSQL")
            await heard.ready()
        assert [line["event"] for line in lines] == ["realtime.ready"]


async def refuse(peer: Peer, ref: str) -> None:
    await peer.send("phx_reply", {"status": "error", "response": {"reason": "Same: no"}}, ref)


async def test_an_outage_of_many_attempts_is_one_warning():
    with capture_logs() as lines:
        behaviours = [Behaviour(join=refuse)] * 5
        async with realtime(*behaviours) as server, listening(server.url, timings=PATIENT) as heard:
            await until(lambda: heard.listener.rebuilds == 5)
            await heard.ready()
            peer = await server.peer()
            while peer.ended.is_set() or not peer.bindings:
                peer = await server.peer()
            peer.drop()
            await heard.ready()
    lost = [line["log_level"] for line in lines if line["event"] == "realtime.lost"]
    assert lost == ["warning", "debug", "debug", "debug", "debug", "warning"]
