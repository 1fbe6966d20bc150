"""One HTTP exchange with RunPod: bounded reading, and what an exception proves about sending."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from worker.jobs.text import one_line
from worker.runtime.network import why

HTTP_OK = 200
# A /status body repeats the request, which may have 10 MB.
MAX_ANSWER_BYTES = 12_000_000
_MAX_RETRY_AFTER_SECONDS = 300.0
_MAX_SAID_CHARS = 500

# These alone are raised before the first byte of the request has left: no address, no connection,
# no TLS, no free place. A write error does not belong here: all of it may have arrived before.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
    httpx.InvalidURL,
)

_MARKUP = re.compile(r"<[^>]*>")


class NotSent(Exception):
    """The request has provably not been sent."""


class Broken(Exception):
    """The request was sent, at least in part, and no status came back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status with what could be read of its body; `whole` is false if the body broke off."""

    status: int
    retry_in: float | None
    body: bytes
    whole: bool

    def json(self) -> object:
        """The parsed body; ValueError unless it is whole and JSON."""
        if not self.whole:
            raise ValueError("the body broke off")
        try:
            parsed: object = json.loads(self.body)
        except RecursionError as error:
            raise ValueError("the body is nested too deeply") from error
        return parsed


async def exchange(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request; NotSent or Broken unless at least a status came back."""
    status: int | None = None
    retry_in: float | None = None
    body = bytearray()
    whole = True
    try:
        async with client.stream(method, url, content=content, headers=headers) as response:
            status = response.status_code
            headers_back = response.headers
            retry_in = parse_retry_after(headers_back.get("retry-after"), headers_back.get("date"))
            async for chunk in response.aiter_bytes(65_536):
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    whole = False
                    break
    except _NEVER_SENT as error:
        raise NotSent(why(error)) from error
    # A TLS alert after the handshake is raised as a bare OSError.
    except (httpx.HTTPError, httpx.StreamError, OSError) as error:
        # A status counts even when the body behind it breaks off: a 400 is a refusal.
        if status is None:
            raise Broken(why(error)) from error
        whole = False
    return Answer(status=status, retry_in=retry_in, body=bytes(body), whole=whole)


def parse_retry_after(value: str | None, date: str | None) -> float | None:
    """Seconds to wait, 0 to 300, from a Retry-After in seconds or as a date (against `date`)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            # RunPod's clock on both sides, so that ours does not matter.
            later, now = parsedate_to_datetime(value), parsedate_to_datetime(date or "")
            seconds = (later - now).total_seconds()
        except (ValueError, TypeError):
            return None
    if math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_SECONDS)


def said(answer: Answer, key: str) -> str:
    """RunPod's own words, short and without secrets, as `: text`; empty if it said nothing."""
    text = _MARKUP.sub(" ", _words(answer).replace(key, "[hidden]"))
    line = one_line(text, limit=_MAX_SAID_CHARS)
    return f": {line}" if line else ""


def _words(answer: Answer) -> str:
    # Real error bodies are not documented: an object with one of these, HTML, or nothing.
    try:
        parsed = answer.json()
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        for name in ("error", "detail", "title", "message"):
            if isinstance(value := parsed.get(name), str) and value:
                return value
    return answer.body[:4096].decode("utf-8", "replace")
