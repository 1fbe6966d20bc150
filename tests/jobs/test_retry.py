"""Which failures are sent again and how often; waits grow, stay in bounds, differ by worker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs.cases import sub
from worker.jobs.retry import backoff, verdict


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


@pytest.mark.parametrize(
    ("codes", "again"),
    [
        (["run_failed"], True),
        (["run_failed", "run_failed"], False),
        (["input_download_failed"], True),
        (["input_download_failed", "input_download_failed"], False),
        (["run_lost"] * 4, True),
        (["run_failed", "run_lost", "run_failed"], False),
        (["run_failed", "run_lost", "run_lost"], True),
    ],
)
def test_a_failure_of_one_kind_is_sent_again_once_whatever_came_between(
    codes: list[str], again: bool
) -> None:
    ended = [
        sub("failed", attempt, error_code=code, resend=True)
        for attempt, code in enumerate(codes, start=1)
    ]
    said = verdict(ended, max_submissions=9)
    assert (said.code, said.resend) == (codes[-1], again)
