"""What the worker counts and measures for Prometheus; labels never hold ids."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from worker import __version__

_MINUTES = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)

PREFIX = "worker"
LIVE = ("queued", "preparing", "submitted", "running")


class Metrics:
    """One registry with everything that /metrics shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        self.build = Gauge("build", "Always 1.", ["version"], namespace=PREFIX, registry=registry)
        self.build.labels(__version__).set(1)
        self.jobs = Gauge(
            "jobs",
            "Rows that have not ended, by status, as the last sweep saw them.",
            ["status"],
            namespace=PREFIX,
            registry=registry,
        )
        self.oldest_job = Gauge(
            "oldest_job_seconds",
            "Age of the oldest row in that status; 0 when there is none.",
            ["status"],
            namespace=PREFIX,
            registry=registry,
        )
        self.jobs_ended = Counter(
            "jobs_ended",
            "Jobs that this worker ended, by outcome and error code.",
            ["outcome", "code"],
            namespace=PREFIX,
            registry=registry,
        )
        self.claims = Counter(
            "claims", "Rows taken for dispatch.", namespace=PREFIX, registry=registry
        )
        self.claim_to_submit = Histogram(
            "claim_to_submit_seconds",
            "From the claim to the run that RunPod accepted, media included.",
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
            namespace=PREFIX,
            registry=registry,
        )
        self.submissions = Counter(
            "submissions",
            "POST /run by outcome: accepted, refused, unknown.",
            ["outcome"],
            namespace=PREFIX,
            registry=registry,
        )
        self.queue_wait = Histogram(
            "runpod_queue_wait_seconds",
            "How long runs waited for a GPU.",
            buckets=_MINUTES,
            namespace=PREFIX,
            registry=registry,
        )
        self.gpu_seconds = Counter(
            "gpu_seconds",
            "GPU seconds of ended runs, by outcome.",
            ["outcome"],
            namespace=PREFIX,
            registry=registry,
        )
        self.webhooks = Counter(
            "webhooks",
            "Webhook calls by what became of them.",
            ["result"],
            namespace=PREFIX,
            registry=registry,
        )
        self.polls = Counter(
            "polls",
            "Looks at a run by what they found.",
            ["result"],
            namespace=PREFIX,
            registry=registry,
        )
        self.runpod_answers = Counter(
            "runpod_answers",
            "RunPod's answers by operation and HTTP status, or not_sent, broken, timeout.",
            ["operation", "code"],
            namespace=PREFIX,
            registry=registry,
        )
        self.breaker_open = Gauge(
            "breaker_open", "1 while submissions are paused.", namespace=PREFIX, registry=registry
        )
        self.open_runs = Gauge(
            "open_runs", "Runs held in memory.", namespace=PREFIX, registry=registry
        )
        self.runs_blind = Gauge(
            "runs_blind",
            "Open runs whose endpoint has answered no poll for 30 s or more.",
            namespace=PREFIX,
            registry=registry,
        )
        self.runs_unwritten = Gauge(
            "runs_unwritten",
            "Results in memory that wait for the table to come back.",
            namespace=PREFIX,
            registry=registry,
        )
        self.realtime_ready = Gauge(
            "realtime_ready", "1 while changes flow.", namespace=PREFIX, registry=registry
        )
        self.realtime_event_age = Gauge(
            "realtime_last_event_age_seconds",
            "Seconds since the last event; NaN before any.",
            namespace=PREFIX,
            registry=registry,
        )
        self.realtime_hints = Counter(
            "realtime_hints",
            "Changes heard from Realtime, by kind: insert, cancel, retry, delete.",
            ["kind"],
            namespace=PREFIX,
            registry=registry,
        )
        self.realtime_lost = Counter(
            "realtime_lost",
            "Realtime sessions that ended in failure.",
            namespace=PREFIX,
            registry=registry,
        )
        self.realtime_missed = Counter(
            "realtime_missed",
            "Rows found by the sweep, without an event from Realtime.",
            namespace=PREFIX,
            registry=registry,
        )
        self.realtime_unheard = Gauge(
            "realtime_unheard_rows",
            "New rows that only the sweep found since the last event from Realtime.",
            namespace=PREFIX,
            registry=registry,
        )
        self.leases_expired = Counter(
            "leases_expired",
            "Claims whose lease expired: the worker that held them is gone.",
            namespace=PREFIX,
            registry=registry,
        )
        self.loop_failures = Counter(
            "loop_failures",
            "Ticks that met trouble which passes, by loop.",
            ["loop"],
            namespace=PREFIX,
            registry=registry,
        )
        self.loop_lag = Gauge(
            "loop_lag_seconds",
            "How late the event loop woke up, most of the last minute.",
            namespace=PREFIX,
            registry=registry,
        )
        self.ready = Gauge(
            "ready",
            "2 ok, 1 degraded, 0 down, as /readyz says.",
            namespace=PREFIX,
            registry=registry,
        )

    def count_jobs(self, counts: Mapping[str, tuple[int, float]]) -> None:
        """Show rows and the oldest one's age, by status; a status that is not named has none."""
        for status in LIVE:
            number, oldest = counts.get(status, (0, 0.0))
            self.jobs.labels(status).set(number)
            self.oldest_job.labels(status).set(oldest)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


METRICS = Metrics()
