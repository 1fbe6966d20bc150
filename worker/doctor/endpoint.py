"""Checks of RunPod: the key, the endpoint, and whether it has workers."""

from __future__ import annotations

from worker.doctor.context import Context
from worker.doctor.result import Result, fail, ok, warn
from worker.jobs.errors import OperatorFault, TransientError
from worker.jobs.health import Health
from worker.runpod.api import RunPodApi

NAME = "runpod.endpoint"
_FIXES = {
    401: "Create a key under Settings > API Keys in RunPod's console and set RUNPOD_API_KEY.",
    402: "Add credit under Billing in RunPod's console, and enable automatic payments.",
    403: "Give the key access to this endpoint, or create a key that has it.",
    404: "Copy the endpoint's id from RunPod's console into RUNPOD_ENDPOINT_ID.",
}


async def check_endpoint(context: Context) -> list[Result]:
    """Return two results: whether the endpoint accepts our key, and the state of its workers."""
    settings = context.settings
    api = RunPodApi(
        endpoint_url=settings.runpod_endpoint_url,
        api_key=settings.runpod_api_key.get_secret_value(),
    )
    async with api:
        try:
            health = await api.health()
        except OperatorFault as error:
            fix = _FIXES.get(error.status, "Set RUNPOD_ENDPOINT_URL to the new URL.")
            return [fail(NAME, error.message, fix)]
        except TransientError as error:
            fix = "Check RUNPOD_ENDPOINT_URL and this machine's network; see status.runpod.io."
            return [fail(NAME, error.message, fix)]
    return [ok(NAME, f"{api.endpoint_id} accepts the API key."), judge_workers(health)]


def judge_workers(health: Health) -> Result:
    """Judge the endpoint's workers by the counters of /health."""
    name = "runpod.workers"
    workers = {word: number for word, number in health.workers.items() if number}
    able = sum(workers.get(word, 0) for word in ("idle", "running", "ready"))
    shown = ", ".join(f"{number} {word}" for word, number in sorted(workers.items())) or "none"
    waiting = f"{health.in_queue} waiting"
    if workers.get("unhealthy") and not able:
        return fail(
            name,
            f"Workers: {shown}; {waiting}. Unhealthy workers crash at each start, so runs may "
            "wait forever.",
            "Read a worker's log in RunPod's console. Usual causes: the image, a volume, or too "
            "little GPU memory.",
        )
    if health.in_queue and not workers:
        return fail(
            name,
            f"There are no workers, but {waiting}.",
            "Raise Max Workers in the endpoint's settings: RunPod sets it to 0 after seven days "
            "without a request. If it is above 0, no GPU of the chosen types is free: add types.",
        )
    if workers.get("throttled") and not able:
        return warn(
            name,
            f"Workers: {shown}; {waiting}. Throttled workers wait for a free GPU.",
            "Add GPU types or regions to the endpoint, or wait: jobs wait up to "
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
            "No worker is running, as expected without runs. Only --probe-run shows whether one "
            "can start.",
        )
    return ok(name, f"Workers: {shown}; {waiting}.")
