"""Compares constraints, indexes and Storage's policies with what the migrations create."""

from __future__ import annotations

from collections.abc import Mapping

from worker.doctor.catalogs import Found, expected, fix_with, is_newer, same
from worker.doctor.context import MIGRATE, Context
from worker.doctor.result import Result, fail, ok, skipped, warn


async def check_constraints(context: Context) -> Result:
    """Check the constraints, which refuse rows that can never be right."""
    name = "supabase.constraints"
    found = (await context.catalog()).found["tables"]
    missing, changed, statements = [], [], []
    for table, wanted in expected()["tables"].items():
        if table not in found:
            return skipped(name, "supabase.tables")
        if found[table].get("partitioned"):  # an operator's own, as docs/scaling.md describes
            continue
        have = found[table].get("constraints", {})
        for constraint, definition in wanted["constraints"].items():
            if constraint not in have:
                missing.append(constraint)
                action = ""
            elif not same(have[constraint], definition):
                changed.append(constraint)
                action = f"drop constraint {constraint}, "
            else:
                continue
            add = f"add constraint {constraint} {definition}"
            statements.append(f"alter table public.{table} {action}{add}")
    if await is_newer(context):
        return ok(name, "Not compared: the database is newer than this worker.")
    if not statements:
        return _indexes(name, found)
    parts = [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"changed: {', '.join(changed)}"] if changed else []
    message = "; ".join(parts)
    # Applying the migrations again does not alter a table that is there.
    more = f" ({len(statements) - 3} more are in sql/schema.sql)" if len(statements) > 3 else ""
    return fail(
        name,
        f"{message[0].upper()}{message[1:]}. Rows that can never be right are accepted.",
        f"Run in the SQL editor{more}: {'; '.join(statements[:3])};",
    )


def _indexes(name: str, found: Found) -> Result:
    for table, wanted in expected()["tables"].items():
        if found[table].get("partitioned"):
            continue
        have = found[table].get("indexes", {})
        differing = [
            index for index, what in wanted["indexes"].items() if not same(have.get(index), what)
        ]
        if differing:
            drops = "; ".join(f"drop index if exists public.{index}" for index in differing)
            return fail(
                name,
                f"Missing or changed on {table}: the index {', '.join(differing)}.",
                f"Run `{drops}` in the SQL editor, then {MIGRATE}.",
            )
    return ok(name, "All constraints and indexes are as the migrations created them.")


async def check_policies(context: Context) -> Result:
    """Check the policies by which browsers upload their inputs."""
    name = "storage.policies"
    wanted = expected()["storage"]["policies"]
    found = (await context.catalog()).found.get("storage")
    if found is None:
        return warn(
            name,
            "Storage is not installed in this database: browsers cannot upload.",
            "Use https:// URLs for inputs, or enable Storage for the project.",
        )
    if not found["rls"]:
        return fail(
            name,
            "Row level security is off for storage.objects: users can read each other's files.",
            "Run in the SQL editor: alter table storage.objects enable row level security;",
        )
    have = found["policies"]
    missing = sorted(wanted.keys() - have.keys())
    changed = sorted(
        policy for policy in wanted.keys() & have.keys() if not same(wanted[policy], have[policy])
    )
    if not missing and not changed:
        if opening := _opening(have, wanted, context):
            return warn(
                name,
                f"{' and '.join(opening)}: policies that the migrations did not create, which "
                "apply to a bucket of the worker.",
                "Make sure that they let no user read or replace another user's files.",
            )
        return ok(name, "Signed-in users may use their own folders alone, as created.")
    used = {bucket for bucket in context.settings.input_buckets if f"'{bucket}'" in str(wanted)}
    judge = fail if used or changed else warn
    if missing:
        return judge(
            name, f"Missing: {', '.join(missing)}. A browser's upload then fails.", fix_with()
        )
    drops = "; ".join(f'drop policy if exists "{policy}" on storage.objects' for policy in changed)
    return judge(
        name,
        f"Changed since the migrations created it: {', '.join(changed)}.",
        f"Run `{drops}` in the SQL editor, then {MIGRATE}.",
    )


def _opening(have: Mapping[str, str], wanted: Mapping[str, str], context: Context) -> list[str]:
    """Return the policies that apply to a bucket of ours, or to every bucket."""
    settings = context.settings
    buckets = {*settings.input_buckets, *([settings.media_bucket] if settings.media_bucket else ())}
    return [
        policy
        for policy, what in sorted(have.items())
        if policy not in wanted
        and ("bucket_id" not in what or any(f"'{bucket}'" in what for bucket in buckets))
    ]
