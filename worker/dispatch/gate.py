"""Whether runs may be sent now: moves the breaker, and tells people, metrics and the log."""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from worker.dispatch.breaker import Breaker
from worker.jobs.errors import OperatorFault, TransientError
from worker.ports import RunPod
from worker.runtime.clock import boot_time
from worker.runtime.metrics import METRICS
from worker.runtime.readiness import Board, Severity

log = structlog.get_logger(__name__)


class Gate:
    """Pauses submissions in times of trouble with RunPod or the account, and finds their end."""

    def __init__(
        self, *, runpod: RunPod, board: Board, clock: Callable[[], float] = boot_time
    ) -> None:
        self.breaker = Breaker()
        self._runpod = runpod
        self._board = board
        self._clock = clock

    async def probe(self) -> None:
        """Ask GET /health when that is due."""
        if not self.breaker.probe_due(self._clock()):
            return
        try:
            await self._runpod.health()
        except OperatorFault as error:
            self.trip(error.message, operator=True)
        except TransientError as error:
            self.trip(error.message, wait=error.retry_in)
        else:
            self.breaker.probed(self._clock(), None)
            METRICS.breaker_open.set(0)
            if self.breaker.operator:
                # /health also answers an account without credit: only a job can tell.
                reason = f"{self.breaker.reason} /health answers; the next job will tell."
                self._board.note("runpod", reason)
            else:
                self._board.clear("runpod")
            log.info("runpod.probed", result="answers again")

    def seconds_to_probe(self) -> float | None:
        """Seconds until the next probe; None when none is planned."""
        return self.breaker.seconds_to_probe(self._clock())

    def trip(self, reason: str, *, operator: bool = False, wait: float | None = None) -> None:
        """A submission or probe failed for reasons of the provider or the operator."""
        self.breaker.trip(
            self._clock(), reason, operator=operator, wait=wait, jitter=random.random()
        )
        METRICS.breaker_open.set(1)
        severity: Severity = "down" if operator else "degraded"
        if self._board.note("runpod", reason, severity=severity):
            log.warning("runpod.paused", reason=reason, operator=operator)

    def untrip(self) -> None:
        """RunPod answered a POST properly."""
        self.breaker.succeeded()
        METRICS.breaker_open.set(0)
        if self._board.clear("runpod"):
            log.info("runpod.resumed")
