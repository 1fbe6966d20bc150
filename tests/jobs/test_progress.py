"""What people see of a run's progress and end."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.jobs.progress import MOST_ESTIMATED, Outlook, outlook

amounts = st.floats(0, 1e7)


@pytest.mark.parametrize(
    ("reported", "elapsed", "expected", "previous", "shown"),
    [
        (50.0, 100.0, 1000.0, 0, Outlook(progress=50, source="reported", seconds_left=100.0)),
        (50.0, 100.0, None, 60, Outlook(progress=60, source="reported", seconds_left=100.0)),
        (100.0, 100.0, None, 0, Outlook(progress=99, source="reported", seconds_left=0.0)),
        (2.0, 100.0, 900.0, 0, Outlook(progress=2, source="reported", seconds_left=800.0)),
        (2.0, 999.0, 900.0, 0, Outlook(progress=2, source="reported", seconds_left=1.0)),
        (2.0, 100.0, None, 0, Outlook(progress=2, source="reported", seconds_left=None)),
        (None, 0.0, 1000.0, 0, Outlook(progress=0, source="estimated", seconds_left=1000.0)),
        (None, 500.0, 1000.0, 0, Outlook(progress=45, source="estimated", seconds_left=500.0)),
        (None, 500.0, 1000.0, 70, Outlook(progress=70, source="estimated", seconds_left=500.0)),
        (None, 1000.0, 1000.0, 0, Outlook(progress=90, source="estimated", seconds_left=100.0)),
        (None, 2000.0, 1000.0, 0, Outlook(progress=92, source="estimated", seconds_left=100.0)),
        (None, 200.0, 100.0, 0, Outlook(progress=92, source="estimated", seconds_left=30.0)),
        (None, 500.0, None, 12, Outlook(progress=12, source="estimated", seconds_left=None)),
        (None, 500.0, 0.0, 12, Outlook(progress=12, source="estimated", seconds_left=None)),
    ],
)
def test_the_outlook(
    reported: float | None,
    elapsed: float,
    expected: float | None,
    previous: int,
    shown: Outlook,
) -> None:
    found = outlook(reported=reported, elapsed=elapsed, expected=expected, previous=previous)
    assert found == shown


@given(
    st.none() | st.floats(0, 100), amounts, st.none() | amounts, st.integers(0, 99)
)  # fmt: skip
def test_progress_never_falls_and_never_says_done(
    reported: float | None, elapsed: float, expected: float | None, previous: int
) -> None:
    view = outlook(reported=reported, elapsed=elapsed, expected=expected, previous=previous)
    assert previous <= view.progress <= 99
    assert view.seconds_left is None or (
        view.seconds_left >= 0 and math.isfinite(view.seconds_left)
    )
    if reported is None:
        assert view.progress <= max(previous, MOST_ESTIMATED)


@given(amounts, amounts, st.floats(1, 1e6))
def test_more_time_never_means_less_progress(one: float, other: float, expected: float) -> None:
    early, late = (
        outlook(reported=None, elapsed=elapsed, expected=expected, previous=0).progress
        for elapsed in sorted((one, other))
    )
    assert early <= late
