"""Generates .env.example from worker/settings.py: `make docs`."""

from __future__ import annotations

from pathlib import Path

from tests.docs.settings_page import GROUPS
from worker.settings import PLACEHOLDERS, Settings

FILE = Path(__file__).resolve().parents[2] / ".env.example"
HEAD = """\
# Settings for local use: copy this file to `.env` and fill in the first lines.
# `python -m worker` reads `.env` in the current folder; variables of the environment come first.
# The image reads no file: on Fly use `fly secrets set` and fly.toml. Git ignores `.env`.
# Written by `make docs`; docs/settings.md explains each setting.
"""
# What an example cannot say by its default.
EXAMPLES = {
    "SUPABASE_URL": "https://abc.supabase.co",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_",
    "RUNPOD_API_KEY": "rpa_",
    "RUNPOD_ENDPOINT_ID": "abc123",
    "GPU_PRICE_PER_SECOND": "0.00044",
    "WEBHOOK_SECRET": "the output of: openssl rand -hex 32",
}


def text() -> str:
    """Return the whole file: needed settings empty, all others as comments with their defaults."""
    starts = {name: heading for heading, name in GROUPS.items()}
    lines = [HEAD]
    for name, field in Settings.model_fields.items():
        if name in starts:
            lines.append(f"{'' if len(lines) == 1 else chr(10)}# --- {starts[name]}\n")
        upper = name.upper()
        example = f" Example: {EXAMPLES[upper]}" if upper in EXAMPLES else ""
        lines.append(f"# {field.description}{example}\n")
        if upper in PLACEHOLDERS:
            lines.append(f"{upper}=\n")
        else:
            lines.append(f"#{upper}={_default(field.default)}\n")
    return "".join(lines)


def _default(value: object) -> str:
    if value in ("", (), None):
        return ""
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
