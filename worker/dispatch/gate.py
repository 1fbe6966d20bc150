"""Whether runs may be sent now: moves the breaker, and tells people, metrics and the log."""

from __future__ import annotations

import structlog

from worker.dispatch.breaker import Breaker
from worker.jobs.errors import OperatorFault, TransientError
from worker.ports import Clock, Jitter, RunPod
from worker.runtime.metrics import METRICS
from worker.runtime.readiness import Readiness, Severity

log = structlog.get_logger(__name__)


class SubmissionGate:
    """Pauses submissions while RunPod or the account has a problem, and finds its end."""

    def __init__(
        self, *, runpod: RunPod, readiness: Readiness, clock: Clock, jitter: Jitter
    ) -> None:
        self._breaker = Breaker()
        self._runpod = runpod
        self._readiness = readiness
        self._clock = clock
        self._jitter = jitter

    @property
    def room(self) -> int | None:
        """How many rows may be claimed now; None when it does not matter."""
        return self._breaker.room

    def allow(self) -> bool:
        """Ask right before a POST; after a pause only the first to ask may send."""
        return self._breaker.allow()

    def release_trial(self) -> None:
        """Say that the POST that was allowed was not made after all."""
        self._breaker.release_trial()

    async def probe(self) -> None:
        """Ask GET /health when that is due."""
        if not self._breaker.probe_due(self._clock()):
            return
        try:
            await self._runpod.health()
        except OperatorFault as error:
            self.trip(error.message, operator=True)
        except TransientError as error:
            self.trip(error.message, wait=error.retry_in)
        else:
            self._breaker.probed(self._clock(), None)
            METRICS.breaker_open.set(0)
            if self._breaker.operator:
                # /health also answers an account without credit: only a job can tell.
                reason = f"{self._breaker.reason} /health answers; the next job will tell."
                self._readiness.report("runpod", reason)
            else:
                self._readiness.clear("runpod")
            log.info("runpod.probed", result="answers again")

    def seconds_to_probe(self) -> float | None:
        """Return seconds until the next probe; None when none is planned."""
        return self._breaker.seconds_to_probe(self._clock())

    def trip(self, reason: str, *, operator: bool = False, wait: float | None = None) -> None:
        """Pause: a submission or probe failed for reasons of the provider or the operator."""
        self._breaker.trip(
            self._clock(), reason, operator=operator, wait=wait, jitter=self._jitter()
        )
        METRICS.breaker_open.set(1)
        severity: Severity = "down" if operator else "degraded"
        if self._readiness.report("runpod", reason, severity=severity):
            log.warning("runpod.paused", reason=reason, operator=operator)

    def record_adopted(self) -> None:
        """Resume: a run whose POST had no answer showed up, so RunPod takes jobs after all.

        It says nothing about a key or credit that was refused.
        """
        if not self._breaker.closed and not self._breaker.operator:
            self.record_success()

    def record_success(self) -> None:
        """Resume: RunPod answered a POST properly."""
        self._breaker.record_success()
        METRICS.breaker_open.set(0)
        if self._readiness.clear("runpod"):
            log.info("runpod.resumed")
