"""A condition that wakes all tasks that wait for a change."""

import asyncio
from collections.abc import Callable


class Condition:
    """Wakes all waiters at each change; a waiter checks by itself what has changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all current waiters."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Wait for the next change; return False if none came in time."""
        event = self._event
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True

    async def until(self, true: Callable[[], bool], seconds: float) -> bool:
        """Wait until `true()`, checked at each change; return False if the time is over."""
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    await self._event.wait()
        except TimeoutError:
            return False
        return True
