"""A worker whose loops no longer come round ends itself, so that Fly starts another."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worker.runtime.loops import Heartbeats
from worker.runtime.metrics import METRICS
from worker.runtime.watchdog import EXIT_STUCK, Watchdog, measure_lag

ROOT = Path(__file__).parents[2]


def end_of(how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.runtime.stuck", how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("how", ["blocks", "awaits"])
def test_a_stuck_loop_ends_the_process_with_70(how: str) -> None:
    """Both a call that blocks the whole event loop and an await that never returns."""
    done = end_of(how)
    assert done.returncode == EXIT_STUCK == 70
    assert "watchdog: dispatch stuck, ending the process" in done.stderr


def test_the_last_words_name_the_line_that_blocks() -> None:
    stderr = end_of("blocks").stderr
    assert "stuck.py" in stderr
    assert "in tick" in stderr


def test_loops_that_come_round_are_left_alone() -> None:
    done = end_of("fine")
    assert (done.returncode, done.stdout) == (0, "ended by itself\n")


class Ends:
    """Stands in for the process's end."""

    def __init__(self) -> None:
        self.code: int | None = None

    def __call__(self, code: int) -> None:
        self.code = code


def test_a_loop_that_recovers_within_the_patience_is_forgiven() -> None:
    now, end = [0.0], Ends()
    beats = Heartbeats(lambda: now[0])
    beats.beat("sweep", 1.0)
    now[0] = 5.0
    watchdog = Watchdog(beats, patience=30.0, every=0.01, end=end)
    watchdog.start()
    watchdog.join(0.1)
    beats.beat("sweep", 1.0)
    watchdog.join(0.1)
    watchdog.stop()
    watchdog.join(5)
    assert end.code is None


def test_a_stopped_watchdog_ends_nothing() -> None:
    now, end = [0.0], Ends()
    beats = Heartbeats(lambda: now[0])
    beats.beat("sweep", 1.0)
    watchdog = Watchdog(beats, patience=0.0, every=30.0, end=end)
    watchdog.start()
    now[0] = 100.0
    watchdog.stop()
    watchdog.join(5)
    assert not watchdog.is_alive()
    assert end.code is None


async def test_the_lag_of_a_blocked_event_loop_is_measured() -> None:
    stop, beats = asyncio.Event(), Heartbeats()
    measuring = asyncio.ensure_future(measure_lag(stop, beats, every=0.02))
    await asyncio.sleep(0.03)
    time.sleep(0.25)
    await asyncio.sleep(0.05)
    stop.set()
    await measuring
    lag = METRICS.registry.get_sample_value("worker_loop_lag_seconds")
    assert lag is not None
    assert 0.15 < lag < 5
    assert beats.stuck() == []
