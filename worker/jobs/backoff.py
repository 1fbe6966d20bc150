"""How long to wait before the next try: exponential, bounded, with jitter."""

from __future__ import annotations


def backoff(tries: int, *, first: float, most: float, jitter: float) -> float:
    """Seconds before try number `tries` + 1; the caller draws `jitter` from 0 to 1.

    The wait lies between half and all of min(most, first * 2**(tries - 1)).
    """
    if tries < 1:
        return 0.0
    whole = min(most, first * 2.0 ** min(tries - 1, 60))
    return whole * (0.5 + 0.5 * min(max(jitter, 0.0), 1.0))
