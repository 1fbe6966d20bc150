"""Ends the process when its loops no longer come round: Fly's checks never restart anything."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from worker.runtime.loops import Heartbeats
from worker.runtime.metrics import METRICS

EXIT_STUCK = 70
LAG_EVERY = 0.5
LAG_WINDOW = 60.0


async def measure_lag(stop: asyncio.Event, beats: Heartbeats, *, every: float = LAG_EVERY) -> None:
    """Measure how late the event loop wakes us; the most of the last minute is shown."""
    recent: list[tuple[float, float]] = []
    while not stop.is_set():
        before = time.monotonic()
        await asyncio.sleep(every)
        now = time.monotonic()
        recent = [one for one in recent if now - one[0] < LAG_WINDOW]
        recent.append((now, max(0.0, now - before - every)))
        METRICS.loop_lag.set(max(lag for _, lag in recent))
        beats.beat("event_loop", 60.0)


class Watchdog(threading.Thread):
    """A thread of its own, since a stuck event loop cannot watch itself."""

    def __init__(
        self,
        beats: Heartbeats,
        *,
        patience: float = 60.0,
        every: float = 5.0,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._beats = beats
        self._patience = patience
        self._every = every
        self._end = end
        self._over = threading.Event()

    def run(self) -> None:
        """Watch until told otherwise; a loop that stays stuck ends the process with 70."""
        stuck_since: float | None = None
        while not self._over.wait(self._every):
            stuck = self._beats.stuck()
            now = time.monotonic()
            if not stuck:
                stuck_since = None
                continue
            stuck_since = now if stuck_since is None else stuck_since
            if now - stuck_since >= self._patience:
                sys.stderr.write(f"watchdog: {', '.join(stuck)} stuck, ending the process\n")
                # Where each thread stands: the one thing that nobody can ask for afterwards.
                faulthandler.dump_traceback(sys.stderr)
                sys.stderr.flush()
                self._end(EXIT_STUCK)
                return

    def stop(self) -> None:
        """The process ends by itself."""
        self._over.set()
