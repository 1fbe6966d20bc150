"""Checks the webhook from outside in, as RunPod will call it."""

from __future__ import annotations

import ipaddress
import time
from urllib.parse import urlsplit

import httpx

from worker.doctor.context import Context
from worker.doctor.result import Result, fail, ok, warn
from worker.web import webhook_url

NAME = "webhook"
NOBODY = "00000000-0000-0000-0000-000000000000"
SLOW_SECONDS = 5.0


async def check_webhook(context: Context) -> Result:
    """A rightly signed call is understood, a wrongly signed one is not, neither is redirected."""
    settings = context.settings
    if not settings.webhooks:
        return _polling_alone(context)
    base = settings.public_url
    if problem := _unreachable_by_design(base, settings.runpod_endpoint_url):
        return problem
    secrets = [one.get_secret_value() for one in settings.webhook_secret]
    right = webhook_url(base, secrets, NOBODY, 1)
    assert right is not None
    began = time.monotonic()
    try:
        wrong_answer = await _post(context, right[:-64] + "0" * 64)
        right_answer = await _post(context, right)
    except httpx.ConnectError as error:
        return fail(
            NAME,
            f"{base} cannot be connected to ({_reason(error)}).",
            "Deploy and start the worker, then check PUBLIC_URL, its DNS name and certificate.",
        )
    except httpx.HTTPError as error:
        return fail(
            NAME,
            f"{base} gives no answer ({type(error).__name__}).",
            "Check that PUBLIC_URL leads to the worker's port and no firewall is in between.",
        )
    took = (time.monotonic() - began) / 2
    return _judge(base, wrong_answer, right_answer, took)


async def _post(context: Context, url: str) -> httpx.Response:
    body = {"id": "doctor", "status": "COMPLETED"}
    return await context.http.post(url, json=body, follow_redirects=False)


def _judge(base: str, wrong: httpx.Response, right: httpx.Response, took: float) -> Result:
    if right.is_redirect:
        to = right.headers.get("location", "elsewhere").split("/webhooks/")[0]
        return fail(
            NAME,
            f"{base} redirects a POST to {to}; RunPod does not follow.",
            f"Set PUBLIC_URL to {to}.",
        )
    if right.status_code == 429 or wrong.status_code == 429:
        return warn(NAME, "Too many wrong signatures came from here.", "Try again in a minute.")
    if wrong.status_code != 404:
        return fail(
            NAME,
            f"{base} answers HTTP {wrong.status_code} to a wrong signature: it is not this worker.",
            "Set PUBLIC_URL to the worker's own address.",
        )
    if right.status_code == 404:
        return fail(
            NAME,
            f"{base} does not know our signature.",
            "Give the deployed worker the same WEBHOOK_SECRET as here, or mend PUBLIC_URL.",
        )
    if right.status_code == 503:
        return fail(
            NAME,
            "The worker got the call, but cannot read its table.",
            "Look at /readyz and the log of the deployed worker.",
        )
    if right.status_code != 200 or _result(right) != "unknown_job":
        return fail(
            NAME,
            f"{base} answers HTTP {right.status_code}, but not as this worker does.",
            "Set PUBLIC_URL to the worker's own address.",
        )
    if took > SLOW_SECONDS:
        return warn(
            NAME,
            f"An answer takes {took:.1f} s; RunPod may give up on it.",
            "Run the worker near its Supabase project and on a larger machine.",
        )
    return ok(NAME, f"{base} knows our signature and answers in {1000 * took:.0f} ms.")


def _result(answer: httpx.Response) -> object:
    try:
        body = answer.json()
    except ValueError:
        return None
    return body.get("result") if isinstance(body, dict) else None


def _polling_alone(context: Context) -> Result:
    settings = context.settings
    which = "PUBLIC_URL" if not settings.public_url else "WEBHOOK_SECRET"
    return warn(
        NAME,
        f"{which} is unset, so polling alone carries: an ended run is seen up to "
        f"{settings.poll_seconds:.0f} s late, and a submission whose answer was lost cannot be "
        "adopted but waits for its time to live, an hour and more.",
        "Set PUBLIC_URL to the worker's https:// address and WEBHOOK_SECRET to the output of "
        "`openssl rand -hex 32`.",
    )


def _unreachable_by_design(base: str, endpoint_url: str) -> Result | None:
    host = urlsplit(base).hostname or ""
    at_home = _private(host)
    if at_home and not _private(urlsplit(endpoint_url).hostname or ""):
        return fail(
            NAME,
            f"{base} is an address that only this machine or network can reach.",
            "Set PUBLIC_URL to an address that RunPod can reach, or leave it unset to poll alone.",
        )
    if base.startswith("http://") and not at_home:
        return fail(
            NAME,
            f"{base} is not encrypted: the signature in the path would travel in the clear.",
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


def _reason(error: httpx.ConnectError) -> str:
    text = str(error).lower()
    if "certificate" in text or "ssl" in text:
        return "its certificate is not valid"
    if "name" in text or "getaddrinfo" in text or "nodename" in text:
        return "its name is unknown"
    return "nothing listens there"
