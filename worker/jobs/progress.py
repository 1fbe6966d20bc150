"""Progress and time left: as reported by the run, or estimated from the plan."""

from __future__ import annotations

from dataclasses import dataclass

MOST_ESTIMATED = 95
"""An estimate never says that the work is done."""
LOADING_SECONDS = 60.0
"""Models are loaded about that long before the first window (facts: 0.5 to 8 minutes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Percent done (0 to 99), who says so, and seconds left if that can be told."""

    progress: int
    source: str
    seconds_left: float | None


def outlook(
    *, reported: float | None, elapsed: float, expected: float | None, previous: int
) -> Outlook:
    """What to show for a run that has been executing for `elapsed` seconds."""
    if reported is not None:
        percent = min(99, max(previous, int(reported)))
        left = elapsed * (100.0 - reported) / reported if reported >= 5.0 else None
        if left is None and expected is not None:
            left = max(expected - elapsed, 1.0)
        return Outlook(progress=percent, source="reported", seconds_left=left)
    if expected is None or expected <= 0:
        return Outlook(progress=previous, source="estimated", seconds_left=None)
    share = elapsed / expected
    # Past the expected end the bar creeps on instead of standing still or claiming to be done.
    guess = 90.0 * share if share <= 1.0 else 90.0 + 5.0 * (1.0 - 1.0 / share)
    left = expected - elapsed if share < 1.0 else max(30.0, 0.1 * expected)
    return Outlook(
        progress=max(previous, min(MOST_ESTIMATED, int(guess))),
        source="estimated",
        seconds_left=left,
    )
