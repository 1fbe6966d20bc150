"""What /health must say, and for how long, to prove that a POST was not accepted."""

import pytest

from tests.fakes import health
from worker.reconcile.evidence import BEGIN_WITHIN, GO_ON_FOR, Evidence, Round


def looked(at: float, *, live: int = 0, ended: int = 0, **counters: int) -> Round:
    return Round(at=at, health=health(**counters), confirmed_live=live, ended_so_far=ended)


def test_a_minute_of_fitting_rounds_is_proof() -> None:
    evidence = Evidence()
    assert not evidence.add(looked(0.0), age=BEGIN_WITHIN)
    assert not evidence.add(looked(GO_ON_FOR - 1), age=BEGIN_WITHIN + 59)
    assert evidence.add(looked(GO_ON_FOR), age=BEGIN_WITHIN + 60)
    assert not evidence.inconclusive


def test_rounds_that_begin_too_late_prove_nothing() -> None:
    """The run may have come and gone before the first look."""
    evidence = Evidence()
    assert not evidence.add(looked(0.0), age=BEGIN_WITHIN + 1)
    assert evidence.inconclusive
    assert not evidence.add(looked(GO_ON_FOR), age=200.0)


@pytest.mark.parametrize(
    "other",
    [
        looked(30.0, live=1, in_queue=2),
        looked(30.0, live=1, in_queue=1, in_progress=1),
        looked(30.0, live=1, in_progress=1, completed=5, failed=3),
        looked(30.0, live=1, in_progress=1, completed=4, failed=4),
        looked(30.0, ended=1, completed=6, failed=3),
        # A counter that falls has begun anew: whatever it counted before is hidden.
        looked(30.0, live=1, in_progress=1, completed=0, failed=0),
    ],
)
def test_one_round_that_does_not_fit_ends_the_search(other: Round) -> None:
    evidence = Evidence()
    first = looked(0.0, live=1, in_progress=1, completed=4, failed=3)
    assert not evidence.add(first, age=10.0)
    assert not evidence.add(other, age=40.0)
    assert evidence.inconclusive
    assert not evidence.add(looked(90.0), age=100.0)


def test_our_own_runs_and_their_ends_are_explained() -> None:
    evidence = Evidence()
    assert not evidence.add(looked(0.0, live=2, in_progress=2, completed=4, ended=9), age=5.0)
    assert not evidence.add(looked(30.0, live=1, in_progress=1, completed=5, ended=10), age=35.0)
    assert evidence.add(looked(60.0, completed=5, failed=1, ended=11), age=65.0)
