"""A new row that was claimed although no event told of it is noticed, however soon it was found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs.cases import job
from tests.supabase.heard import PATIENT, listening
from tests.supabase.realtime_server import realtime
from worker.jobs.job import Job
from worker.supabase.realtime_rows import HINT_SECONDS, ROWS_KEPT, NewRows

# The library reads attributes that its own websockets release has deprecated.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:ConnectionClosed\.(code|reason) is deprecated:DeprecationWarning"
)


class Rows:
    """Rows under an injected clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.new = NewRows(lambda: self.now)


def test_a_row_counts_once_when_its_event_should_have_come():
    rows = Rows()
    rows.new.claim("a", 1.0)
    assert rows.new.unheard() == [], "its event may still come"
    rows.now += HINT_SECONDS
    assert rows.new.unheard() == [1.0 + HINT_SECONDS]
    assert rows.new.unheard() == []


def test_an_event_before_or_soon_after_the_claim_is_in_time():
    rows = Rows()
    rows.new.hear("before")
    for row in ("before", "after"):
        rows.new.claim(row, 1.0)
    rows.new.hear("after")
    rows.now += 60
    assert rows.new.unheard() == []


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.floats(0, 10))))
def test_a_row_is_unheard_exactly_if_no_event_told_of_it(steps):
    """In any order of claims and events."""
    rows = Rows()
    claimed, heard = set(), set()
    for row, event, waited in steps:
        if event:
            rows.new.hear(str(row))
            heard.add(row)
        elif row not in claimed:
            rows.new.claim(str(row), waited)
            claimed.add(row)
    rows.now += HINT_SECONDS + 0.1
    assert len(rows.new.unheard()) == len(claimed - heard)


def test_what_is_remembered_is_bounded():
    rows = Rows()
    for number in range(ROWS_KEPT + 1):
        rows.new.hear(f"heard {number}")
        rows.new.claim(f"claimed {number}", 10.0)
    assert len(rows.new._heard) == len(rows.new._awaited) == ROWS_KEPT
    rows.new.unheard()
    rows.new.claim("heard 0", 10.0)
    rows.new.claim(f"heard {ROWS_KEPT}", 10.0)
    assert rows.new.unheard() == [10.0]


def claimed(seconds: float, **values: object) -> Job:
    """A row that was claimed so many seconds after its insert."""
    instants = {
        "created_at": "2026-01-01T00:00:00+00:00",
        "updated_at": f"2026-01-01T00:00:{seconds:09.6f}+00:00",
    }
    return job("preparing", **(instants | values))


async def test_only_the_first_claim_of_a_row_can_tell_of_a_missed_event():
    async with realtime() as server, listening(server.url, timings=PATIENT) as heard:
        await heard.ready()
        started = heard.listener._clock()
        now = 20.0
        heard.listener._clock = heard.listener._rows._clock = lambda: started + now
        heard.listener.claimed(claimed(10, attempt=2))
        heard.listener.claimed(claimed(10, try_number=2))
        heard.listener.claimed(job("preparing"))
        assert heard.listener.unheard == 0
        heard.listener.claimed(claimed(2))
        assert heard.listener.unheard == 0
        now = 22.0
        heard.listener.check_missed()
        assert heard.listener.unheard == 1, "the sweep counts it when its event is late"
