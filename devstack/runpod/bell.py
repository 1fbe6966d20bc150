"""A bell that wakes everyone who waits for a change."""

import asyncio
from collections.abc import Callable


class Bell:
    """Wakes all waiters at each ring; a waiter looks for itself whether its change has come."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake everyone who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Wait for the next ring; False if none came in time."""
        event = self._event
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True

    async def until(self, true: Callable[[], bool], seconds: float) -> bool:
        """Wait until a condition holds, looking again at each ring; False when time is over."""
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    await self._event.wait()
        except TimeoutError:
            return False
        return True
