"""An event loop whose time passes only while nobody has anything to do.

Hosts and clients on 127.0.0.1 are real, and minutes of their waiting take milliseconds. No test
depends on how fast the machine is: work takes no time at all.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
# What one socket has sent may need a moment until another can read it, even on one machine.
GRACE_SECONDS = 0.002


class IdleTimeLoop(asyncio.SelectorEventLoop):
    """Its clock starts at 0, and jumps to the next timer when no socket has news."""

    def __init__(self) -> None:
        self._now = 0.0
        self._real = selectors.DefaultSelector()
        super().__init__(self._real)
        self._select = self._real.select
        self._real.select = self._jump  # type: ignore[method-assign] # the loop asks it how long

    def time(self) -> float:
        return self._now

    def _jump(self, timeout: float | None = None) -> Any:
        if timeout is None:
            return self._select(None)
        ready = self._select(min(timeout, GRACE_SECONDS))
        if not ready:
            self._now += max(timeout, 0.0)
        return ready


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own."""
    with asyncio.Runner(loop_factory=IdleTimeLoop) as runner:
        return runner.run(work)
