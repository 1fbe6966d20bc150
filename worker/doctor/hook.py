"""Checks the webhook from outside, as RunPod calls it."""

from __future__ import annotations

import ipaddress
import ssl
import time
from urllib.parse import urlsplit

import httpx

from worker.doctor.context import Context
from worker.doctor.result import Result, fail, ok, warn
from worker.runtime.network import why
from worker.web import webhook_url

NAME = "webhook"
NOBODY = "00000000-0000-0000-0000-000000000000"
SLOW_SECONDS = 5.0


async def check_webhook(context: Context) -> Result:
    """Check that a valid signature is accepted, an invalid one refused, and none redirected."""
    settings = context.settings
    if not settings.webhooks:
        return _polling_only(context)
    base = settings.public_url
    if problem := _unreachable_by_design(base, settings.runpod_endpoint_url):
        return problem
    secrets = [secret.get_secret_value() for secret in settings.webhook_secret]
    right = webhook_url(base, secrets, NOBODY, 1)
    assert right is not None
    began = time.monotonic()
    try:
        wrong_answer = await _post(context, right[:-64] + "0" * 64)
        right_answer = await _post(context, right)
    except httpx.ConnectError as error:
        return fail(
            NAME,
            f"Cannot connect to {base} ({why(error)}).",
            "Deploy and start the worker, then check PUBLIC_URL, its DNS name and certificate.",
        )
    except (httpx.HTTPError, ssl.SSLError) as error:
        return fail(
            NAME,
            f"{base} does not answer: {why(error)}.",
            "Check that PUBLIC_URL leads to the worker's port and that no firewall blocks it.",
        )
    took = (time.monotonic() - began) / 2
    return _judge(base, wrong_answer, right_answer, took)


async def _post(context: Context, url: str) -> httpx.Response:
    # Without a run's id: the worker would log that of an unknown job as an orphaned run.
    return await context.http.post(url, json={"status": "COMPLETED"}, follow_redirects=False)


def _judge(base: str, wrong: httpx.Response, right: httpx.Response, took: float) -> Result:
    if right.is_redirect:
        to = right.headers.get("location", "elsewhere").split("/webhooks/")[0]
        return fail(
            NAME,
            f"{base} redirects a POST to {to}; RunPod does not follow redirects.",
            f"Set PUBLIC_URL to {to}.",
        )
    if right.status_code == 429 or wrong.status_code == 429:
        return warn(
            NAME,
            "The worker limits this address: too many invalid signatures.",
            "Try again in a minute.",
        )
    if wrong.status_code != 404:
        return fail(
            NAME,
            f"{base} answers HTTP {wrong.status_code} to an invalid signature, unlike this worker.",
            "Set PUBLIC_URL to the worker's own URL.",
        )
    if right.status_code == 404:
        return fail(
            NAME,
            f"{base} refuses our signature.",
            "Give the deployed worker the same WEBHOOK_SECRET as here, or correct PUBLIC_URL.",
        )
    if right.status_code == 503:
        return fail(
            NAME,
            "The worker received the call, but cannot read its table.",
            "Check /readyz and the log of the deployed worker.",
        )
    if right.status_code != 200 or _result(right) != "unknown_job":
        return fail(
            NAME,
            f"{base} answers HTTP {right.status_code}, but not like this worker.",
            "Set PUBLIC_URL to the worker's own URL.",
        )
    if took > SLOW_SECONDS:
        return warn(
            NAME,
            f"An answer takes {took:.1f} s; RunPod may stop waiting.",
            "Run the worker near its Supabase project, or on a larger machine.",
        )
    return ok(NAME, f"{base} accepts our signature and answers in {1000 * took:.0f} ms.")


def _result(answer: httpx.Response) -> object:
    try:
        body = answer.json()
    except ValueError:
        return None
    return body.get("result") if isinstance(body, dict) else None


def _polling_only(context: Context) -> Result:
    settings = context.settings
    which = "PUBLIC_URL" if not settings.public_url else "WEBHOOK_SECRET"
    return warn(
        NAME,
        f"{which} is unset, so the worker only polls: it sees the end of a run up to "
        f"{settings.poll_seconds:.0f} s late, and a submission whose answer was lost waits until "
        "its ttl is over, an hour or more.",
        "Set PUBLIC_URL to the worker's https:// URL and WEBHOOK_SECRET to the output of "
        "`openssl rand -hex 32`.",
    )


def _unreachable_by_design(base: str, endpoint_url: str) -> Result | None:
    host = urlsplit(base).hostname or ""
    is_private = _private(host)
    if is_private and not _private(urlsplit(endpoint_url).hostname or ""):
        return fail(
            NAME,
            f"Only this machine or network can reach {base}.",
            "Set PUBLIC_URL to a URL that RunPod can reach, or leave it unset to only poll.",
        )
    if base.startswith("http://") and not is_private:
        return fail(
            NAME,
            f"{base} is not encrypted: the signature in the path could be read on the network.",
            f"Set PUBLIC_URL to https://{base.removeprefix('http://')}.",
        )
    return None


def _private(host: str) -> bool:
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False
