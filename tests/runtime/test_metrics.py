"""Every metric is fed by what it is about, and no label tells of one job or person."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import Harness, done, update
from tests.runtime.test_web import Site
from worker.jobs.errors import (
    CODES,
    InputUnavailable,
    JobFailed,
    OperatorFault,
    RunPodUnavailable,
    RunRefused,
    StoreUnavailable,
    SubmissionUnknown,
    WorkerError,
)
from worker.jobs.run import RunState
from worker.reconcile.reconciler import WebhookResult
from worker.runpod.api import RunPodApi
from worker.runtime.loops import Heartbeats, Wakeup, every
from worker.runtime.metrics import LIVE, METRICS, SCOPE, Metrics
from worker.runtime.readiness import Readiness
from worker.supabase.realtime import HintKind

WORKER = Path(__file__).parents[2] / "worker"
CODE = "\n".join(path.read_text() for path in WORKER.rglob("*.py") if path.name != "metrics.py")
Change = Callable[..., float]


@pytest.fixture
def change() -> Change:
    """How much a sample has changed since the test began."""
    before = _samples()

    def since(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return _samples().get(key, 0.0) - before.get(key, 0.0)

    return since


def _samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample; the label that all of them carry is left out."""
    return {
        (name, tuple(sorted(labels.items() - SCOPE.items()))): value
        for name, labels, value in _shown(METRICS)
    }


def _shown(metrics: Metrics) -> list[tuple[str, dict[str, str], float]]:
    families = text_string_to_metric_families(metrics.text().decode())
    return [(one.name, one.labels, one.value) for family in families for one in family.samples]


def test_every_metric_is_fed_somewhere() -> None:
    names = [name for name in vars(METRICS) if name not in ("registry", "build")]
    unfed = [name for name in names if not re.search(rf"METRICS\.{name}\b", CODE)]
    assert unfed == ["jobs", "oldest_job", "jobs_ended", "runpod_answers"], "fed by methods"
    for method in ("count_jobs", "count_end", "count_answer"):
        assert f"METRICS.{method}(" in CODE


def test_no_label_can_hold_an_id_or_a_name() -> None:
    labels = {label for _, labels, _ in _shown(METRICS) for label in labels}
    assert labels == {
        "status", "outcome", "code", "result", "operation", "kind", "loop", "version", "le",
        *SCOPE,
    }  # fmt: skip


def test_names_end_in_their_unit() -> None:
    """As Prometheus asks for: counters in _total, times in seconds."""
    for family in text_string_to_metric_families(METRICS.text().decode()):
        if family.type == "counter":
            assert {one.name for one in family.samples} == {f"{family.name}_total"}
        assert not family.name.endswith("_created"), "when a series began is of no use here"
        for unit in ("ms", "minutes", "milliseconds", "age", "wait", "lag"):
            assert not family.name.endswith(f"_{unit}"), family.name
        assert family.documentation.endswith("."), family.name


# What exists from the start ------------------------------------------------------------------


def test_every_series_tells_whose_it_is() -> None:
    """The process' metrics too, which every service has."""
    for name, labels, _ in _shown(Metrics()):
        assert labels.items() >= SCOPE.items(), name
    assert any(name.startswith("process_") for name, _, _ in _shown(Metrics()))


VALUES: dict[str, set[tuple[str, ...]]] = {
    "submissions": {("accepted",), ("refused",), ("unknown",)},
    "gpu_seconds": {(state,) for state in RunState if state.terminal},
    "webhooks": {(result,) for result in (*WebhookResult, "forged", "unavailable")},
    "polls": {(state,) for state in (*RunState, "gone", "unavailable")},
    "realtime_hints": {(kind,) for kind in HintKind},
    "loop_failures": {
        (name,)
        for name in re.findall(
            r'^            \("(\w+)", ', (WORKER / "schedule.py").read_text(), re.MULTILINE
        )
    },
    "jobs_ended": {("completed", ""), ("cancelled", "")}
    | {("failed", code) for code in (*CODES, "other")},
    "runpod_answers": {
        (operation, code)
        for operation in ("run", "status", "cancel", "health")
        for code in (
            "not_sent", "broken", "timeout", "200", "400", "401", "402", "403", "404", "408",
            "429", "500", "502", "503", "504", "2xx", "3xx", "4xx", "5xx", "other",
        )
    },
}  # fmt: skip


def test_every_counter_exists_at_zero_with_all_its_labels() -> None:
    """`increase()` does not see the first failure of a kind whose series was not there before."""
    fresh = Metrics()
    counters = {
        name: counter for name, counter in vars(fresh).items() if isinstance(counter, Counter)
    }
    assert {name for name, counter in counters.items() if counter._labelnames} == set(VALUES)
    for name, counter in counters.items():
        found = {
            tuple(sample.labels[label] for label in counter._labelnames): sample.value
            for sample in next(iter(counter.collect())).samples
            if sample.name.endswith("_total")
        }
        assert found == dict.fromkeys(VALUES.get(name, {()}), 0.0), name


