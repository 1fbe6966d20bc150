"""Compares the rights on tables and columns with what the migrations grant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from worker.doctor.catalogs import Found, expected, fix_with
from worker.doctor.context import Context
from worker.doctor.result import Result, fail, ok, warn

_PUBLIC_ROLES = ("PUBLIC", "anon", "authenticated")
_FEW = 3


async def check_grants(context: Context) -> Result:
    """Check rights on tables and columns."""
    name = "supabase.grants"
    catalog = (await context.catalog()).found
    found = catalog["tables"]
    if "authenticated" not in catalog.get("schema_users", ("authenticated",)):
        return fail(
            name,
            "authenticated may not use the schema public: browsers cannot reach any table.",
            "Run in the SQL editor: grant usage on schema public to authenticated;",
        )
    only_servers_insert = False
    for table, role, wanted, given in _rights(found):
        lacking = wanted - given
        inserts = {right for right in wanted if right.startswith("insert")}
        if role == "authenticated" and inserts and inserts <= lacking:
            only_servers_insert, lacking = True, lacking - inserts
        if lacking:
            grant = f"grant {_as_grant(lacking)} on public.{table} to {role}"
            return fail(name, f"{role} lacks {_summary(lacking)} on {table}.", fix_with(grant))
        if role in _PUBLIC_ROLES and (extra := sorted(given - wanted)):
            return fail(
                name,
                f"{role} may {', '.join(extra)} on {table}.",
                fix_with(*_revokes(table, role, extra)),
            )
    if only_servers_insert:
        return warn(
            name,
            "Signed-in users may not insert jobs; only your server can.",
            "To let browsers insert, run `python -m worker migrate --again`.",
        )
    return ok(name, "Each role has the rights it needs, and no others.")


def _summary(rights: Collection[str]) -> str:
    if len(rights) <= _FEW or not any(" " in right for right in rights):
        return ", ".join(sorted(rights))
    verbs = Counter(right.partition(" ")[0] for right in rights)
    return ", ".join(f"{verb} ({number} columns)" for verb, number in sorted(verbs.items()))


def _as_grant(rights: Collection[str]) -> str:
    """Return rights in the form of GRANT, with the columns of each verb together."""
    columns: dict[str, list[str]] = {}
    for right in sorted(rights):
        verb, _, column = right.partition(" ")
        columns.setdefault(verb, []).extend([column] if column else [])
    return ", ".join(
        f"{verb} ({', '.join(names)})" if names else verb for verb, names in columns.items()
    )


def _rights(found: Found) -> Iterator[tuple[str, str, set[str], set[str]]]:
    for table, wanted in expected()["tables"].items():
        if table not in found:
            continue
        for kind in ("grants", "column_grants"):
            for role in ("service_role", *_PUBLIC_ROLES):
                needs = {right.lower() for right in wanted[kind].get(role, ())}
                given = {right.lower() for right in found[table][kind].get(role, ())}
                yield table, role, needs, given


def _revokes(table: str, role: str, rights: list[str]) -> Iterator[str]:
    columns = expected()["tables"][table]["column_grants"].get(role, ())
    for right in rights:
        yield f"revoke {_right(right)} on public.{table} from {role.lower()}"
        # Revoking a right on a table also revokes it on the table's columns: grant those again.
        for column_right in columns:
            if column_right.partition(" ")[0] == right:
                yield f"grant {_right(column_right)} on public.{table} to {role}"


def _right(right: str) -> str:
    verb, _, column = right.partition(" ")
    return f"{verb} ({column})" if column else verb
