"""The counters of GET /health."""

from devstack.runpod.cloud import Cloud
from devstack.runpod.runs import Json, State


def health(cloud: Cloud) -> Json:
    """Return counts of ended and live jobs and of workers; forgotten runs still count."""
    cloud.settle()
    states = [run.state for run in cloud.runs.values()]
    busy = sum(run.state is State.IN_PROGRESS for run in cloud.live.values())
    idle = max(0, _workers(cloud, busy) - busy)
    return {
        "jobs": {
            "completed": states.count(State.COMPLETED),
            "failed": states.count(State.FAILED) + states.count(State.TIMED_OUT),
            "inProgress": busy,
            "inQueue": len(cloud.live) - busy,
            "retried": cloud.retried,
        },
        "workers": {
            "idle": idle,
            "initializing": 0,
            "ready": idle,
            "running": busy,
            "throttled": 0,
            "unhealthy": 0,
        },
    }


def _workers(cloud: Cloud, busy: int) -> int:
    if cloud.options.no_workers:
        return 0
    return max(busy, 1) if cloud.options.render == "none" else len(cloud.slots)
