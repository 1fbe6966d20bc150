"""The migration files of this version, and whether a database was made by them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from worker.runtime.data_files import data_file

_TABLE = re.compile(r"^create table if not exists (public\.\w+)", re.MULTILINE)


def files() -> list[Path]:
    """Return the migration files, in order."""
    return sorted(data_file("sql", "migrations").glob("[0-9]*.sql"))


def hash_of(path: Path) -> str:
    """Return the hash of a file; how its lines end does not count."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def tables() -> list[str]:
    """Return the tables that the files create, with their schema."""
    return [name for path in files() for name in _TABLE.findall(path.read_text("utf-8"))]


@cache
def hashes() -> Mapping[str, str]:
    """Return the hash of each file, by its name without the ending."""
    return {path.stem: hash_of(path) for path in files()}


def other_schema(recorded: Mapping[str, str | None] | None) -> str | None:
    """Return why a database that recorded these hashes cannot be used, None if it can.

    Without a hash (null) another tool applied the file, which is accepted. `recorded` is None if
    the database has no hashes at all.
    """
    ours = hashes()
    if recorded is None:
        differs = "its migrations have no hashes"
    else:
        names = sorted(
            name for name, found in recorded.items() if found and ours.get(name, found) != found
        )
        differs = f"its {' and '.join(names)} differ{'s' * (len(names) == 1)}" if names else ""
    if not differs:
        return None
    names_of_tables = ", ".join(tables())
    return (
        "This database was made by other migration files than those of this version "
        f"({differs}), and until version 0.2.0 is released such a database cannot be upgraded. "
        f'Export what you need, run "drop table if exists {names_of_tables} cascade", then run '
        "`python -m worker migrate`."
    )
