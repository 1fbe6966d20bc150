"""The open runs in memory, so that they are followed while the table is away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from worker.jobs.job import Submission
from worker.jobs.run import RunState, RunUpdate
from worker.ports import Clock
from worker.runtime.metrics import METRICS

FORGET_AFTER = 6 * 3600.0
ENDED_SECONDS = 60.0

Key = tuple[str, int]
"""Job id and attempt of a submission."""


@dataclass(slots=True)
class TrackedRun:
    """One open run; `final_update` is its end until that is written.

    By the tracker's clock: `polled_at`, and `named_at`, when the table last named the run.
    """

    endpoint_id: str
    run_id: str
    polled_at: float
    named_at: float
    final_update: RunUpdate | None = None

    def note(self, update: RunUpdate) -> None:
        """Keep the end of the run; a completed one without a video must be asked again."""
        if update.state.terminal and not (
            update.state is RunState.COMPLETED and update.video_url is None
        ):
            self.final_update = update


class RunTracker:
    """Knows the open runs by submission, whether or not the table knows of them already."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._runs: dict[Key, TrackedRun] = {}

    def track(self, key: Key, endpoint_id: str, run_id: str) -> TrackedRun:
        """Follow a run from now on."""
        run = self._runs[key] = TrackedRun(endpoint_id, run_id, self._clock(), self._clock())
        return run

    def of(self, sub: Submission, run_id: str) -> TrackedRun:
        """Return the run of a submission, which is followed from now on; it is polled now."""
        key = (sub.job_id, sub.attempt)
        run = self._runs.get(key) or self.track(key, sub.endpoint_id, run_id)
        run.polled_at = run.named_at = self._clock()
        return run

    def on_endpoint(self, endpoint_id: str) -> list[TrackedRun]:
        """Return the runs of one endpoint."""
        return [run for run in self._runs.values() if run.endpoint_id == endpoint_id]

    def due(self, seconds: float) -> Iterator[TrackedRun]:
        """Yield the runs whose end is not known and that were not polled for so many seconds."""
        now = self._clock()
        for run in self._runs.values():
            if run.final_update is None and now - run.polled_at >= seconds:
                run.polled_at = now
                yield run

    def unnamed(self, seconds: float) -> list[tuple[Key, TrackedRun]]:
        """Return the runs that the table has not named for so long; ended ones after a minute."""
        now = self._clock()
        return [
            (key, run)
            for key, run in self._runs.items()
            if now - run.named_at >= (seconds if run.final_update is None else ENDED_SECONDS)
        ]

    def finish(self, key: Key) -> TrackedRun | None:
        """Forget a run whose end is written, and count what it cost."""
        run = self._runs.pop(key, None)
        if run is None or run.final_update is None:
            return run
        end = run.final_update
        if end.execution_ms is not None:
            METRICS.gpu_seconds.labels(end.state.value).inc(end.execution_ms / 1000)
        if end.delay_ms is not None:
            METRICS.queue_wait.observe(end.delay_ms / 1000)
        return run

    def forget_stale(self) -> None:
        """Forget runs that the table has not named for long: another worker saw their end."""
        stale = self._clock() - FORGET_AFTER
        for key in [key for key, run in self._runs.items() if run.polled_at < stale]:
            del self._runs[key]

    def count(self) -> None:
        """Show in the metrics how many runs are open, and how many ends are not written yet."""
        METRICS.open_runs.set(len(self._runs))
        unwritten = sum(run.final_update is not None for run in self._runs.values())
        METRICS.runs_unwritten.set(unwritten)
