"""How the worker logs: one event per step, JSON or console, and never a secret."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_SECRET_KEYS = re.compile(
    r"key|token|secret|authorization|password|signature|apikey|database_url|webhook$|^input$|^body$",
    re.IGNORECASE,
)
_HARMLESS_KEYS = frozenset({"idempotency_key", "loop", "keys"})
# JWTs, RunPod and Supabase keys, credentials in URLs, query strings, and our webhook paths.
_SECRET_TEXTS = (
    (re.compile(r"eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*"), "[token]"),
    (re.compile(r"\b(?:sb_secret|sb_publishable|rpa|rps)_[\w-]{6,}", re.IGNORECASE), "[key]"),
    (re.compile(r"(?i)\bbearer\s+[^\s\"',]+"), "Bearer [token]"),
    (re.compile(r"(\w+://)[^/\s:@\"']+:[^/\s@\"']+@"), r"\1[credentials]@"),
    (re.compile(r"(https?://[^\s?\"'<>]+)\?[^\s\"'<>]+"), r"\1?[query]"),
    (re.compile(r"(/webhooks/runpod/[^/\s]+/\d+/)[0-9a-f]+"), r"\1[signature]"),
)
_LIMIT = 4000


def redact_text(text: str) -> str:
    """The text without keys, tokens, signed query strings and webhook signatures."""
    for pattern, instead in _SECRET_TEXTS:
        text = pattern.sub(instead, text)
    return text if len(text) <= _LIMIT else text[:_LIMIT] + "…"


def redact(value: object, depth: int = 0) -> object:
    """The same for anything that may be logged; whole inputs and bodies are left out."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        if depth > 4:
            return "[…]"
        return {
            str(name): "[left out]" if _is_secret(str(name)) else redact(inner, depth + 1)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(inner, depth + 1) for inner in list(value)[:50]]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_text(str(value))


def _is_secret(name: str) -> bool:
    return name not in _HARMLESS_KEYS and _SECRET_KEYS.search(name) is not None


def _redact_event(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name in list(event):
        if name in ("event", "level", "timestamp", "logger"):
            continue
        event[name] = "[left out]" if _is_secret(name) else redact(event[name])
    return event


def set_up_logs(*, level: str, style: str, stream: Any = None) -> None:
    """Configure structlog and standard logging alike; `style` is auto, json or console."""
    stream = sys.stdout if stream is None else stream
    console = style == "console" or (style == "auto" and stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), event_key="event")
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These print URLs with keys, row data, or one line per request.
    for name in ("httpx", "httpcore", "hpack", "websockets", "realtime", "PIL", "libav", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
