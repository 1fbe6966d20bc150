"""Describes in one sentence why a Realtime session ended; silences the libraries' own logs."""

from __future__ import annotations

import json
import logging

from websockets.exceptions import InvalidStatus

from worker.runtime.network import why


def quiet_library_logs() -> None:
    """Silence the client libraries: they print rows that they cannot parse, and keys at DEBUG."""
    for name in ("realtime", "websockets"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def describe(error: BaseException) -> str:
    """Return the reason for people; it may still hold a secret, so redact it."""
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        advice = ": check SUPABASE_SERVICE_ROLE_KEY" if status in (401, 403) else ""
        return f"the handshake was answered with HTTP {status}{advice}"
    text = str(error)
    try:
        # A refusal is the server's payload in JSON.
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        text = str(parsed.get("message") or parsed.get("reason") or "no reason given")
        # "InvalidJWTToken: Token ..." looks like a secret and would be redacted.
        return f"Realtime says: {text.replace(': ', ' - ')}"
    if isinstance(error, OSError) or not text:
        return why(error)
    return f"{type(error).__name__}: {text}"
