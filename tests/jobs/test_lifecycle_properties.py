"""What holds for any events in any order."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from tests.harness import POLICY, VIDEO
from tests.jobs.cases import job, seen, sub, written
from worker.jobs.change import Decision
from worker.jobs.events import (
    Accepted,
    Event,
    InputNotDelivered,
    NotAccepted,
    NotFound,
    Observed,
    OutcomeUnknown,
    Refused,
    Rejected,
    Released,
    Reviewed,
)
from worker.jobs.job import Case, SubmissionState
from worker.jobs.lifecycle import decide
from worker.jobs.run import RunState, RunUpdate

LIMITED = replace(POLICY, unknown_wait=500.0, gpu_price_per_second=Decimal("0.001"))
ERRORS = [None, "boom", "job timed out after 1 retries", "下载图片失败", "CUDA out of memory"]

attempts = st.integers(1, 4)
updates = st.builds(
    RunUpdate,
    run_id=st.just("r1"),
    state=st.sampled_from(RunState),
    execution_ms=st.none() | st.integers(0, 10**7),
    video_url=st.none() | st.just(VIDEO),
    progress=st.none() | st.floats(0, 100),
    error=st.sampled_from(ERRORS),
).map(
    lambda said: said if said.state is RunState.COMPLETED else replace(said, video_url=None)
)  # fmt: skip
observations = st.one_of(
    st.builds(Observed, attempt=attempts, update=updates),
    st.builds(NotFound, attempt=attempts, healthy=st.booleans()),
    st.builds(NotAccepted, attempt=attempts),
    st.just(Reviewed()),
)
claim_events = st.one_of(
    st.builds(Accepted, attempt=attempts, run_id=st.sampled_from(["r1", "r2", "r9"])),
    st.builds(
        Refused, attempt=attempts, reason=st.just("no"),
        code=st.sampled_from([None, "run_refused"]),
    ),
    st.builds(OutcomeUnknown, attempt=attempts, reason=st.just("timeout")),
    st.builds(Rejected, attempt=attempts, code=st.just("audio_missing"), message=st.just("no")),
    st.builds(Released, attempt=attempts),
    st.builds(
        InputNotDelivered, attempt=attempts, code=st.just("audio_unreachable"),
        message=st.just("no"), seconds=st.floats(0, 200),
    ),
)  # fmt: skip
events = observations | claim_events
submissions = st.builds(
    sub,
    st.sampled_from([state.value for state in SubmissionState]),
    age=st.sampled_from([0.0, 501.0]),
    ttl_left=st.sampled_from([9000.0, -1.0]),
    queued_for=st.sampled_from([0.0, 9999.0]),
    missing_for=st.sampled_from([None, 90.0]),
    missing_looks=st.sampled_from([0, 9]),
    incomplete_for=st.sampled_from([None, 90.0]),
    cancel_asked_ago=st.sampled_from([None, 5.0, 60.0]),
    next_poll_in=st.sampled_from([10.0, -10.0]),
)
rows = st.builds(
    job,
    st.sampled_from(["queued", "preparing", "submitted", "running"]),
    attempt=attempts,
    cancel_requested=st.booleans(),
    progress=st.integers(0, 99),
    lease_left=st.sampled_from([None, 20.0, -5.0]),
    ending_code=st.sampled_from([None, "queue_timeout"]),
    crashes_alone=st.sampled_from([0, 4]),
    claimed_alone=st.booleans(),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A row that has not ended, with one to three submissions of its try."""
    found = draw(st.lists(submissions, min_size=1, max_size=3))
    numbered = tuple(
        replace(entry, attempt=n, runpod_job_id=entry.runpod_job_id and f"r{n}")
        for n, entry in enumerate(found, 1)
    )
    return Case(job_id="j", job=draw(rows), submissions=numbered)


def decided(case: Case, event: Event) -> Decision:
    return decide(case, event, LIMITED, webhooks_work=True, jitter=0.5)


def after(case: Case, event: Event) -> Case:
    return written(case, decided(case, event).change)


@given(cases(), st.lists(events, max_size=12))
def test_at_most_one_terminal_status_is_reached_and_never_left(
    case: Case, told: list[Event]
) -> None:
    ended: set[str] = set()
    for event in told:
        case = after(case, event)
        assert case.job is not None
        if case.job.status.terminal:
            ended.add(case.job.status.value)
        assert not ended or case.job.status.value in ended
    assert len(ended) <= 1


