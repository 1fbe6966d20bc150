"""What the worker has heard from Realtime, and which new rows it has not heard of."""

from __future__ import annotations

from collections.abc import Callable


class Hearing:
    """Counts new rows without an event, in this session and since the last event of all."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last_event: float | None = None
        self.unheard = 0
        self.unheard_in_session = 0
        self.heard_in_session = False

    @property
    def last_event_age(self) -> float | None:
        """Return the seconds since the last event, None before the first."""
        return None if self._last_event is None else self._clock() - self._last_event

    def begin_session(self) -> None:
        """Start to count for a new session; a new session alone is no proof that it hears."""
        self.unheard_in_session = 0
        self.heard_in_session = False

    def hear(self) -> int:
        """Note an event; return how many rows went unheard before it."""
        unheard = self.unheard
        self._last_event = self._clock()
        self.heard_in_session = True
        self.unheard = self.unheard_in_session = 0
        return unheard

    def miss(self) -> None:
        """Note a new row that only the sweep found."""
        self.unheard += 1
        self.unheard_in_session += 1

    @property
    def problem(self) -> str | None:
        """Return the sentence for /readyz; None while there is no sign of deafness."""
        if self.unheard == 0:
            return None
        rows = "the last new row" if self.unheard == 1 else f"the last {self.unheard} new rows"
        return (
            f"connected, but {rows} came without an event, so that rows are found by the sweep "
            "alone; if it stays so, check that video_jobs is in the publication supabase_realtime, "
            "and the limits of Realtime"
        )
