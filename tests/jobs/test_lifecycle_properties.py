"""What holds for any news in any order."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.jobs.cases import VIDEO, job, sub, written
from worker.jobs.change import Decision, Gone, Limits, NotAccepted, Nothing, Observation, Seen
from worker.jobs.job import Case, SubmissionState
from worker.jobs.lifecycle import decide
from worker.jobs.run import RunState, RunUpdate

LIMITS = Limits(unknown_wait=500.0)

updates = st.builds(
    RunUpdate,
    run_id=st.just("r1"),
    state=st.sampled_from(RunState),
    execution_ms=st.none() | st.integers(0, 10**7),
    video_url=st.none() | st.just(VIDEO),
    progress=st.none() | st.floats(0, 100),
    error=st.sampled_from([None, "boom", "job timed out after 1 retries", "下载图片失败"]),
).map(
    lambda one: one if one.state is RunState.COMPLETED else replace(one, video_url=None)
)  # fmt: skip
news = st.one_of(
    st.builds(Seen, update=updates),
    st.builds(Gone, healthy=st.booleans()),
    st.just(NotAccepted()),
    st.just(Nothing()),
)
submissions = st.builds(
    sub,
    st.sampled_from([one.value for one in SubmissionState]),
    age=st.sampled_from([0.0, 501.0]),
    ttl_left=st.sampled_from([9000.0, -1.0]),
    queued_for=st.sampled_from([0.0, 9999.0]),
    missing_for=st.sampled_from([None, 90.0]),
    missing_looks=st.sampled_from([0, 9]),
    incomplete_for=st.sampled_from([None, 90.0]),
    cancel_asked_ago=st.sampled_from([None, 5.0, 60.0]),
)
rows = st.builds(
    job,
    st.sampled_from(["queued", "preparing", "submitted", "running"]),
    cancel_requested=st.booleans(),
    progress=st.integers(0, 99),
    submissions=st.integers(1, 3),
    lease_left=st.sampled_from([None, 20.0, -5.0]),
    ending_code=st.sampled_from([None, "queue_timeout"]),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A row that has not ended, with one to three submissions of its try."""
    found = draw(st.lists(submissions, min_size=1, max_size=3))
    numbered = tuple(
        replace(one, attempt=n, runpod_job_id=one.runpod_job_id and f"r{n}")
        for n, one in enumerate(found, 1)
    )
    return Case(job_id="j", job=draw(rows), submissions=numbered)


def decided(case: Case, attempt: int, look: Observation) -> Decision:
    return decide(case, attempt, look, LIMITS, webhooks_work=True, jitter=0.5)


deliveries = st.lists(st.tuples(st.integers(1, 4), news), max_size=12)


@given(cases(), deliveries)
def test_at_most_one_terminal_status_is_reached_and_never_left(
    case: Case, told: list[tuple[int, Observation]]
) -> None:
    ended: set[str] = set()
    for attempt, look in told:
        case = written(case, decided(case, attempt, look).change)
        assert case.job is not None
        if case.job.status.terminal:
            ended.add(case.job.status.value)
        assert not ended or case.job.status.value in ended
    assert len(ended) <= 1


@given(cases(), deliveries)
def test_progress_never_falls(case: Case, told: list[tuple[int, Observation]]) -> None:
    assert case.job is not None
    before = case.job.progress
    for attempt, look in told:
        case = written(case, decided(case, attempt, look).change)
        assert case.job is not None
        assert before <= case.job.progress <= 100
        before = case.job.progress


@given(cases(), st.integers(1, 3), news)
def test_what_is_cancelled_is_live_and_delivered_nothing(
    case: Case, attempt: int, look: Observation
) -> None:
    decision = decided(case, attempt, look)
    after = written(case, decision.change)
    for one in decision.cancel:
        now = after.submission(one.attempt)
        assert now is not None
        assert now.state.live
        assert now.video_url is None


@given(cases(), st.integers(1, 3), news)
def test_a_decision_that_is_applied_twice_is_harmless(
    case: Case, attempt: int, look: Observation
) -> None:
    """The same news again: no other ending, nothing counted twice, no cancel asked twice."""
    first = decided(case, attempt, look)
    once = written(case, first.change)
    second = decided(once, attempt, look)
    twice = written(once, second.change)
    assert once.job is not None
    assert twice.job is not None
    if once.job.status.terminal:
        assert second.change.job is None
        assert twice.job == once.job
    assert twice.job.submissions == once.job.submissions
    assert twice.job.cost_usd == once.job.cost_usd
    assert not {one.attempt for one in first.cancel} & {one.attempt for one in second.cancel}


@given(cases(), st.integers(1, 3), news)
def test_an_ending_leaves_nothing_open_but_what_a_video_made_useless(
    case: Case, attempt: int, look: Observation
) -> None:
    decision = decided(case, attempt, look)
    after = written(case, decision.change)
    assert after.job is not None
    still_open = [one for one in after.submissions if one.state.open]
    if after.job.status in ("failed", "cancelled"):
        assert still_open == []
    if after.job.status == "completed":
        assert any(one.video_url for one in after.submissions)
    assert decision.change.completed == after.job.status.terminal
