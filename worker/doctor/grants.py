"""Compares who may do what on tables and columns with what the migrations grant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from worker.doctor.catalogs import Found, expected, mend_by
from worker.doctor.context import Context
from worker.doctor.result import Result, fail, ok, warn

_STRANGERS = ("PUBLIC", "anon", "authenticated")
_FEW = 3


async def check_grants(context: Context) -> Result:
    """Rights on tables and columns."""
    name = "supabase.grants"
    found = (await context.catalog()).found["tables"]
    only_servers_insert = False
    for table, role, wanted, given in _rights(found):
        lacking = wanted - given
        inserts = {one for one in wanted if one.startswith("insert")}
        if role == "authenticated" and inserts and inserts <= lacking:
            only_servers_insert, lacking = True, lacking - inserts
        if lacking:
            grant = f"grant {_gathered(lacking)} on public.{table} to {role}"
            return fail(name, f"{role} lacks {_told(lacking)} on {table}.", mend_by(grant))
        if role in _STRANGERS and (extra := sorted(given - wanted)):
            return fail(
                name,
                f"{role} may {', '.join(extra)} on {table}.",
                mend_by(*_taken_back(table, role, extra)),
            )
    if only_servers_insert:
        return warn(
            name,
            "Signed-in users may not insert jobs: only your server can.",
            "If browsers shall insert, run `python -m worker migrate --again`.",
        )
    return ok(name, "Each role has the rights it needs, and no others.")


def _told(rights: Collection[str]) -> str:
    if len(rights) <= _FEW or not any(" " in one for one in rights):
        return ", ".join(sorted(rights))
    verbs = Counter(one.partition(" ")[0] for one in rights)
    return ", ".join(f"{verb} ({number} columns)" for verb, number in sorted(verbs.items()))


def _gathered(rights: Collection[str]) -> str:
    """Rights as GRANT writes them, the columns of a verb together."""
    columns: dict[str, list[str]] = {}
    for one in sorted(rights):
        verb, _, column = one.partition(" ")
        columns.setdefault(verb, []).extend([column] if column else [])
    return ", ".join(
        f"{verb} ({', '.join(names)})" if names else verb for verb, names in columns.items()
    )


def _rights(found: Found) -> Iterator[tuple[str, str, set[str], set[str]]]:
    for table, wanted in expected()["tables"].items():
        if table not in found:
            continue
        for kind in ("grants", "column_grants"):
            for role in ("service_role", *_STRANGERS):
                needs = {one.lower() for one in wanted[kind].get(role, ())}
                given = {one.lower() for one in found[table][kind].get(role, ())}
                yield table, role, needs, given


def _taken_back(table: str, role: str, rights: list[str]) -> Iterator[str]:
    columns = expected()["tables"][table]["column_grants"].get(role, ())
    for right in rights:
        yield f"revoke {_right(right)} on public.{table} from {role.lower()}"
        # With a right on the table, Postgres takes the same right on its columns away.
        for one in columns:
            if one.partition(" ")[0] == right:
                yield f"grant {_right(one)} on public.{table} to {role}"


def _right(right: str) -> str:
    verb, _, column = right.partition(" ")
    return f"{verb} ({column})" if column else verb
