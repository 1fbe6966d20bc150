"""What RunPod says about a run, read from any JSON it may send."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from worker.jobs.errors import TransientError
from worker.jobs.text import one_line, redact

_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_FRACTION = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(?:/\s*(\d{1,9})|%)?\s*")
_MAX_URL = 2000
_MAX_MILLISECONDS = 10**12
_ERROR_LIMIT = 2000
HANDLER_PHASES = frozenset({"loading_models", "generating", "saving"})


class RunState(StrEnum):
    """Where a run is; RunPod's own words end here."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    UNKNOWN = "unknown"

    @property
    def terminal(self) -> bool:
        """Whether the run has ended; a word that we do not know has not."""
        return self in _TERMINAL


_TERMINAL = frozenset({RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT})
_STATES = {
    "IN_QUEUE": RunState.QUEUED,
    "IN_PROGRESS": RunState.RUNNING,
    "RUNNING": RunState.RUNNING,
    "COMPLETED": RunState.COMPLETED,
    "FAILED": RunState.FAILED,
    "CANCELLED": RunState.CANCELLED,
    "TIMED_OUT": RunState.TIMED_OUT,
}


class RunBodyInvalid(TransientError):
    """The answer is not a job object; the next poll may show one."""

    code = "run_body_invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunUpdate:
    """What one poll said of a run; times in ms, progress 0 to 100 only if it was reported."""

    run_id: str
    state: RunState
    delay_ms: int | None = None
    execution_ms: int | None = None
    video_url: str | None = None
    progress: float | None = None
    phase: str | None = None
    error: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return what is kept of an end that only a webhook told of."""
        return {
            "run_id": self.run_id,
            "state": self.state.value,
            "delay_ms": self.delay_ms,
            "execution_ms": self.execution_ms,
            "video_url": self.video_url,
            "error": self.error,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunUpdate:
        """Read what as_json returned; KeyError or ValueError if it is anything else."""
        return cls(**{**data, "state": RunState(data["state"])})


def parse_run(body: object, *, run_id: str | None = None) -> RunUpdate:
    """Read a body of /run, /status, /cancel or a webhook; RunBodyInvalid if it is none.

    With `run_id` the body must speak of that run, or of none.
    """
    if not isinstance(body, Mapping):
        raise RunBodyInvalid("RunPod's answer is not a JSON object.")
    found = _run_id(body.get("id"), expected=run_id)
    status = body.get("status")
    if not isinstance(status, str) or not status.strip():
        raise RunBodyInvalid("RunPod's answer names no status.")
    state = _STATES.get(status.strip().upper(), RunState.UNKNOWN)
    output = body.get("output")
    running = state is RunState.RUNNING
    return RunUpdate(
        run_id=found,
        state=state,
        delay_ms=_milliseconds(body.get("delayTime")),
        execution_ms=_milliseconds(body.get("executionTime")),
        video_url=_video_url(output) if state is RunState.COMPLETED else None,
        progress=_progress(output) if running else None,
        phase=_phase(output) if running else None,
        error=_error(body.get("error"), output) if state.terminal else None,
    )


def reason_of(error: str | None) -> str:
    """Return the error's own words: the SDK wraps them as JSON text with a traceback."""
    wrapped = _sdk_error(error) if error else None
    return str(wrapped["error_message"]) if wrapped else (error or "")


def _run_id(value: object, *, expected: str | None) -> str:
    if value is None and expected is not None:
        return expected
    if not isinstance(value, str) or not _RUN_ID.fullmatch(value):
        raise RunBodyInvalid("RunPod's answer names no run.")
    if expected is not None and value != expected:
        raise RunBodyInvalid("RunPod's answer is about another run.")
    return value


def _milliseconds(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= _MAX_MILLISECONDS else None


def _video_url(output: object) -> str | None:
    if not isinstance(output, Mapping):
        return None
    video = output.get("video", output.get("video_url"))
    candidates = video if isinstance(video, list) else [video]
    return next((url for url in candidates if _is_web_address(url)), None)


def _is_web_address(value: object) -> bool:
    if not isinstance(value, str) or not 0 < len(value.encode(errors="replace")) <= _MAX_URL:
        return False
    if not value.isprintable() or any(character.isspace() for character in value):
        return False
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and parts.username is None
        and port != 0
    )


def _progress(output: object) -> float | None:
    reported = output.get("progress") if isinstance(output, Mapping) else None
    if isinstance(reported, str):
        return _written_progress(reported)
    if isinstance(reported, bool) or not isinstance(reported, int | float):
        return None
    return float(reported) if 0 <= reported <= 100 else None


def _written_progress(text: str) -> float | None:
    match = _FRACTION.fullmatch(text[:40])
    if match is None:
        return None
    done, whole = float(match[1]), match[2]
    if whole is not None:
        done = 100 * done / int(whole) if int(whole) else math.inf
    return done if done <= 100 else None


def _phase(output: object) -> str | None:
    reported = output.get("phase") if isinstance(output, Mapping) else None
    return reported if isinstance(reported, str) and reported in HANDLER_PHASES else None


def _error(value: object, output: object) -> str | None:
    if value is None and isinstance(output, Mapping):
        value = output.get("error")
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else _as_json(value)
    wrapped = _sdk_error(text)
    if wrapped is None:
        return redact(text, limit=_ERROR_LIMIT)
    kept = {
        "error_type": one_line(str(wrapped.get("error_type", "")), limit=100),
        "error_message": one_line(str(wrapped["error_message"]), limit=700),
    }
    traceback = redact(str(wrapped.get("error_traceback", "")), limit=100_000)[-600:]
    whole = _as_json(kept | {"error_traceback": traceback})
    return whole if len(whole) <= _ERROR_LIMIT else _as_json(kept)


def _sdk_error(text: str) -> dict[str, object] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict) and isinstance(found.get("error_message"), str):
        return found
    return None


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return "an error that is not text"
