"""Makes foreign text harmless: without secrets, control characters, and prompts' markup."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_URL = re.compile(r"https?://[^\s\"'<>\\]+", re.IGNORECASE)
_WEBHOOK = re.compile(r"(/webhooks/runpod)/[^\s\"'?#]+", re.IGNORECASE)
_SECRETS = (
    re.compile(r"\beyJ[\w-]{6,}(?:\.[\w-]*){0,2}"),
    re.compile(r"\bsb_(?:secret|publishable)_[\w-]+"),
    re.compile(r"\brpa_\w+"),
    re.compile(r"(?i)\bBearer\s+\S+"),
    re.compile(r"(?i)\b[\w-]{0,40}?(?:password|passwd)s?[\"']?\s*[=:]\s*[\"']?[^\s\"'&,;})]+"),
    # "signature: it is invalid" is prose: two plain words behind the colon are no secret.
    re.compile(
        r"(?i)\b[\w-]{0,40}?(?:token|secret|api_?-?key|signature|credential)s?"
        r"(?-i:(?!: [A-Z]?[a-z]{1,12},? [a-z]{1,20}\b))"
        r"[\"']?\s*[=:]\s*[\"']?[^\s\"'&,;})]+"
    ),
)
_HIDDEN = "[hidden]"

# What moves a cursor, colours, renames a window (CSI, OSC and the other escape sequences, also
# in their one-byte forms), or turns the direction of what follows.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])(?:[^\x07\x1b\x9c]{0,2000}(?:\x07|\x1b\\|\x9c))?"
    r"|\x1b[ -/]*[0-~]?"
)
_DIRECTION = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_CONTROL_IN_LINES = re.compile(r"(?:(?![\n\t])[\x00-\x1f\x7f-\x9f\u2028\u2029])+")
_SPACES = re.compile(r" {2,}")
_WEIGHT = re.compile(r"(?: ?: ?[\d.]+)+ ?(?=\))")


def storable(text: str) -> str:
    """Return the text without what UTF-8 or Postgres refuses (lone surrogates, NUL)."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "")


def visible(text: str, *, lines: bool = False) -> str:
    """Return the text without escape sequences, control characters and line breaks.

    With `lines`, line breaks and tabs stay: for tracebacks and the like. Text without any of these
    is returned as it is.
    """
    plain = _DIRECTION.sub("", _ESCAPES.sub("", text))
    return (_CONTROL_IN_LINES if lines else _CONTROL).sub(" ", plain)


def visible_values(value: Any) -> Any:
    """Return a JSON value whose texts, also nested ones, are visible() and storable()."""
    if isinstance(value, str):
        return visible(storable(value))
    if isinstance(value, Mapping):
        return {name: visible_values(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [visible_values(inner) for inner in value]
    return value


def redact(text: str, *, limit: int = 2000) -> str:
    """Return at most `limit` characters of the text without keys, tokens and query strings."""
    # What lies far beyond the limit is not read: a run's error may have megabytes.
    clean = _WEBHOOK.sub(rf"\1/{_HIDDEN}", storable(text[: 4 * limit + 4000]))
    clean = _URL.sub(lambda match: _without_query(match.group()), clean)
    for pattern in _SECRETS:
        clean = pattern.sub(_HIDDEN, clean)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def one_line(text: str, *, limit: int) -> str:
    """Return the text as one line of at most `limit` characters, without secrets."""
    flat = _SPACES.sub(" ", visible(redact(visible(text[: 80 * limit]), limit=20 * limit))).strip()
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def safe_prompt(text: str) -> str:
    """Return the prompt as plain words.

    The text encoder splits at "|" (one prompt per window), takes "[1]" as a scene mark and
    "(words:1.2)" as a weight on everything; none of it is meant by people who write a sentence.
    """
    plain = _CONTROL.sub(" ", storable(text)).replace("|", ",")
    plain = plain.replace("[", "").replace("]", "")
    plain = _WEIGHT.sub("", _SPACES.sub(" ", plain))
    return _SPACES.sub(" ", plain).strip()


def _without_query(url: str) -> str:
    scheme, _, rest = url.partition("://")
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
