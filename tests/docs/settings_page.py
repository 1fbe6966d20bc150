"""Generates docs/settings.md from worker/settings.py: `make docs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from worker.settings import PLACEHOLDERS, Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
HEAD = """# Settings

Environment variables; nothing else configures the worker.
For local use they may be lines of a file `.env` in the current folder: copy
[.env.example](../.env.example). A variable of the environment comes before the file.
`ENV_FILE` names another file, or is `none`, as in the image.
This page is generated from `worker/settings.py` by `make docs`.

The worker does not start with an invalid or missing setting; it prints one line for each problem.
`python -m worker doctor` checks more.
A misspelt name of a setting is such a problem, too; names of other programs are not.
An empty variable counts as unset. Lists are separated by commas. Durations are in seconds.
On Fly, set keys and secrets with `fly secrets set`, everything else in `[env]` of `fly.toml`.

"""
TAIL = """
`migrate` reads only `DATABASE_URL`.
`jobs` and `submit` read `SUPABASE_URL` and `SUPABASE_SERVICE_ROLE_KEY`, `submit` with files also
`INPUT_BUCKETS`; `frames`, `plan`, `request` and `workflow check` need none of these.
Set `RUNPOD_ENDPOINT_ID` or `RUNPOD_ENDPOINT_URL`; if both are set, they must agree.
The URL may end with `/run` or `/runsync`.
On Fly, `PUBLIC_URL` is `https://$FLY_APP_NAME.fly.dev` unless it is set.
"""
GROUPS = {
    "Accounts": "supabase_url",
    "The process": "host",
    "Intervals": "sweep_seconds",
    "Limits and deadlines": "max_in_flight",
    "Audio, frames and images": "max_audio_seconds",
    "Storage and hosts": "input_buckets",
    "Workflow and price": "workflow_path",
    "History": "history_keep_days",
}


def page() -> str:
    """Return the whole page."""
    starts = {name: heading for heading, name in GROUPS.items()}
    parts: list[str] = []
    for name, field in Settings.model_fields.items():
        if name in starts:
            table = "| name | default | meaning |\n|---|---|---|\n"
            parts.append(f"{chr(10) if parts else ''}## {starts[name]}\n\n{table}")
        default = _default(name, field)
        parts.append(f"| `{name.upper()}` | {default} | {field.description}{_range(field)} |\n")
    return HEAD + "".join(parts) + TAIL


def _default(name: str, field: FieldInfo) -> str:
    if name.upper() in PLACEHOLDERS:
        return "must be set"
    if field.default in ("", (), None):
        return "unset"
    shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
    if isinstance(shown, bool):
        return f"`{str(shown).lower()}`"
    return f"`{shown}`"


def _range(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        choices: tuple[Any, ...] = get_args(field.annotation)
        return f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = [
        f"{words[limit]} {getattr(constraint, limit)}"
        for constraint in field.metadata
        for limit in words
        if getattr(constraint, limit, None) is not None
    ]
    text = ", ".join(limits)
    return f" {text[0].upper()}{text[1:]}." if text else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
