"""Compares the project's catalogs with those of a freshly migrated database."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from worker.doctor.context import MIGRATE, Context
from worker.doctor.result import Result, fail, ok, skipped, warn
from worker.runtime.data_files import data_file
from worker.runtime.migrations import other_schema

Found = Mapping[str, Any]
_PRINTING = re.compile(r"[()\s]")


@cache
def expected() -> Found:
    """Return sql/expected.json: the catalogs of a freshly migrated database."""
    loaded: Found = json.loads(data_file("sql", "expected.json").read_text("utf-8"))
    return loaded


async def check_reachable(context: Context) -> Result:
    """Check that Supabase answers with the service key."""
    catalog = await context.catalog()
    major = int(catalog.found.get("server_version") or 0) // 10_000
    milliseconds = 1000 * (catalog.answered_at - catalog.asked_at)
    return ok("supabase.reachable", f"Postgres {major} answers in {milliseconds:.0f} ms.")


async def check_clock(context: Context) -> Result:
    """Compare this machine's clock with the database's."""
    catalog = await context.catalog()
    ours = (catalog.asked_at + catalog.answered_at) / 2
    skew = ours - float(catalog.found["server_time"])
    name = "supabase.clock"
    # The measurement is uncertain by half the round trip.
    sure = abs(skew) - (catalog.answered_at - catalog.asked_at) / 2
    if sure > 30:
        return warn(
            name,
            f"This machine's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}.",
            "Set the machine's clock with NTP. Jobs use the database's clock, but TLS and the "
            "removal of old prepared inputs use this one.",
        )
    return ok(name, "This machine's clock agrees with the database's.")


async def check_migrations(context: Context) -> Result:
    """Check that every file of sql/migrations was applied."""
    name = "supabase.migrations"
    recorded = (await context.catalog()).found["migrations"]
    # Before there were hashes it was a list of names.
    if problem := other_schema(recorded if isinstance(recorded, Mapping) else None):
        message, _, fix = problem.partition(". ")
        return fail(name, f"{message}.", fix)
    done = set(recorded)
    wanted = set(expected()["migrations"])
    if missing := sorted(wanted - done):
        return fail(
            name,
            f"Not applied: {', '.join(missing)}.",
            "Run `python -m worker migrate` with DATABASE_URL set to the direct connection string.",
        )
    if newer := sorted(done - wanted):
        return warn(
            name,
            f"The database is newer than this worker: it has {', '.join(newer)}.",
            "Deploy the worker version that contains these migrations.",
        )
    return ok(name, f"All {len(wanted)} are applied.")


def same(one: str | None, other: str) -> bool:
    """Compare definitions; parentheses and spaces are how a version of Postgres prints them."""
    return one is not None and _PRINTING.sub("", one) == _PRINTING.sub("", other)


async def is_newer(context: Context) -> bool:
    """Return whether the database has later migrations: then only they know its definitions."""
    return bool(set((await context.catalog()).found["migrations"]) - set(expected()["migrations"]))


async def check_tables(context: Context) -> Result:
    """Check tables and columns."""
    name = "supabase.tables"
    found = (await context.catalog()).found["tables"]
    missing, statements = [], []
    for table, wanted in expected()["tables"].items():
        if table not in found:
            return fail(name, f"The table {table} is missing.", fix_with())
        for column, kind in wanted["columns"].items():
            if found[table]["columns"].get(column) != kind:
                missing.append(f"{table}.{column} ({kind})")
                verb = "alter" if column in found[table]["columns"] else "add"
                word = "type " if verb == "alter" else ""
                statements.append(f"alter table public.{table} {verb} column {column} {word}{kind}")
    if missing:
        return fail(
            name,
            f"Missing, or of another type: {', '.join(missing)}.",
            f"Compare with sql/schema.sql and run: {'; '.join(statements[:3])};",
        )
    if not await is_newer(context) and (repairs := list(_column_repairs(found))):
        return fail(
            name,
            f"Another default or NOT NULL: {', '.join(column for column, _ in repairs)}.",
            f"Run in the SQL editor: {'; '.join(statement for _, statement in repairs[:3])};",
        )
    return ok(name, "All tables and columns are as the migrations created them.")


def _column_repairs(found: Found) -> Iterator[tuple[str, str]]:
    """Yield the columns whose default or NOT NULL differs, with the statement that repairs it."""
    for table, wanted in expected()["tables"].items():
        have = found[table]
        if have.get("partitioned"):  # an operator's own, as docs/scaling.md describes
            continue
        alter = f"alter table public.{table} alter column"
        for column, default in wanted["defaults"].items():
            if not same(have.get("defaults", {}).get(column), default):
                yield f"{table}.{column}", f"{alter} {column} set default {default}"
        for column in sorted(set(wanted["not_null"]) - set(have.get("not_null", ()))):
            yield f"{table}.{column}", f"{alter} {column} set not null"
        for column in sorted(set(have.get("not_null", ())) - set(wanted["not_null"])):
            # An added column that fills itself refuses nothing.
            filled = {*have.get("defaults", ()), *have.get("identities", ())}
            if column in wanted["columns"] or column not in filled:
                yield f"{table}.{column}", f"{alter} {column} drop not null"


async def check_functions(context: Context) -> Result:
    """Check functions, and who may execute them."""
    name = "supabase.functions"
    found = (await context.catalog()).found["functions"]
    wanted = expected()["functions"]
    if missing := sorted(wanted.keys() - found.keys()):
        return fail(name, f"Missing: {', '.join(missing)}.", fix_with())
    for function, roles in wanted.items():
        extra = sorted(set(found[function]) - set(roles) - {"service_role"})
        lacking = sorted(set(roles) - set(found[function]))
        if extra:
            return fail(
                name,
                f"{' and '.join(extra)} may execute {function}, but should not.",
                fix_with(f"revoke execute on function public.{function} from public, anon"),
            )
        if lacking:
            return fail(
                name,
                f"{' and '.join(lacking)} may not execute {function}.",
                fix_with(f"grant execute on function public.{function} to {', '.join(lacking)}"),
            )
    if not await is_newer(context) and (twice := _overloads(found, wanted)):
        drops = "; ".join(f"drop function public.{function}" for function in twice)
        return fail(
            name,
            f"There is another function of the same name: {', '.join(twice)}. Supabase cannot "
            "choose between the two, and refuses the call.",
            f"Run in the SQL editor: {drops};",
        )
    bodies = (await context.catalog()).found.get("bodies", {})
    changed = sorted(
        function for function, body in expected()["bodies"].items() if bodies.get(function) != body
    )
    if changed and not await is_newer(context):
        return fail(
            name,
            f"Changed since the migrations created it: {', '.join(changed)}.",
            fix_with(),
        )
    return ok(name, f"All {len(wanted)} are as created, and only the right roles may execute them.")


def _overloads(found: Found, wanted: Found) -> list[str]:
    """Return the functions that have the name of one of ours, but other parameters."""
    names = {function.partition("(")[0] for function in wanted}
    others = sorted(found.keys() - wanted.keys())
    return [function for function in others if function.partition("(")[0] in names]


async def check_rls(context: Context) -> Result:
    """Check row level security and its policies."""
    name = "supabase.rls"
    found = (await context.catalog()).found["tables"]
    for table, wanted in expected()["tables"].items():
        if table not in found:
            return skipped(name, "supabase.tables")
        have = found[table]
        if not have["rls"]:
            return fail(
                name,
                f"Row level security is off for {table}: users could see each other's jobs.",
                fix_with(f"alter table public.{table} enable row level security"),
            )
        for policy, what in wanted["policies"].items():
            if not same(have["policies"].get(policy), what):
                return fail(
                    name, f"The policy “{policy}” of {table} is missing or changed.", fix_with()
                )
        if extra := sorted(have["policies"].keys() - wanted["policies"].keys()):
            return warn(
                name,
                f"{table} has policies that the migrations did not create: {', '.join(extra)}.",
                "Make sure that they show no user another user's jobs.",
            )
    return ok(name, "It is on for all tables, with the policies of the migrations.")


async def check_triggers(context: Context) -> Result:
    """Check the triggers that guard the state machine."""
    name = "supabase.triggers"
    found = (await context.catalog()).found["tables"]
    for table, wanted in expected()["tables"].items():
        if table not in found:
            return skipped(name, "supabase.tables")
        have = found[table]["triggers"]
        if missing := sorted(set(wanted["triggers"]) - set(have)):
            return fail(
                name,
                f"Missing or disabled on {table}: {', '.join(missing)}.",
                fix_with(),
            )
        changed = sorted(
            trigger for trigger, what in wanted["triggers"].items() if not same(have[trigger], what)
        )
        if changed and not await is_newer(context):
            return fail(name, f"Changed on {table}: {', '.join(changed)}.", fix_with())
    return ok(name, "All exist and are enabled.")


def fix_with(*statements: str) -> str:
    """Return the advice to apply the migrations again, or to run these statements."""
    again = MIGRATE[0].upper() + MIGRATE[1:]
    if not statements:
        return f"{again}."
    return f"{again}, or in the SQL editor: {'; '.join(statements)};"