@given(cases(), st.lists(events, max_size=12))
def test_progress_never_falls(case: Case, told: list[Event]) -> None:
    assert case.job is not None
    before = case.job.progress
    for event in told:
        case = after(case, event)
        assert case.job is not None
        # The trigger holds this, too; a decision must not count on it.
        assert before <= case.job.progress <= 100
        before = case.job.progress


@given(cases(), events)
def test_what_is_cancelled_is_live_and_delivered_nothing(case: Case, event: Event) -> None:
    decision = decided(case, event)
    now = written(case, decision.change)
    for stopped in decision.effects.cancel:
        found = now.submission(stopped.attempt)
        assert found is not None
        assert found.state.live
        assert found.video_url is None


@given(cases(), observations)
def test_a_decision_that_is_applied_twice_is_harmless(case: Case, event: Event) -> None:
    """The same news again: no other ending, nothing counted twice, no cancel asked twice."""
    first = decided(case, event)
    once = written(case, first.change)
    second = decided(once, event)
    twice = written(once, second.change)
    assert once.job is not None
    assert twice.job is not None
    if once.job.status.terminal:
        assert second.change.job == {}
        assert twice.job == once.job
    assert twice.submission_count == once.submission_count
    assert twice.job.cost_usd == once.job.cost_usd
    stopped = {found.attempt for found in first.effects.cancel}
    assert not stopped & {found.attempt for found in second.effects.cancel}


@given(cases(), events)
def test_an_ending_leaves_nothing_open_but_what_a_video_made_useless(
    case: Case, event: Event
) -> None:
    decision = decided(case, event)
    now = written(case, decision.change)
    assert now.job is not None
    still_open = [found for found in now.submissions if found.state.open]
    if now.job.status in ("failed", "cancelled"):
        assert still_open == []
    if now.job.status == "completed":
        assert any(found.video_url for found in now.submissions)
    assert decision.kind.ends_job == now.job.status.terminal


@given(cases(), events)
def test_nothing_is_sent_again_while_a_run_may_be_live(case: Case, event: Event) -> None:
    """A row goes back in line only when no submission of its try is open."""
    assert case.job is not None
    now = after(case, event)
    assert now.job is not None
    if now.job.status == "queued" and case.job.status != "queued":
        assert [found for found in now.present if found.state.open] == []


endings = st.builds(
    lambda state, error, video: (state, error, video),
    st.sampled_from(["completed", "failed", "timed_out", "cancelled", "lost"]),
    st.sampled_from(ERRORS),
    st.booleans(),
)


@st.composite
def last_words(draw: st.DrawFn) -> tuple[Case, list[Event]]:
    """Two or three live runs, some of them cancelled by us, and the last news of each."""
    told = draw(st.lists(endings, min_size=2, max_size=3))
    asked = draw(st.lists(st.sampled_from([None, 5.0]), min_size=3, max_size=3))
    runs, news = [], list[Event]()
    for n, (state, error, video) in enumerate(told, 1):
        runs.append(sub("running", n, cancel_asked_ago=asked[n - 1], missing_for=90.0,
                        missing_looks=9, incomplete_for=90.0))  # fmt: skip
        if state == "lost":
            news.append(NotFound(attempt=n, healthy=True))
        elif state == "completed":
            url = {"video_url": VIDEO if video else None}
            news.append(seen(state, n, execution_ms=1000 * n, **url))
        else:
            news.append(seen(state, n, execution_ms=1000 * n, error=error))
    row = job("running", attempt=len(runs), cancel_requested=draw(st.booleans()))
    return Case(job_id="j", job=row, submissions=tuple(runs)), news


def end(case: Case, news: Sequence[Event]) -> tuple[object, ...]:
    """How the job stands after these news: status, code, submissions, and what it cost."""
    for event in news:
        case = after(case, event)
    assert case.job is not None
    return case.job.status, case.job.error_code, case.submission_count, case.job.cost_usd


@given(last_words())
def test_the_order_of_the_same_news_decides_nothing(told: tuple[Case, list[Event]]) -> None:
    """One order must not fail a job that another order pays for again."""
    case, news = told
    assert len({end(case, order) for order in permutations(news)}) == 1
