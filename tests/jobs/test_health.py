"""What is read from /health bodies, and which bodies are no answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.jobs.errors import RunPodUnavailable
from worker.jobs.health import Health, parse_health

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_an_observed_body_is_read_with_every_worker_state():
    jobs = {"completed": 367, "failed": 6, "inProgress": 1, "inQueue": 2, "retried": 3}
    workers = {"idle": 1, "initializing": 0, "ready": 1, "throttled": 4, "unhealthy": 0}
    assert parse_health({"jobs": jobs, "workers": workers}) == Health(
        in_queue=2, in_progress=1, completed=367, failed=6, workers=workers
    )


def test_missing_and_nonsense_counters_count_as_zero():
    health = parse_health({"jobs": {"inQueue": "7", "inProgress": -1, "failed": True}})
    assert health == Health(in_queue=0, in_progress=0, completed=0, failed=0, workers={})


@pytest.mark.parametrize("body", [None, [], "ok", {}, {"error": "no"}, {"jobs": 3}])
def test_an_answer_without_run_counters_does_not_read_as_an_idle_endpoint(body):
    with pytest.raises(RunPodUnavailable):
        parse_health(body)


@given(JSON | st.fixed_dictionaries({"jobs": JSON, "workers": JSON}))
def test_any_json_is_either_counters_of_zero_and_more_or_no_answer(body):
    try:
        health = parse_health(body)
    except RunPodUnavailable:
        return
    counts = [health.in_queue, health.in_progress, health.completed, *health.workers.values()]
    assert all(count >= 0 for count in counts)
