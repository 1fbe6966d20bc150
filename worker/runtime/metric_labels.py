"""Every value that a label may have: each series exists from the start, at 0.

Prometheus' `increase()` sees no change of a series that was not there before, so the first failure
of each kind would raise no alert. Values from outside are mapped to one of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from worker.jobs.change import Kind
from worker.jobs.errors import CODES
from worker.jobs.run import RunState

OTHER = "other"
LIVE = ("queued", "preparing", "submitted", "running")
SUBMISSIONS = ("accepted", "refused", "unknown")
WEBHOOKS = (
    "applied", "not_written", "unknown_job", "no_run_id", "kept", "already_ended",
    "forged", "unavailable",
)  # fmt: skip
POLLS = (*(state.value for state in RunState), "gone", "unavailable")
RUN_ENDS = tuple(state.value for state in RunState if state.terminal)
HINTS = ("insert", "cancel", "retry", "delete")
LOOPS = ("dispatch", "reconcile", "sweep", "lease", "prune")
OPERATIONS = ("run", "status", "cancel", "health")
FAULTS = ("not_sent", "broken", "timeout")
STATUSES = (
    "200", "400", "401", "402", "403", "404", "408", "429", "500", "502", "503", "504",
)  # fmt: skip
CLASSES = ("2xx", "3xx", "4xx", "5xx")


def answer_code(code: str) -> str:
    """Return the label of a fault or an HTTP status; an unusual status counts by its class."""
    if code in FAULTS or code in STATUSES:
        return code
    return rough if (rough := f"{code[:1]}xx") in CLASSES else OTHER


def answers() -> Iterator[tuple[str, str]]:
    """Yield every operation with everything that may come of it."""
    yield from product(OPERATIONS, (*FAULTS, *STATUSES, *CLASSES, OTHER))


def ending(outcome: str, code: str | None) -> tuple[str, str]:
    """Return the labels of a job's end: only a failed one has a code."""
    if outcome != Kind.FAILED:
        return outcome, ""
    # A newer worker may have stored a code that this one does not know.
    return outcome, code if code in CODES else OTHER


def endings() -> Iterator[tuple[str, str]]:
    """Yield every way in which a job may end."""
    yield from ((kind.value, "") for kind in Kind if kind.ends_job and kind is not Kind.FAILED)
    yield from product([Kind.FAILED.value], [*CODES, OTHER])
