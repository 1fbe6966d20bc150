"""The queue of one endpoint: the rules by which runs start, end, are lost and are forgotten."""

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from devstack.runpod.options import Options
from devstack.runpod.runs import MISSING, Json, Request, Run, State

LOST_TEXT = "job timed out after 1 retries"
TIMEOUT_TEXT = "executionTimeout exceeded"


class Ledger(Protocol):
    """Where every accepted run and every ending is written down."""

    def write(self, event: str, run: Run, body: Json) -> None:
        """Append one line."""


@dataclass(slots=True, kw_only=True)
class Seat:
    """A worker known to the platform: what it works on and when it was last heard of."""

    heard_at: float
    run_id: str | None = None


class Cloud:
    """A pure state machine over runs; it has no timers, `settle` applies what time has brought."""

    def __init__(self, *, clock: Callable[[], float], ledger: Ledger, options: Options) -> None:
        self.options = options
        self.runs: dict[str, Run] = {}
        self.live: dict[str, Run] = {}
        self.seats: dict[str, Seat] = {}
        self.retried = 0
        self.on_accept: Callable[[Run], None] = lambda run: None
        self.on_end: Callable[[Run], None] = lambda run: None
        self.on_stop: Callable[[str], None] = lambda worker_id: None
        self.on_change: Callable[[], None] = lambda: None
        self._clock = clock
        self._ledger = ledger
        self._warm_until = float("-inf")

    def now(self) -> float:
        """The stand-in's clock, which the control API can move forward."""
        return self._clock()

    def draw(self, run: Run, purpose: str) -> float:
        """A number below 1 that depends on the seed, the run's number and the purpose alone."""
        return random.Random(f"{self.options.seed}:{run.number}:{purpose}").random()

    def fail_text(self, run: Run) -> str | None:
        """The error text that the options want this run to end with."""
        wanted = self.draw(run, "fail") < self.options.fail_probability
        return self.options.fail_text if wanted else None

    # ---- what a client does -----------------------------------------------------------------

    def accept(self, request: Request) -> Run:
        """Queue a run."""
        now = self.now()
        run = Run(
            id=f"{uuid.uuid4()}-u1",
            number=len(self.runs) + 1,
            request=request,
            submitted_at=now,
            submitted_wall=datetime.now(UTC).isoformat(timespec="milliseconds"),
            queued_at=now,
        )
        self.runs[run.id] = run
        self.live[run.id] = run
        self._ledger.write(
            "accepted",
            run,
            {"input": request.input, "webhook": request.webhook, "policy": request.policy},
        )
        if self.draw(run, "lose_run") < self.options.lose_run:
            self.forget(run, "lost by the queue")
        self.on_accept(run)
        self.on_change()
        return run

    def find(self, run_id: str) -> Run | None:
        """The run, unless it never was, its ttl is over or its retention is."""
        self.settle()
        run = self.runs.get(run_id)
        if run is None or run.gone:
            return None
        kept = self.options.retention_seconds
        if run.ended_at is not None and self.now() - run.ended_at > kept:
            self.forget(run, "retention over")
            return None
        return run

    def cancel(self, run: Run) -> None:
        """End a live run as cancelled; a finished one stays as it is."""
        if not run.state.terminal:
            self.end(run, State.CANCELLED, webhook=self.options.webhook_on_cancel)

    def retry(self, run: Run) -> bool:
        """Queue a failed run again under its id; False if it did not fail."""
        if run.state not in (State.FAILED, State.TIMED_OUT):
            return False
        run.output, run.error, run.ended_at, run.retries = MISSING, None, None, 0
        self._requeue(run)
        self.live[run.id] = run
        self._ledger.write("retried", run, {})
        return True

    def purge(self) -> int:
        """Drop every queued run; return how many there were."""
        queued = [run for run in self.live.values() if run.state is State.IN_QUEUE]
        for run in queued:
            self.end(run, State.CANCELLED, webhook=self.options.webhook_on_cancel)
        return len(queued)

    # ---- what a worker does -----------------------------------------------------------------

    def heard(self, worker_id: str) -> None:
        """Note that a worker is alive."""
        self.seats.setdefault(worker_id, Seat(heard_at=0.0)).heard_at = self.now()

    def take(self, worker_id: str, *, silent: bool = False) -> Run | None:
        """Give the oldest waiting run to a worker; a silent one is never taken for dead."""
        self.settle()
        if worker_id in self.seats and self.seats[worker_id].run_id is not None:
            # It asks for work although it has some: its result was lost on the way.
            self.worker_gone(worker_id)
        self.heard(worker_id)
        if silent:
            self.seats[worker_id].heard_at = float("inf")
        run = None if self.options.no_workers else self._next()
        if run is None:
            return None
        now = self.now()
        run.state, run.worker_id = State.IN_PROGRESS, worker_id
        run.takes += 1
        run.started_at = now
        self._warm_until = now + self.options.idle_timeout_seconds
        self.seats[worker_id].run_id = run.id
        self._ledger.write("started", run, {"worker": worker_id, "take": run.takes})
        self.on_change()
        return run

    def progress(self, run: Run, worker_id: str, output: object) -> None:
        """Show a progress report; one that comes after the end changes nothing."""
        if run.state is State.IN_PROGRESS and run.worker_id == worker_id:
            run.output = output
            self.on_change()

    def finish(self, run: Run, worker_id: str, result: Json) -> bool:
        """Apply a worker's result as the platform does; False when the result is refused."""
        self._leave(worker_id, run.id)
        if run.state is not State.IN_PROGRESS or run.worker_id != worker_id:
            return True
        run.output = MISSING
        if self.options.refuse_results or self.draw(run, "lose_output") < self.options.lose_output:
            self.end(run, State.COMPLETED)
            return False
        error = result.get("error")
        if isinstance(error, str) and error:
            run.output = result.get("output", MISSING)
            self.end(run, State.FAILED, error=error)
            return True
        # An error that is no text ends as COMPLETED without output, as users have reported.
        run.output = MISSING if error is not None else result.get("output", MISSING)
        self.end(run, State.COMPLETED)
        return True

    def worker_gone(self, worker_id: str) -> None:
        """A worker died: its run is started once more, then fails."""
        seat = self.seats.pop(worker_id, None)
        run = self.live.get(seat.run_id) if seat and seat.run_id else None
        if run is None or run.worker_id != worker_id or run.state is not State.IN_PROGRESS:
            return
        if run.retries == 0:
            run.retries = 1
            self.retried += 1
            self._ledger.write("worker_lost", run, {"worker": worker_id})
            self._requeue(run)
            return
        run.output = MISSING
        self.end(run, State.FAILED, error=LOST_TEXT)

    # ---- what time does ---------------------------------------------------------------------

    def settle(self) -> None:
        """Apply every deadline that has passed: ttl, executionTimeout, silent workers."""
        now = self.now()
        scale = self.options.policy_scale
        for run in list(self.live.values()):
            if now - run.submitted_at > run.request.ttl_seconds * scale:
                self.forget(run, "ttl over")
            elif now - (run.started_at or now) > run.request.execution_timeout_seconds * scale:
                run.output = MISSING
                self.end(run, State.FAILED, error=TIMEOUT_TEXT)
        for worker_id, seat in list(self.seats.items()):
            if now - seat.heard_at > self.options.worker_lost_seconds:
                self.worker_gone(worker_id)
                self.on_stop(worker_id)

    def end(self, run: Run, state: State, *, error: object = None, webhook: bool = True) -> None:
        """Write down how a run ended and tell whoever waits for it."""
        worker_id, was_running = run.worker_id, run.state is State.IN_PROGRESS
        run.state, run.error, run.ended_at = state, error, self.now()
        self.live.pop(run.id, None)
        self._warm_until = max(self._warm_until, run.ended_at + self.options.idle_timeout_seconds)
        self._ledger.write("ended", run, run.status(run.ended_at))
        if worker_id is not None and was_running:
            self._stop(worker_id, run.id)
        if webhook and run.request.webhook:
            self.on_end(run)
        self.on_change()

    def forget(self, run: Run, reason: str) -> None:
        """Make /status answer 404 for a run from now on."""
        run.gone = reason
        self.live.pop(run.id, None)
        self._ledger.write("gone", run, {"reason": reason})
        if run.worker_id is not None and run.state is State.IN_PROGRESS:
            self._stop(run.worker_id, run.id)

    def _next(self) -> Run | None:
        now = self.now()
        busy = any(run.state is State.IN_PROGRESS for run in self.live.values())
        wait = 0.0 if busy or now < self._warm_until else self.options.cold_start_seconds
        for run in self.live.values():
            if run.state is State.IN_QUEUE and now - run.queued_at >= wait:
                return run
        return None

    def _requeue(self, run: Run) -> None:
        run.state, run.worker_id, run.output = State.IN_QUEUE, None, MISSING
        run.started_at, run.queued_at = None, self.now()
        self.on_change()

    def _leave(self, worker_id: str, run_id: str) -> None:
        seat = self.seats.get(worker_id)
        if seat is not None and seat.run_id == run_id:
            seat.run_id = None

    def _stop(self, worker_id: str, run_id: str) -> None:
        """A worker still busy with a run that is over is stopped, as its container would be."""
        seat = self.seats.get(worker_id)
        if seat is not None and seat.run_id == run_id:
            seat.run_id = None
            self.on_stop(worker_id)
