"""A loop bears what passes by itself, ends on anything else, and misses no wakeup."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from worker.jobs.errors import StoreRefused, StoreUnavailable
from worker.runtime.loops import Heartbeats, Wakeup, every
from worker.runtime.readiness import Readiness
from worker.runtime.watchdog import EXIT_STUCK, Watchdog
from worker.schedule import Wakeups
from worker.supabase.realtime import ChangeHint, HintKind


class Loop:
    """A loop whose ticks are scripted; it stops when the script is over."""

    def __init__(self, *script: float | Exception | Callable[[], None] | None) -> None:
        self.script = list(script)
        self.stop, self.wakeup = asyncio.Event(), Wakeup()
        self.beats, self.readiness = Heartbeats(), Readiness()

    async def tick(self) -> float | None:
        what = self.script.pop(0)
        if not self.script:
            self.stop.set()
            self.wakeup.set()
        if isinstance(what, Exception):
            raise what
        if callable(what):
            what()
            return None
        return what

    async def run(self, seconds: float = 3600.0) -> None:
        async with asyncio.timeout(5):
            await every(
                "sweep",
                self.tick,
                seconds=seconds,
                stop=self.stop,
                wakeup=self.wakeup,
                beats=self.beats,
                readiness=self.readiness,
                slowest_tick=120.0,
            )


async def test_an_outage_is_borne_and_logged_once() -> None:
    away = StoreUnavailable("Supabase does not answer.", retry_in=0.0)
    loop = Loop(away, away, away, None)
    with capture_logs() as logs:
        await loop.run()
    assert [one["event"] for one in logs] == ["loop.waiting", "loop.resumed"]
    assert loop.readiness.status == "ok"


async def test_an_outage_stands_on_the_board_while_it_lasts() -> None:
    loop = Loop(StoreUnavailable("Supabase does not answer.", retry_in=0.0))
    await loop.run()
    assert loop.readiness.status == "down"
    assert loop.readiness.reasons == ["sweep: Supabase does not answer."]


async def test_any_other_error_ends_the_loop() -> None:
    with pytest.raises(ZeroDivisionError):
        await Loop(ZeroDivisionError(), None).run()


async def test_a_wakeup_during_the_tick_causes_another() -> None:
    loop = Loop()
    loop.script = [lambda: loop.wakeup.set(), None]
    await loop.run()
    assert loop.script == []


async def test_a_tick_may_ask_to_come_again_soon_but_never_later_than_planned() -> None:
    await Loop(0.0, 0.0, None).run()
    await Loop(9999.0, None).run(seconds=0.01)


async def test_many_wakeups_cause_one_tick() -> None:
    wakeup = Wakeup()
    wakeup.set()
    wakeup.set()
    await wakeup.wait(3600)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await wakeup.wait(3600)


def test_a_loop_that_breaks_its_promise_is_stuck() -> None:
    now = 0.0
    beats = Heartbeats(clock=lambda: now)
    beats.beat("a", 5.0)
    beats.beat("b", 50.0)
    now = 6.0
    assert beats.stuck() == ["a"]
    beats.beat("a", 5.0)
    assert beats.stuck() == []


def test_the_watchdog_ends_a_process_that_stays_stuck(capfd: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    beats = Heartbeats(clock=iter([0.0, *[99.0] * 10_000]).__next__)
    beats.beat("sweep", 1.0)
    dog = Watchdog(beats, patience=0.02, every=0.005, end=end)
    dog.start()
    assert ended.wait(10)
    dog.join(10)
    assert codes == [EXIT_STUCK]
    assert "sweep stuck" in capfd.readouterr().err


def test_the_watchdog_bears_a_loop_that_comes_round_again() -> None:
    looks = threading.Event()
    answers = [["sweep"], []] * 3

    class Beats(Heartbeats):
        def stuck(self) -> list[str]:
            if not answers:
                looks.set()
                return []
            return answers.pop()

    codes: list[int] = []
    dog = Watchdog(Beats(), patience=0.0001, every=0.002, end=codes.append)
    dog.start()
    assert looks.wait(10)
    dog.stop()
    dog.join(10)
    assert codes == []


async def test_a_row_that_the_table_refuses_does_not_end_the_process() -> None:
    """One odd row must not restart the daemon forever: the loop says so and goes on."""
    loop = Loop(StoreRefused("no such status"), None)
    loop.wakeup.set()
    await loop.run()
    assert loop.script == []


def woken(wakeups: Wakeups) -> set[str]:
    """The loops that would tick now."""
    names = ("dispatch", "reconcile", "sweep", "lease", "prune")
    return {name for name in names if getattr(wakeups, name)._event.is_set()}


@pytest.mark.parametrize(
    ("kind", "loops"),
    [
        (HintKind.INSERT, {"dispatch"}),
        (HintKind.RETRY, {"dispatch"}),
        (HintKind.CANCEL, {"reconcile", "lease"}),
        (HintKind.DELETE, {"reconcile", "lease"}),
    ],
)
async def test_a_hint_wakes_the_loops_that_it_concerns(kind: HintKind, loops: set[str]) -> None:
    wakeups = Wakeups()
    wakeups.hear(ChangeHint(kind=kind, job_id=None))
    assert woken(wakeups) == loops


async def test_after_a_gap_in_what_is_heard_every_loop_that_finds_rows_looks_again() -> None:
    wakeups = Wakeups()
    wakeups.look_again()
    assert woken(wakeups) == {"dispatch", "reconcile", "sweep"}
