"""Finds what somebody added to our tables: it may refuse or change what the worker writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from worker.doctor.catalogs import expected, is_newer
from worker.doctor.context import Context
from worker.doctor.result import Result, ok, warn

NAME = "supabase.additions"


async def check_additions(context: Context) -> Result:
    """Check for constraints, unique indexes, triggers and rules that no migration created."""
    if await is_newer(context):
        return ok(NAME, "Not compared: the database is newer than this worker.")
    found = (await context.catalog()).found["tables"]
    added = [
        f"{thing} on {table}"
        for table, wanted in expected()["tables"].items()
        if table in found
        for thing in _added(found[table], wanted)
    ]
    if not added:
        return ok(NAME, "Nothing was added that could refuse or change rows.")
    return warn(
        NAME,
        f"Not from the migrations: {', '.join(added)}. It may refuse or change what the worker "
        "writes; then jobs stay as they are.",
        "If it is yours, look in the worker's log whether each write still works; otherwise drop "
        "it.",
    )


def _added(have: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    def more(kind: str) -> list[str]:
        return sorted(set(have.get(kind, ())) - set(wanted.get(kind, ())))

    constraints = more("constraints")
    indexes = have.get("indexes", {})
    if not have.get("partitioned"):  # an operator's own, as docs/scaling.md describes
        yield from (f"the constraint {name}" for name in constraints)
        for name in more("indexes"):
            # Other indexes refuse nothing; that of a constraint is named above.
            if name not in constraints and indexes[name].startswith("CREATE UNIQUE"):
                yield f"the unique index {name}"
    yield from (f"the trigger {name}" for name in more("triggers"))
    yield from (f"the rule {name}" for name in more("rules"))
