"""Waits grow, stay in their bounds and differ between workers."""

from hypothesis import given
from hypothesis import strategies as st

from worker.jobs.retry import backoff


@given(
    st.integers(-5, 10_000), st.floats(0.01, 1e4), st.floats(0.01, 1e5), st.floats(-1, 2)
)  # fmt: skip
def test_a_wait_lies_between_half_and_all_of_its_bound(
    tries: int, first: float, most: float, jitter: float
) -> None:
    wait = backoff(tries, first=first, most=most, jitter=jitter)
    assert 0.0 <= wait <= most
    if tries >= 1:
        assert wait >= min(first, most) / 2


@given(st.integers(1, 100), st.floats(0, 1))
def test_the_next_wait_is_never_shorter(tries: int, jitter: float) -> None:
    waits = [backoff(n, first=15, most=600, jitter=jitter) for n in (tries, tries + 1)]
    assert waits[0] <= waits[1]


def test_waits_double_up_to_the_most() -> None:
    waits = [backoff(n, first=15, most=100, jitter=1.0) for n in range(6)]
    assert waits == [0.0, 15.0, 30.0, 60.0, 100.0, 100.0]
    assert backoff(1, first=15, most=100, jitter=0.0) == 7.5
