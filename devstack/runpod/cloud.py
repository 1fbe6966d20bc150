"""The queue of one endpoint: how runs start, end, get lost and are forgotten."""

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


class RunLog(Protocol):
    """Records every accepted run and every end of a run."""

    def write(self, event: str, run: Run, body: Json) -> None:
        """Append one event."""


@dataclass(slots=True, kw_only=True)
class WorkerSlot:
    """A worker known to the platform: its run, and when it last sent something."""

    heard_at: float
    run_id: str | None = None


class Cloud:
    """A pure state machine over runs, without timers: `settle` applies what is due."""

    def __init__(self, *, clock: Callable[[], float], run_log: RunLog, options: Options) -> None:
        self.options = options
        self.runs: dict[str, Run] = {}
        self.live: dict[str, Run] = {}
        self.slots: dict[str, WorkerSlot] = {}
        self.retried = 0
        self.on_accept: Callable[[Run], None] = lambda run: None
        self.on_end: Callable[[Run], None] = lambda run: None
        self.on_stop: Callable[[str], None] = lambda worker_id: None
        self.on_change: Callable[[], None] = lambda: None
        self._clock = clock
        self._log = run_log
        self._warm_until = float("-inf")

    def now(self) -> float:
        """Return the stand-in's time, which the control API can move forward."""
        return self._clock()

    def draw(self, run: Run, purpose: str) -> float:
        """Return a number from 0 to 1, fixed by the seed, the run's number and the purpose."""
        return random.Random(f"{self.options.seed}:{run.number}:{purpose}").random()

    def fail_text(self, run: Run) -> str | None:
        """Return the error text with which the options make this run fail, or None."""
        wanted = self.draw(run, "fail") < self.options.fail_probability
        return self.options.fail_text if wanted else None

    # ---- requests of clients -----------------------------------------------------------------

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
        self._log.write(
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
        """Return the run; None if unknown, or if its ttl or its retention is over."""
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
        """End a live run as cancelled; an ended run stays unchanged."""
        if not run.state.terminal:
            self.end(run, State.CANCELLED, webhook=self.options.webhook_on_cancel)

    def retry(self, run: Run) -> bool:
        """Queue a failed run again under its id; return False if it did not fail."""
        if run.state not in (State.FAILED, State.TIMED_OUT):
            return False
        run.output, run.error, run.ended_at, run.retries = MISSING, None, None, 0
        self._requeue(run)
        self.live[run.id] = run
        self._log.write("retried", run, {})
        return True

    def purge(self) -> int:
        """Cancel every queued run; return their number."""
        queued = [run for run in self.live.values() if run.state is State.IN_QUEUE]
        for run in queued:
            self.end(run, State.CANCELLED, webhook=self.options.webhook_on_cancel)
        return len(queued)

    # ---- requests of workers -----------------------------------------------------------------

    def heard(self, worker_id: str) -> None:
        """Record that a worker is alive."""
        self.slots.setdefault(worker_id, WorkerSlot(heard_at=0.0)).heard_at = self.now()

    def take(self, worker_id: str, *, silent: bool = False) -> Run | None:
        """Give the oldest waiting run to a worker; a `silent` worker never counts as lost."""
        self.settle()
        if worker_id in self.slots and self.slots[worker_id].run_id is not None:
            # It asks for work although it has a run: its result was lost.
            self.worker_gone(worker_id)
        self.heard(worker_id)
        if silent:
            self.slots[worker_id].heard_at = float("inf")
        run = None if self.options.no_workers else self._next()
        if run is None:
            return None
        now = self.now()
        run.state, run.worker_id = State.IN_PROGRESS, worker_id
        run.takes += 1
        run.started_at = now
        self._warm_until = now + self.options.idle_timeout_seconds
        self.slots[worker_id].run_id = run.id
        self._log.write("started", run, {"worker": worker_id, "take": run.takes})
        self.on_change()
        return run

    def progress(self, run: Run, worker_id: str, output: object) -> None:
        """Store a progress report; ignore it after the end of the run."""
        if run.state is State.IN_PROGRESS and run.worker_id == worker_id:
            run.output = output
            self.on_change()

    def finish(self, run: Run, worker_id: str, result: Json) -> bool:
        """Apply a worker's result as the platform does; return False if it is refused."""
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
        # If the error is not text, RunPod shows COMPLETED without output (reported by users).
        run.output = MISSING if error is not None else result.get("output", MISSING)
        self.end(run, State.COMPLETED)
        return True

    def worker_gone(self, worker_id: str) -> None:
        """Handle the death of a worker: start its run once more; the second time it fails."""
        slot = self.slots.pop(worker_id, None)
        run = self.live.get(slot.run_id) if slot and slot.run_id else None
        if run is None or run.worker_id != worker_id or run.state is not State.IN_PROGRESS:
            return
        if run.retries == 0:
            run.retries = 1
            self.retried += 1
            self._log.write("worker_lost", run, {"worker": worker_id})
            self._requeue(run)
            return
        run.output = MISSING
        self.end(run, State.FAILED, error=LOST_TEXT)

    # ---- the passing of time ---------------------------------------------------------------------

    def settle(self) -> None:
        """Apply everything that is due: ttl, executionTimeout, lost workers."""
        now = self.now()
        scale = self.options.policy_scale
        for run in list(self.live.values()):
            if now - run.submitted_at > run.request.ttl_seconds * scale:
                self.forget(run, "ttl over")
            elif now - (run.started_at or now) > run.request.execution_timeout_seconds * scale:
                run.output = MISSING
                self.end(run, State.FAILED, error=TIMEOUT_TEXT)
        for worker_id, slot in list(self.slots.items()):
            if now - slot.heard_at > self.options.worker_lost_seconds:
                self.worker_gone(worker_id)
                self.on_stop(worker_id)

    def end(self, run: Run, state: State, *, error: object = None, webhook: bool = True) -> None:
        """Record the end of a run, send its webhook and wake all waiters."""
        worker_id, was_running = run.worker_id, run.state is State.IN_PROGRESS
        run.state, run.error, run.ended_at = state, error, self.now()
        self.live.pop(run.id, None)
        self._warm_until = max(self._warm_until, run.ended_at + self.options.idle_timeout_seconds)
        self._log.write("ended", run, run.status(run.ended_at))
        if worker_id is not None and was_running:
            self._stop(worker_id, run.id)
        if webhook and run.request.webhook:
            self.on_end(run)
        self.on_change()

    def forget(self, run: Run, reason: str) -> None:
        """Make /status answer 404 for this run from now on."""
        run.gone = reason
        self.live.pop(run.id, None)
        self._log.write("gone", run, {"reason": reason})
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
        slot = self.slots.get(worker_id)
        if slot is not None and slot.run_id == run_id:
            slot.run_id = None

    def _stop(self, worker_id: str, run_id: str) -> None:
        """Stop a worker that is still busy with an ended run, as RunPod stops its container."""
        slot = self.slots.get(worker_id)
        if slot is not None and slot.run_id == run_id:
            slot.run_id = None
            self.on_stop(worker_id)
