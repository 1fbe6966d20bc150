"""A circuit breaker: when to stop sending runs, and how to begin again: a probe, then one POST."""

from __future__ import annotations

from worker.jobs.retry import backoff


class Breaker:
    """Closed: send. Open: only probe. Half open: one POST may try. Times are monotonic."""

    def __init__(self, *, first: float = 2.0, most: float = 60.0) -> None:
        self.reason: str | None = None
        self.operator = False
        self._first = first
        self._most = most
        self._trips = 0
        self._probe_at = 0.0
        self._half_open = False
        self._trial = False

    @property
    def closed(self) -> bool:
        """Whether nothing holds submissions back."""
        return self.reason is None

    @property
    def room(self) -> int | None:
        """How many rows may be claimed now; None when it does not matter."""
        if self.closed:
            return None
        return 1 if self._half_open and not self._trial else 0

    def trip(
        self,
        now: float,
        reason: str,
        *,
        operator: bool = False,
        wait: float | None = None,
        jitter: float = 1.0,
    ) -> None:
        """A submission failed for reasons of the provider or the operator."""
        # Several POSTs that fail together are one outage, not several.
        if self.closed or self._half_open or now >= self._probe_at:
            self._trips += 1
        self.reason = reason
        self.operator = operator
        self._half_open = False
        self._trial = False
        pause = backoff(self._trips, first=self._first, most=self._most, jitter=jitter)
        self._probe_at = max(self._probe_at, now + max(pause, wait or 0.0))

    def probe_due(self, now: float) -> bool:
        """Whether it is time to ask GET /health."""
        return not self.closed and not self._half_open and now >= self._probe_at

    def seconds_to_probe(self, now: float) -> float | None:
        """Seconds until the next probe; None when none is planned."""
        if self.closed or self._half_open:
            return None
        return max(0.0, self._probe_at - now)

    def probed(self, now: float, problem: str | None, *, operator: bool = False) -> None:
        """The probe's answer: None lets one POST through, a problem keeps everything waiting."""
        if problem is not None:
            self.trip(now, problem, operator=operator)
        else:
            self._half_open = True
            self._trial = False

    def allow(self) -> bool:
        """Ask right before a POST; in half-open state only the first to ask may send."""
        if self.closed:
            return True
        if self._half_open and not self._trial:
            self._trial = True
            return True
        return False

    def release_trial(self) -> None:
        """Let another POST try: the one that was allowed was not made after all."""
        self._trial = False

    def record_success(self) -> None:
        """RunPod answered a POST properly (accepted it, or refused that one request)."""
        self.reason = None
        self.operator = False
        self._trips = 0
        self._probe_at = 0.0
        self._half_open = False
        self._trial = False
