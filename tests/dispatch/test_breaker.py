"""When POSTs are held back, and how they begin again."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from worker.dispatch.breaker import Breaker


def test_a_closed_breaker_lets_everything_through() -> None:
    breaker = Breaker()
    assert breaker.closed
    assert breaker.room is None
    assert breaker.allow()
    assert not breaker.probe_due(1e9)
    assert breaker.seconds_to_probe(0.0) is None


def test_an_open_one_only_probes_and_then_lets_one_post_try() -> None:
    breaker = Breaker(first=2.0)
    breaker.trip(100.0, "502")
    assert breaker.reason == "502"
    assert breaker.room == 0
    assert not breaker.allow()
    assert not breaker.probe_due(101.9)
    assert breaker.seconds_to_probe(101.0) == 1.0
    assert breaker.probe_due(102.0)
    breaker.probed(102.0, None)
    assert breaker.room == 1
    assert breaker.seconds_to_probe(103.0) is None
    assert not breaker.probe_due(1e9)
    assert breaker.allow()
    assert breaker.room == 0
    assert not breaker.allow()
    breaker.release_trial()
    assert breaker.allow()
    breaker.record_success()
    assert breaker.closed


def test_a_failed_probe_waits_longer_each_time() -> None:
    breaker = Breaker(first=2.0, most=60.0)
    now, waits = 0.0, []
    breaker.trip(now, "502")
    for _ in range(6):
        wait = breaker.seconds_to_probe(now)
        assert wait is not None
        waits.append(wait)
        now += wait
        breaker.probed(now, "still 502", operator=True)
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert breaker.operator


def test_posts_that_fail_together_are_one_outage() -> None:
    breaker = Breaker(first=2.0)
    for _ in range(6):
        breaker.trip(0.0, "502")
    assert breaker.seconds_to_probe(0.0) == 2.0


def test_runpods_own_wish_to_wait_is_kept_by_later_failures() -> None:
    breaker = Breaker(first=2.0)
    breaker.trip(0.0, "429", wait=30.0)
    breaker.trip(1.0, "502")
    assert breaker.seconds_to_probe(1.0) == 29.0
    breaker.record_success()
    breaker.trip(2.0, "502")
    assert breaker.seconds_to_probe(2.0) == 2.0


class Posts(RuleBasedStateMachine):
    """POSTs, answers and probes in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.trials = 0

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(wait=st.none() | st.floats(0, 50))
    def a_post_fails(self, wait: float | None) -> None:
        self.breaker.trip(self.now, "502", wait=wait)
        self.trials = 0

    @rule()
    def a_post_is_answered(self) -> None:
        self.breaker.record_success()
        self.trials = 0

    @precondition(lambda self: self.breaker.probe_due(self.now))
    @rule(fine=st.booleans())
    def a_probe_is_answered(self, fine: bool) -> None:
        self.breaker.probed(self.now, None if fine else "502")
        self.trials = 0

    @precondition(lambda self: not self.breaker.closed)
    @rule()
    def a_post_wants_to_go(self) -> None:
        self.trials += self.breaker.allow()

    @precondition(lambda self: self.trials == 1)
    @rule()
    def the_post_is_not_made(self) -> None:
        self.breaker.release_trial()
        self.trials = 0

    @invariant()
    def at_most_one_post_goes_through_while_it_is_not_closed(self) -> None:
        assert self.trials <= 1
        assert self.breaker.closed or self.breaker.room == int(self.breaker.room == 1)

    @invariant()
    def something_always_leads_on(self) -> None:
        """Closed, or a probe is planned, or a POST may go, or one is under way."""
        breaker = self.breaker
        planned = breaker.seconds_to_probe(self.now) is not None
        assert breaker.closed or planned or breaker.room == 1 or self.trials == 1


TestPosts = Posts.TestCase
