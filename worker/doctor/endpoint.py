"""Checks of RunPod: the key, the endpoint, and whether it has workers."""

from __future__ import annotations

from worker.doctor.context import Context
from worker.doctor.result import Result, fail, ok, warn
from worker.jobs.errors import OperatorFault, TransientError
from worker.jobs.health import Health
from worker.runpod.api import RunPodApi

NAME = "runpod.endpoint"
_MENDS = {
    401: "Create a key under Settings > API Keys in RunPod's console and set RUNPOD_API_KEY.",
    402: "Add credit under Billing in RunPod's console, and switch automatic payment on.",
    403: "Give the key access to this endpoint, or create one that has it.",
    404: "Copy the endpoint's id from RunPod's console into RUNPOD_ENDPOINT_ID.",
}


async def check_endpoint(context: Context) -> list[Result]:
    """Two results: whether the endpoint answers our key, and what its counters say."""
    settings = context.settings
    api = RunPodApi(
        endpoint_url=settings.runpod_endpoint_url,
        api_key=settings.runpod_api_key.get_secret_value(),
    )
    async with api:
        try:
            health = await api.health()
        except OperatorFault as error:
            mend = _MENDS.get(error.status, "Set RUNPOD_ENDPOINT_URL to the address it moved to.")
            return [fail(NAME, error.message, mend)]
        except TransientError as error:
            mend = "Check RUNPOD_ENDPOINT_URL and this machine's way out; see status.runpod.io."
            return [fail(NAME, error.message, mend)]
    return [ok(NAME, f"{api.endpoint_id} answers our key."), judge_workers(health)]


def judge_workers(health: Health) -> Result:
    """What the counters of /health tell about the endpoint's workers."""
    name = "runpod.workers"
    workers = {word: number for word, number in health.workers.items() if number}
    able = sum(workers.get(word, 0) for word in ("idle", "running", "ready"))
    shown = ", ".join(f"{number} {word}" for word, number in sorted(workers.items())) or "none"
    waiting = f"{health.in_queue} waiting"
    if workers.get("unhealthy") and not able:
        return fail(
            name,
            f"Workers: {shown}; {waiting}. Unhealthy ones crash again and again, so that runs may "
            "wait for ever.",
            "Read a worker's log in RunPod's console: mostly the image, a volume or the GPU memory "
            "does not fit.",
        )
    if health.in_queue and not workers:
        return fail(
            name,
            f"There are no workers, but {waiting}: the endpoint is asleep.",
            "Raise Max Workers in the endpoint's settings: RunPod sets it to 0 after seven days "
            "without a request. If it is above 0, no GPU of the chosen kinds is free: add kinds.",
        )
    if workers.get("throttled") and not able:
        return warn(
            name,
            f"Workers: {shown}; {waiting}. Throttled ones wait for a free GPU.",
            "Add GPU kinds or regions to the endpoint, or wait; jobs wait up to "
            "QUEUE_DEADLINE_SECONDS.",
        )
    if workers.get("unhealthy"):
        return warn(
            name,
            f"Workers: {shown}; {waiting}. Some are unhealthy.",
            "Read the unhealthy worker's log in RunPod's console.",
        )
    if not workers:
        return ok(
            name,
            "No worker is up, as it should be without runs; whether one comes up, only "
            "--probe-run tells.",
        )
    return ok(name, f"Workers: {shown}; {waiting}.")