def test_no_other_value_of_a_label_is_written_in_the_code() -> None:
    for name, value in re.findall(r'METRICS\.(\w+)\.labels\("(\w+)"\)', CODE):
        assert (value,) in VALUES[name]


@given(operation=st.sampled_from(["run", "status", "cancel", "health"]), status=st.integers(0, 999))
def test_no_status_of_runpod_makes_a_new_series(operation: str, status: int) -> None:
    METRICS.count_answer(operation, str(status))
    assert {sample.labels["code"] for sample in _answers()} == {
        code for _, code in VALUES["runpod_answers"]
    }


def _answers() -> list[Any]:
    return list(next(iter(METRICS.runpod_answers.collect())).samples)


@pytest.mark.parametrize(
    ("status", "code"), [("418", "4xx"), ("599", "5xx"), ("204", "2xx"), ("999", "other")]
)
def test_an_unusual_status_counts_by_its_class(change: Change, status: str, code: str) -> None:
    METRICS.count_answer("run", status)
    assert change("worker_runpod_answers_total", operation="run", code=code) == 1


@pytest.mark.parametrize(
    ("outcome", "code", "shown"),
    [
        ("failed", "run_lost", "run_lost"),
        ("failed", "code_of_a_newer_worker", "other"),
        ("failed", None, "other"),
        ("completed", None, ""),
        ("cancelled", "run_lost", ""),
    ],
)
def test_an_end_counts_with_a_known_code(
    change: Change, outcome: str, code: str | None, shown: str
) -> None:
    METRICS.count_end(outcome, code)
    assert change("worker_jobs_ended_total", outcome=outcome, code=shown) == 1


# ---------------------------------------------------------------------------------------------


def test_statuses_without_rows_are_shown_as_none() -> None:
    METRICS.count_jobs({"queued": (3, 41.5)})
    samples = _samples()
    for status in LIVE:
        labels = (("status", status),)
        assert samples["worker_jobs", labels] == (3 if status == "queued" else 0)
        oldest = 41.5 if status == "queued" else 0
        assert samples["worker_oldest_job_seconds", labels] == oldest


def test_the_version_and_the_process_are_shown() -> None:
    names = {name for name, _ in _samples()}
    assert {"worker_build_info", "process_resident_memory_bytes"} <= names


# Dispatch -----------------------------------------------------------------------------------


@pytest.fixture
def harness() -> Harness:
    return Harness()


async def test_an_accepted_submission_counts_with_the_time_it_took(
    harness: Harness, change: Change
) -> None:
    harness.store.insert()
    submit = harness.runpod.submit

    async def slow(body: Any) -> Any:
        harness.now += 4.0
        return await submit(body)

    harness.runpod.submit = slow  # type: ignore[method-assign]
    await harness.dispatch()
    assert change("worker_claims_total") == 1
    assert change("worker_submissions_total", outcome="accepted") == 1
    assert change("worker_claim_to_submit_seconds_count") == 1
    assert change("worker_claim_to_submit_seconds_sum") == 4.0


@pytest.mark.parametrize(
    ("error", "outcome", "ended", "breaker"),
    [
        (RunRefused(400, "no"), "refused", {"outcome": "failed", "code": "run_refused"}, 0),
        (RunPodUnavailable(None, "away"), "refused", None, 1),
        (OperatorFault(401, "key"), "refused", None, 1),
        (SubmissionUnknown("?"), "unknown", None, 1),
    ],
)
async def test_each_outcome_of_a_submission_counts(
    harness: Harness,
    change: Change,
    error: WorkerError,
    outcome: str,
    ended: dict[str, str] | None,
    breaker: int,
) -> None:
    harness.store.insert()

    harness.runpod.answers.append(error)
    await harness.dispatch()
    assert change("worker_submissions_total", outcome=outcome) == 1
    assert change("worker_claim_to_submit_seconds_count") == 0
    if ended:
        assert change("worker_jobs_ended_total", **ended) == 1
    assert METRICS.registry.get_sample_value("worker_breaker_open") == breaker


@pytest.mark.parametrize(
    "error",
    [
        JobFailed("audio_too_short", "short"),
        InputUnavailable("audio_unreachable", "away", seconds=120),
    ],
)
async def test_a_job_that_fails_before_its_submission_counts_as_ended(
    harness: Harness, change: Change, error: WorkerError
) -> None:
    harness.store.insert()

    def unusable(**_: object) -> Any:
        raise error

    harness.media.open = unusable  # type: ignore[method-assign]
    await harness.dispatch()
    assert change("worker_jobs_ended_total", outcome="failed", code=error.code) == 1


