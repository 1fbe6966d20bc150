"""Which new rows were found although no event had told of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

# An event comes within 0.6 s as a rule (measured on a real server).
HINT_SECONDS = 3.0
ROWS_KEPT = 10_000


class NewRows:
    """Compares the rows that were claimed with those that were heard of; both lists are bounded."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heard: OrderedDict[str, None] = OrderedDict()
        self._awaited: OrderedDict[str, float] = OrderedDict()

    def hear(self, job_id: str) -> None:
        """Note that an event told of a row."""
        self._awaited.pop(job_id, None)
        self._heard[job_id] = None
        if len(self._heard) > ROWS_KEPT:
            self._heard.popitem(last=False)

    def claim(self, job_id: str, waited: float) -> None:
        """Note the first claim of a row that was inserted `waited` seconds ago."""
        if job_id in self._heard:
            return
        self._awaited[job_id] = self._clock() - waited
        if len(self._awaited) > ROWS_KEPT:
            self._awaited.popitem(last=False)

    def unheard(self) -> list[float]:
        """Return, once for each, the ages of claimed rows whose event should have come by now."""
        now = self._clock()
        late = [row for row, born in self._awaited.items() if now - born > HINT_SECONDS]
        return [now - self._awaited.pop(row) for row in late]
