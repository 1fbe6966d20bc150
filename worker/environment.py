"""The only reader of the environment: its variables, a local .env file, names that are misspelt."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from dotenv import dotenv_values

from worker.jobs.errors import SettingsInvalid

ENV_FILE = "ENV_FILE"
NO_FILE = "none"
# Two names of one thing: a file's endpoint must not be mixed with the environment's.
_TOGETHER = (frozenset({"RUNPOD_ENDPOINT_ID", "RUNPOD_ENDPOINT_URL"}),)
# How alike two names must be, from 0 to 1: SUPABASE_SERVICE_KEY and SUPABASE_SERVICE_ROLE_KEY are
# 0.89, SUPABASE_ANON_KEY and SUPABASE_SERVICE_ROLE_KEY 0.62.
_ALIKE = 0.85
# Short names resemble those of other programs.
_SHORTEST = 9
# Optional, and names like them are ordinary: DATABASE_URI, SUPABASE_ADMIN_KEY.
_NOT_GUESSED = frozenset({"DATABASE_URL", "SUPABASE_ANON_KEY"})


def read() -> dict[str, str]:
    """Return the environment's variables, and those of the .env file that it does not set.

    The file is `.env` in the current folder, or the one that ENV_FILE names; `none` is no file, as
    in the image. Raise SettingsInvalid if it cannot be read.
    """
    environment = dict(os.environ)
    named = environment.get(ENV_FILE, "").strip()
    if named == NO_FILE:
        return environment
    path = Path(named or ".env")
    if not named and not path.is_file():
        return environment
    from_file = _file(path)
    for names in _TOGETHER:
        if any(environment.get(name, "").strip() for name in names):
            from_file = {name: value for name, value in from_file.items() if name not in names}
    return from_file | environment


def _file(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8") as stream:
            found = dotenv_values(stream=stream, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsInvalid([f"{ENV_FILE}: {path} cannot be read: {reason}."]) from None
    return {name: value for name, value in found.items() if value is not None}


def misspelt(environment: Mapping[str, str], ours: Collection[str]) -> dict[str, str]:
    """Return the settings that are probably misspelt: the right name and the one that is set.

    Names of other programs are never reported, nor any whose right name is set as well.
    """
    found: dict[str, str] = {}
    given = {name for name in ours if environment.get(name, "").strip()}
    for names in _TOGETHER:
        given |= names if given & names else set()
    candidates = sorted(set(ours) - given - _NOT_GUESSED)
    for name, value in environment.items():
        if name in ours or not value.strip() or len(name) < _SHORTEST:
            continue
        if near := difflib.get_close_matches(name.upper(), candidates, n=1, cutoff=_ALIKE):
            found.setdefault(near[0], name)
    return found
