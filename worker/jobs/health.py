"""What an endpoint's /health says: counters of its runs and of its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker.jobs.errors import RunPodUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Counters of one endpoint; `workers` maps RunPod's words (idle, throttled) to counts."""

    in_queue: int
    in_progress: int
    completed: int
    failed: int
    workers: Mapping[str, int]


def parse_health(body: object) -> Health:
    """Read a /health body; RunPodUnavailable unless it is an object that holds run counters."""
    if not isinstance(body, dict):
        raise RunPodUnavailable(200, "RunPod's /health answered something that is no object.")
    jobs, workers = body.get("jobs"), body.get("workers")
    # An error object answered with 200 must not read as "nothing is running".
    if not isinstance(jobs, dict):
        raise RunPodUnavailable(200, "RunPod's /health answered without run counters.")
    named = workers if isinstance(workers, dict) else {}
    return Health(
        in_queue=_count(jobs.get("inQueue")),
        in_progress=_count(jobs.get("inProgress")),
        completed=_count(jobs.get("completed")),
        failed=_count(jobs.get("failed")),
        workers={str(name): _count(value) for name, value in named.items()},
    )


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return max(value, 0)
