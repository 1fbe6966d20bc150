"""The stand-in's rules for runs, without HTTP and with the test's own clock."""

from typing import Any

import pytest

from devstack.runpod.cloud import Cloud
from devstack.runpod.options import Options, OptionsInvalid
from devstack.runpod.runs import Refused, Request, Run, State


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Notes:
    """A run log in memory."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def write(self, event: str, run: Run, body: dict[str, Any]) -> None:
        self.events.append(event)


class Place:
    """A cloud with its clock, its run log and its callbacks."""

    def __init__(self, **options: Any) -> None:
        self.clock, self.notes = Clock(), Notes()
        self.cloud = Cloud(clock=self.clock, run_log=self.notes, options=Options(**options))
        self.ended: list[Run] = []
        self.stopped: list[str] = []
        self.cloud.on_end = self.ended.append
        self.cloud.on_stop = self.stopped.append

    def submit(self, **body: Any) -> Run:
        return self.cloud.accept(Request.from_body({"input": {"a": 1}, **body}))

    def status(self, run: Run) -> dict[str, Any]:
        return run.status(self.clock.now)


def test_a_run_waits_runs_and_completes_with_its_times() -> None:
    place = Place()
    run = place.submit()
    assert place.status(run) == {"id": run.id, "status": "IN_QUEUE"}
    place.clock.now += 2
    assert place.cloud.take("w1") is run
    place.clock.now += 3
    assert place.cloud.finish(run, "w1", {"output": {"video": ["u"]}})
    place.clock.now += 60
    assert place.status(run) == {
        "id": run.id,
        "status": "COMPLETED",
        "delayTime": 2000,
        "executionTime": 3000,
        "output": {"video": ["u"]},
        "workerId": "w1",
    }
    assert place.notes.events == ["accepted", "started", "ended"]


def test_progress_shows_as_output_and_a_late_one_changes_nothing() -> None:
    place = Place()
    run = place.submit()
    place.cloud.take("w1")
    place.cloud.progress(run, "w1", {"progress": 40})
    assert place.status(run)["output"] == {"progress": 40}
    place.cloud.finish(run, "w1", {"error": "broken"})
    place.cloud.progress(run, "w1", {"progress": 50})
    assert run.state is State.FAILED
    assert "output" not in place.status(run)


def test_execution_timeout_fails_the_run_and_stops_its_worker() -> None:
    place = Place()
    run = place.submit(policy={"executionTimeout": 5000})
    place.clock.now += 20
    place.cloud.take("w1")
    place.clock.now += 5.1
    place.cloud.settle()
    assert place.status(run)["error"] == "executionTimeout exceeded"
    assert place.status(run)["status"] == "FAILED"
    assert place.stopped == ["w1"]


@pytest.mark.parametrize("started", [True, False])
def test_ttl_deletes_a_live_run_in_any_state(started: bool) -> None:
    place = Place(worker_lost_seconds=1000)
    run = place.submit(policy={"ttl": 10_000})
    if started:
        place.cloud.take("w1")
    place.clock.now += 10.1
    assert place.cloud.find(run.id) is None
    assert place.cloud.take("w2") is None


def test_a_result_is_kept_for_its_retention_and_the_record_forever() -> None:
    place = Place()
    run = place.submit()
    place.cloud.take("w1")
    place.cloud.finish(run, "w1", {"output": 1})
    place.clock.now += 1799
    assert place.cloud.find(run.id) is run
    place.clock.now += 2
    assert place.cloud.find(run.id) is None
    assert place.cloud.runs[run.id].gone == "retention over"


def test_a_lost_worker_costs_a_second_start_and_then_the_run() -> None:
    place = Place()
    run = place.submit()
    place.cloud.take("w1")
    place.cloud.worker_gone("w1")
    assert place.status(run) == {"id": run.id, "status": "IN_QUEUE", "retries": 1}
    place.cloud.take("w2")
    place.cloud.worker_gone("w2")
    body = place.status(run)
    assert (body["status"], body["retries"]) == ("FAILED", 1)
    assert body["error"] == "job timed out after 1 retries"
    assert "output" not in body


def test_a_worker_that_no_longer_pings_is_lost() -> None:
    place = Place()
    run = place.submit()
    place.cloud.take("w1")
    place.clock.now += 30
    place.cloud.heard("w1")
    place.clock.now += 30
    place.cloud.settle()
    assert run.state is State.IN_PROGRESS
    place.clock.now += 10
    place.cloud.settle()
    assert (run.state, run.retries, place.stopped) == (State.IN_QUEUE, 1, ["w1"])


def test_a_worker_that_asks_again_without_a_result_has_lost_its_run() -> None:
    place = Place()
    run = place.submit()
    place.cloud.take("w1")
    assert place.cloud.take("w1") is run
    assert (run.retries, run.takes) == (1, 2)


def test_the_result_of_a_worker_that_lost_its_run_is_ignored() -> None:
    place = Place()
    run = place.submit()
    place.cloud.take("w1")
    place.cloud.worker_gone("w1")
    place.cloud.take("w2")
    place.cloud.finish(run, "w1", {"output": "old"})
    assert run.state is State.IN_PROGRESS
    place.cloud.finish(run, "w2", {"output": "new"})
    assert place.status(run)["output"] == "new"


@pytest.mark.parametrize(
    ("result", "status", "output"),
    [
        ({"output": None}, "COMPLETED", None),
        ({}, "COMPLETED", "absent"),
        ({"error": {"code": 1}}, "COMPLETED", "absent"),
        ({"error": "x", "output": {"details": [1]}}, "FAILED", {"details": [1]}),
        ({"error": "x"}, "FAILED", "absent"),
    ],
)
def test_results_end_a_run_as_the_platform_ends_it(
    result: dict[str, Any], status: str, output: object
) -> None:
    place = Place()
    run = place.submit()
    place.cloud.take("w1")
    place.cloud.finish(run, "w1", result)
    body = place.status(run)
    assert (body["status"], body.get("output", "absent")) == (status, output)


def test_a_refused_result_ends_as_completed_without_output() -> None:
    place = Place(refuse_results=True)
    run = place.submit()
    place.cloud.take("w1")
    assert not place.cloud.finish(run, "w1", {"output": {"video": ["u"]}})
    body = place.status(run)
    assert body["status"] == "COMPLETED"
    assert "output" not in body


def test_cancelling_ends_a_live_run_and_leaves_a_finished_one() -> None:
    place = Place()
    waiting, running, done = place.submit(), place.submit(), place.submit()
    for run in (waiting, running):
        place.cloud.take(f"w{run.number}")
    place.cloud.finish(waiting, "w1", {"output": 1})
    place.cloud.cancel(waiting)
    place.cloud.cancel(running)
    place.cloud.cancel(done)
    assert [run.state for run in (waiting, running, done)] == [
        State.COMPLETED,
        State.CANCELLED,
        State.CANCELLED,
    ]
    assert place.stopped == ["w2"]


def test_only_a_failed_run_is_retried_and_keeps_its_id() -> None:
    place = Place()
    run = place.submit()
    assert not place.cloud.retry(run)
    place.cloud.take("w1")
    place.cloud.finish(run, "w1", {"error": "x"})
    assert place.cloud.retry(run)
    assert place.status(run) == {"id": run.id, "status": "IN_QUEUE"}
    assert place.cloud.take("w1") is run


def test_the_first_run_waits_for_a_cold_start_and_the_next_does_not() -> None:
    place = Place(cold_start_seconds=30)
    first, second = place.submit(), place.submit()
    assert place.cloud.take("w1") is None
    place.clock.now += 31
    assert place.cloud.take("w1") is first
    place.cloud.finish(first, "w1", {"output": 1})
    third = place.submit()
    assert place.cloud.take("w1") is second
    assert place.cloud.take("w2") is third


def test_without_workers_every_run_waits() -> None:
    place = Place(no_workers=True)
    place.submit()
    assert place.cloud.take("w1") is None


def test_webhooks_are_sent_for_ends_and_for_cancels_if_the_option_says_so() -> None:
    for told in (True, False):
        place = Place(webhook_on_cancel=told)
        run = place.submit(webhook="http://127.0.0.1/hook")
        place.cloud.take("w1")
        assert place.ended == []
        place.cloud.cancel(run)
        assert place.ended == ([run] if told else [])


def test_a_run_lost_by_the_queue_was_accepted_and_is_never_found() -> None:
    place = Place(lose_run=1.0)
    run = place.submit()
    assert place.cloud.find(run.id) is None
    assert place.notes.events == ["accepted", "gone"]


def test_draws_repeat_with_the_seed_and_differ_between_runs() -> None:
    draws = []
    for _ in range(2):
        place = Place(seed=7)
        draws.append([place.cloud.draw(place.submit(), "hang") for _ in range(20)])
    assert draws[0] == draws[1]
    assert len(set(draws[0])) == 20


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"input": {}},
        {"input": []},
        {"input": "text"},
        {},
        {"input": {"a": 1}, "webhook": 5},
        {"input": {"a": 1}, "webhook": "ftp://x"},
        {"input": {"a": 1}, "policy": []},
        {"input": {"a": 1}, "policy": {"executionTimeout": 4999}},
        {"input": {"a": 1}, "policy": {"ttl": 9999}},
        {"input": {"a": 1}, "policy": {"ttl": 8 * 86_400_000}},
        {"input": {"a": 1}, "policy": {"ttl": 20_000.5}},
        {"input": {"a": 1}, "policy": {"ttl": "20000"}},
    ],
)
def test_a_body_that_the_service_refuses_is_refused(body: object) -> None:
    with pytest.raises(Refused):
        Request.from_body(body)


@pytest.mark.parametrize(
    "wanted", [{"nonsense": 1}, {"hang": "yes"}, {"seed": -1}, {"render": "gif"}, {"fail_text": 1}]
)
def test_an_invalid_option_is_refused(wanted: dict[str, object]) -> None:
    with pytest.raises(OptionsInvalid):
        Options().changed(wanted)
