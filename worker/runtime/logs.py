"""How the worker logs: one event per step, JSON or console, and never a secret."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import structlog

from worker.jobs import text as texts

_SECRET_KEYS = re.compile(
    r"key|token|secret|authorization|password|signature|apikey|database_url|webhook$|^input$|^body$",
    re.IGNORECASE,
)
_HARMLESS_KEYS = frozenset({"idempotency_key", "loop", "keys"})
# What jobs/text.py leaves, as errors are shown to people there: other schemes than http, and
# RunPod's requests, whose `input` holds a whole workflow with people's prompts and addresses.
_CREDENTIALS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@\"']+@", re.IGNORECASE)
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?\"'<>]+)\?[^\s\"'<>]+", re.IGNORECASE)
_OLD_RUNPOD_KEY = re.compile(r"\b[A-Z0-9]{40}\b")
_INPUT = re.compile(r"([\"']input[\"']\s*:\s*)\{.*")
_LIMIT = 4000
# The end of a traceback names the error, so a long one loses its middle.
_TRACEBACK_LIMIT = 12_000
# These print URLs with keys, row data, or one line per request.
_CHATTY = (
    "asyncio", "httpx", "httpcore", "hpack", "websockets", "realtime", "PIL", "libav", "uvicorn",
)  # fmt: skip
_OWN = ("level", "timestamp", "logger")
_TRACEBACKS = ("exception", "stack")


class Redactor:
    """Takes secrets out of whatever is logged: known ones by value, others by their look."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: one secret may begin with another.
        self._secrets = sorted({text for text in secrets if len(text) >= 8}, key=len, reverse=True)

    def text(self, text: str, *, limit: int = _LIMIT, lines: bool = False) -> str:
        """Return the text without keys, tokens, signed query strings, and control characters.

        Only with `lines` it keeps its line breaks: a line of the log must begin with our own words.
        """
        text = texts.visible(text, lines=lines)
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        text = texts.redact(text, limit=10 * _TRACEBACK_LIMIT)
        text = _QUERY.sub(r"\1", _CREDENTIALS.sub(r"\1", text))
        text = _INPUT.sub(r"\1[left out]", _OLD_RUNPOD_KEY.sub("[key]", text))
        if len(text) <= limit:
            return text
        gap = "\n[…]\n" if lines else " […] "
        return f"{text[: limit // 2]}{gap}{text[-limit // 2 :]}"

    def value(self, value: object, depth: int = 0) -> object:
        """Do the same for anything that may be logged; leave out whole inputs and bodies."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            if depth > 4:
                return "[…]"
            return {
                self.text(str(name)): "[left out]"
                if _is_secret(str(name))
                else self.value(inner, depth + 1)
                for name, inner in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(inner, depth + 1) for inner in list(value)[:50]]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.text(str(value))

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Clean one event of the log; other libraries' messages arrive as `event`."""
        for name, value in list(event.items()):
            if name in _OWN or name.startswith("_"):
                continue
            if name in _TRACEBACKS:
                event[name] = self.text(str(value), limit=_TRACEBACK_LIMIT, lines=True)
            else:
                event[name] = "[left out]" if _is_secret(name) else self.value(value)
        return event


def _is_secret(name: str) -> bool:
    return name not in _HARMLESS_KEYS and _SECRET_KEYS.search(name) is not None


def set_up_logs(*, level: str, style: str, stream: Any = None, secrets: Iterable[str] = ()) -> None:
    """Configure structlog and standard logging alike; `style` is auto, json or console.

    `secrets` never appear, whatever they look like.
    """
    stream = sys.stdout if stream is None else stream
    console = style == "console" or (style == "auto" and stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        Redactor(secrets),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            event_key="event",
            exception_formatter=structlog.dev.plain_traceback,
        )
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
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
