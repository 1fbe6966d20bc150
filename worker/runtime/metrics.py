"""What the worker counts and measures for Prometheus; labels never hold ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from worker import __version__
from worker.runtime import metric_labels as labels

PREFIX = "worker"
LIVE = labels.LIVE
# Every series carries this label, the process' own too, and every shipped rule and panel selects
# by it: a Prometheus may watch other services, whose processes have the same metrics.
SCOPE = {"worker": "talking-head"}

_PREPARING = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_MINUTES = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)


class Metrics:
    """One registry with everything that /metrics shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._define_jobs()
        self._define_runpod()
        self._define_realtime()
        self._define_process()

    def _define_jobs(self) -> None:
        gauge = partial(Gauge, namespace=PREFIX, registry=self.registry)
        counter = partial(Counter, namespace=PREFIX, registry=self.registry)
        histogram = partial(Histogram, namespace=PREFIX, registry=self.registry)
        self.jobs = gauge(
            "jobs", "Rows that have not ended, by status, as the last sweep saw them.", ["status"]
        )
        self.oldest_job = gauge(
            "oldest_job_seconds",
            "Age of the oldest row in that status; 0 when there is none.",
            ["status"],
        )
        self.jobs_ended = counter(
            "jobs_ended", "Jobs that this worker ended, by outcome and code.", ["outcome", "code"]
        )
        self.claims = counter("claims", "Rows taken for dispatch.")
        self.claim_to_submit = histogram(
            "claim_to_submit_seconds",
            "From the claim to the run that RunPod accepted, media included.",
            buckets=_PREPARING,
        )
        self.submissions = counter(
            "submissions", "POST /run by outcome: accepted, refused, unknown.", ["outcome"]
        )
        self.leases_expired = counter(
            "leases_expired", "Claims whose lease expired: the worker that held them is gone."
        )
        _create(self.jobs_ended, labels.endings())
        _create(self.submissions, labels.SUBMISSIONS)
        self.count_jobs({})

    def _define_runpod(self) -> None:
        gauge = partial(Gauge, namespace=PREFIX, registry=self.registry)
        counter = partial(Counter, namespace=PREFIX, registry=self.registry)
        histogram = partial(Histogram, namespace=PREFIX, registry=self.registry)
        self.queue_wait = histogram(
            "runpod_queue_wait_seconds", "How long runs waited for a GPU.", buckets=_MINUTES
        )
        self.gpu_seconds = counter("gpu_seconds", "GPU seconds of ended runs.", ["outcome"])
        self.webhooks = counter("webhooks", "Webhook calls by what became of them.", ["result"])
        self.polls = counter("polls", "Polls of a run by what they found.", ["result"])
        self.runpod_answers = counter(
            "runpod_answers",
            "RunPod's answers by operation and HTTP status, or not_sent, broken, timeout.",
            ["operation", "code"],
        )
        self.breaker_open = gauge("breaker_open", "1 while submissions are paused.")
        self.open_runs = gauge("open_runs", "Runs held in memory.")
        self.runs_blind = gauge(
            "runs_blind", "Open runs whose endpoint has answered no poll for 30 s or more."
        )
        self.runs_unwritten = gauge(
            "runs_unwritten", "Results in memory that wait for the table to come back."
        )
        _create(self.gpu_seconds, labels.RUN_ENDS)
        _create(self.webhooks, labels.WEBHOOKS)
        _create(self.polls, labels.POLLS)
        _create(self.runpod_answers, labels.answers())

    def _define_realtime(self) -> None:
        gauge = partial(Gauge, namespace=PREFIX, registry=self.registry)
        counter = partial(Counter, namespace=PREFIX, registry=self.registry)
        self.realtime_ready = gauge("realtime_ready", "1 while changes flow.")
        self.realtime_event_age = gauge(
            "realtime_last_event_age_seconds", "Seconds since the last event; NaN before any."
        )
        self.realtime_hints = counter(
            "realtime_hints",
            "Changes heard from Realtime, by kind: insert, cancel, retry, delete.",
            ["kind"],
        )
        self.realtime_lost = counter("realtime_lost", "Realtime sessions that ended in failure.")
        self.realtime_missed = counter(
            "realtime_missed", "New rows that only the sweep found while Realtime was connected."
        )
        self.realtime_unheard = gauge(
            "realtime_unheard_rows",
            "New rows that only the sweep found since the last event from Realtime.",
        )
        _create(self.realtime_hints, labels.HINTS)

    def _define_process(self) -> None:
        gauge = partial(Gauge, namespace=PREFIX, registry=self.registry)
        counter = partial(Counter, namespace=PREFIX, registry=self.registry)
        self.build = gauge("build_info", "Always 1.", ["version"])
        self.build.labels(__version__).set(1)
        self.loop_failures = counter(
            "loop_failures", "Ticks that met trouble which passes, by loop.", ["loop"]
        )
        self.loop_lag = gauge(
            "loop_lag_seconds", "How late the event loop woke up, most of the last minute."
        )
        self.ready = gauge("ready", "2 ok, 1 degraded, 0 down, as /readyz says.")
        _create(self.loop_failures, labels.LOOPS)

    def count_jobs(self, counts: Mapping[str, tuple[int, float]]) -> None:
        """Show rows and the oldest one's age, by status; a status that is not named has none."""
        for status in LIVE:
            number, oldest = counts.get(status, (0, 0.0))
            self.jobs.labels(status).set(number)
            self.oldest_job.labels(status).set(oldest)

    def count_end(self, outcome: str, code: str | None) -> None:
        """Count a job that ended."""
        self.jobs_ended.labels(*labels.ending(outcome, code)).inc()

    def count_answer(self, operation: str, code: str) -> None:
        """Count an answer of RunPod by its HTTP status, or the fault that came instead."""
        self.runpod_answers.labels(operation, labels.answer_code(code)).inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(_Scoped(self.registry))


class _Scoped(CollectorRegistry):
    """Adds SCOPE to every sample; leaves out when each series began, which doubles their number."""

    def __init__(self, inner: Collector) -> None:
        super().__init__()
        self._inner = inner

    def collect(self) -> Iterator[Metric]:
        for family in self._inner.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, **SCOPE})
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            yield family


def _create(counter: Counter, values: Iterable[str | tuple[str, ...]]) -> None:
    """Let the series of these label values exist, at 0."""
    for value in values:
        counter.labels(*((value,) if isinstance(value, str) else value))


METRICS = Metrics()