async def test_runpod_that_answers_again_no_longer_shows_as_paused(harness: Harness) -> None:
    """Even when no job is there to prove it: the alert would else go on until the next one."""
    harness.store.insert()
    harness.runpod.answers.append(RunPodUnavailable(503, "away"))
    await harness.dispatch()
    assert METRICS.registry.get_sample_value("worker_breaker_open") == 1
    harness.store.rows.clear()
    harness.now += 3600
    await harness.dispatch()
    assert harness.readiness.status == "ok"
    assert METRICS.registry.get_sample_value("worker_breaker_open") == 0


# Reconcile ----------------------------------------------------------------------------------


async def test_an_ended_run_counts_its_wait_its_seconds_and_its_outcome(change: Change) -> None:
    harness = Harness()
    await harness.submitted()
    harness.runpod.runs["run-1"] = update(
        RunState.COMPLETED, video_url="https://r/v.mp4", execution_ms=61_500, delay_ms=12_000
    )
    await harness.reconciler.tick()
    assert change("worker_polls_total", result="completed") == 1
    assert change("worker_jobs_ended_total", outcome="completed", code="") == 1
    assert change("worker_gpu_seconds_total", outcome="completed") == 61.5
    assert change("worker_runpod_queue_wait_seconds_sum") == 12


async def test_runs_and_unwritten_results_in_memory_are_shown() -> None:
    harness = Harness()
    await harness.submitted()
    harness.runpod.runs["run-1"] = update(RunState.RUNNING)
    await harness.reconciler.tick()
    assert METRICS.registry.get_sample_value("worker_open_runs") == 1
    assert METRICS.registry.get_sample_value("worker_runs_unwritten") == 0


async def test_webhooks_count_by_what_became_of_them(change: Change) -> None:
    site = Site()
    await site.submitted()
    site.runpod.runs["run-1"] = done()
    assert (await site.hook(mac="0" * 64)).status_code == 404
    assert (await site.hook()).status_code == 200
    assert (await site.hook()).status_code == 200
    assert (await site.hook(attempt=7)).status_code == 200
    await site.http.aclose()
    assert {
        result: change("worker_webhooks_total", result=result)
        for result in ("forged", "applied", "already_ended", "unknown_job")
    } == {"forged": 1, "applied": 1, "already_ended": 1, "unknown_job": 1}


# The parts around ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [
        ("run", 200, "200"), ("run", 401, "401"), ("run", 502, "502"), ("status", 404, "404"),
        ("status", 200, "200"), ("cancel", 200, "200"), ("health", 429, "429"),
    ],
)  # fmt: skip
async def test_runpods_answers_count_by_operation_and_status(
    change: Change, operation: str, status: int, code: str
) -> None:
    body = {"id": "r", "status": "IN_QUEUE", "jobs": {}, "workers": {}}
    await _ask(operation, lambda _request: httpx.Response(status, json=body))
    assert change("worker_runpod_answers_total", operation=operation, code=code) >= 1


@pytest.mark.parametrize(
    ("error", "code"), [(httpx.ConnectError("x"), "not_sent"), (httpx.ReadError("x"), "broken")]
)
@pytest.mark.parametrize("operation", ["run", "status", "health"])
async def test_no_answer_counts_by_what_went_wrong(
    change: Change, operation: str, error: Exception, code: str
) -> None:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise error

    await _ask(operation, fail)
    assert change("worker_runpod_answers_total", operation=operation, code=code) >= 1


async def _ask(operation: str, handler: Callable[[httpx.Request], httpx.Response]) -> None:
    api = RunPodApi(
        endpoint_url="https://api.runpod.ai/v2/x",
        api_key="k",
        retry_pause=0.0,
        transport=httpx.MockTransport(handler),
    )
    async with api:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "run": lambda: api.submit({"input": {}}),
            "status": lambda: api.status("r"),
            "cancel": lambda: api.cancel("r"),
            "health": api.health,
        }
        try:
            await calls[operation]()
        except WorkerError:
            return


async def test_a_loop_that_meets_trouble_counts_it(change: Change) -> None:
    stop = asyncio.Event()
    ticks = 0

    async def tick() -> float | None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            stop.set()
            return None
        raise StoreUnavailable("away", retry_in=0.0)

    await every(
        "sweep",
        tick,
        seconds=0.01,
        stop=stop,
        wakeup=Wakeup(),
        beats=Heartbeats(),
        slowest_tick=120.0,
        readiness=Readiness(),
    )
    assert change("worker_loop_failures_total", loop="sweep") == 2
