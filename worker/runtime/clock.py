"""Clocks, chance and sleep come in from outside, so that a test can put its own in their place."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


def boot_time() -> float:
    """Return seconds since the machine started, unlike time.monotonic with those it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the process takes from its surroundings; all durations in seconds.

    Loops and timeouts go by the event loop's own clock, which a test's loop may replace; only the
    watchdog's thread and the measuring of the loop's lag need real time.

    `boot_time` counts the time that a suspended machine was away, `monotonic` does not;
    `jitter` draws from 0 to 1.
    """

    monotonic: Callable[[], float] = time.monotonic
    boot_time: Callable[[], float] = boot_time
    jitter: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
