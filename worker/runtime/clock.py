"""The clock of the way out: it counts the time that a suspended machine was away."""

from __future__ import annotations

import time


def boot_time() -> float:
    """Seconds since the machine was started, unlike time.monotonic with those it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
