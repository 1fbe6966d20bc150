"""A short storm with a fixed seed: faults of every kind, and every invariant must hold."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import storm

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.e2e,
    pytest.mark.timeout(115),
    pytest.mark.xdist_group("chaos"),
]


async def test_a_short_storm_breaks_no_invariant() -> None:
    verdict = await storm(seed=7, seconds=20, jobs=40, workers=2)
    assert verdict.broken == []
    assert (verdict.figures["lost"], verdict.figures["wrong"]) == (0, 0)
    assert verdict.figures["unexplained second runs"] == 0
    assert verdict.figures["runs accepted"]
    assert sum(name.startswith("fault: ") for name in verdict.figures) >= 5
