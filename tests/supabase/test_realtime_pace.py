"""How soon the listener connects again, on an injected clock."""

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.supabase.heard import KEY
from worker.supabase.realtime import Pace, RealtimeListener
from worker.supabase.realtime_pace import Backoff
from worker.supabase.realtime_session import Ending

LOST = Ending(reason="lost")
PATIENT = Pace(first=1, longest=10)


def backoff(pace: Pace = PATIENT, jitter: float = 1.0) -> Backoff:
    return Backoff(pace, lambda: jitter)


def test_repeated_failures_double_the_wait_up_to_the_longest():
    waits = backoff()
    assert [waits.after("lost", ready_seconds=0, heard=False) for _ in range(6)] == [
        1, 2, 4, 8, 10, 10,
    ]  # fmt: skip


@pytest.mark.parametrize(("ready_seconds", "heard"), [(15, False), (0, True)])
def test_after_a_session_that_worked_the_wait_is_the_first_again(ready_seconds, heard):
    waits = backoff()
    for _ in range(5):
        waits.after("lost", ready_seconds=0, heard=False)
    assert waits.after("lost", ready_seconds=ready_seconds, heard=heard) == 1


def test_a_refusal_for_the_number_of_joins_is_given_more_time():
    assert backoff().after("ChannelRateLimitReached: x", ready_seconds=0, heard=False) == 30


def test_workers_do_not_all_come_back_at_once():
    assert backoff(jitter=0.0).after("lost", ready_seconds=0, heard=False) == 0.5


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), min_size=1), st.floats(0, 1))
def test_no_history_makes_the_wait_longer_than_the_longest(history, jitter):
    waits = backoff(Pace(), jitter)
    for ready_seconds, heard in history:
        wait = waits.after("lost", ready_seconds=ready_seconds, heard=heard)
        assert 0 < wait <= Pace().longest


@pytest.mark.parametrize(("sweep", "longest"), [(15, 15), (300, 15), (5, 5), (0.1, 0.5)])
def test_the_wait_is_at_most_the_time_between_two_sweeps(sweep, longest):
    """An event that comes later than the sweep is of no use."""
    assert Pace.within(sweep).longest == longest


class World:
    """Realtime as a list of times: unreachable inside an outage, ready outside."""

    def __init__(self, *outages: tuple[float, float], attempt: float) -> None:
        self.now = 0.0
        self.outages = outages
        self.attempt = attempt
        self.ready_at: list[float] = []
        self.listener = RealtimeListener(
            url="http://127.0.0.1:9",
            key=KEY,
            on_hint=print,
            on_ready=print,
            clock=lambda: self.now,
            jitter=lambda: 1.0,
            sleep=self.sleep,
        )
        self.listener._run_session = self.session  # type: ignore[method-assign]

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def session(self) -> Ending:
        start = self.now
        if any(begin <= start < end for begin, end in self.outages):
            self.now += self.attempt
            return LOST
        self.ready_at.append(start)
        following = [begin for begin, _ in self.outages if begin > start]
        if not following:
            raise Over
        self.now = min(following)
        return Ending(reason="lost", ready_seconds=self.now - start)


class Over(Exception):
    """No outage is left: the last session lives on."""


@pytest.mark.parametrize("attempt", [0.0, 1.0])
@pytest.mark.parametrize(
    "outages",
    [
        [(100, 112)],
        [(100, 112), (113, 125)],
        [(100, 140), (142, 143), (145, 157)],
        [(0, 600), (602, 603)],
    ],
)
async def test_the_wait_outlasts_an_outage_by_no_more_than_a_sweep(outages, attempt):
    """Also where a session was ready for a moment between two outages."""
    world = World(*outages, attempt=attempt)
    with pytest.raises(Over):
        await world.listener.run()
    for _, end in cast("list[tuple[float, float]]", outages):
        back = min((ready for ready in world.ready_at if ready >= end), default=None)
        following = min((begin for begin, _ in outages if begin >= end), default=float("inf"))
        if back is None or back > following:
            continue
        assert back - end <= 15.0 + attempt
    assert world.ready_at[-1] - outages[-1][1] <= 15.0 + attempt


async def test_a_session_that_heard_a_change_counts_as_one_that_worked():
    world = World((10, 100), (101, 102), attempt=0.0)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        world.now += seconds
        world.listener._hearing.hear()

    world.listener._sleep = sleep
    with pytest.raises(Over):
        await world.listener.run()
    assert set(waits) == {Pace().first}
