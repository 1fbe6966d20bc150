"""Checks what Realtime gets: the publication, and what Postgres logs of a row's old version."""

from __future__ import annotations

from worker.doctor.catalogs import Found, expected, fix_with
from worker.doctor.context import Context
from worker.doctor.result import Result, fail, ok, skipped, warn


async def check_publication(context: Context) -> Result:
    """Check that Realtime publishes the table."""
    name = "supabase.publication"
    found = (await context.catalog()).found
    if "video_jobs" not in found["tables"]:
        return skipped(name, "supabase.tables")
    if not found["published"]:
        return fail(
            name,
            "The publication supabase_realtime does not contain video_jobs: worker and browsers "
            "get no events.",
            fix_with("alter publication supabase_realtime add table public.video_jobs"),
        )
    if missing := sorted(set(expected()["publishes"]) - set(found["publishes"])):
        return fail(
            name,
            f"The publication supabase_realtime does not publish {' and '.join(missing)}.",
            "Run in the SQL editor: alter publication supabase_realtime "
            "set (publish = 'insert, update, delete, truncate');",
        )
    if problem := _publishes_in_part(found):
        return fail(
            name,
            f"{problem} Browsers then miss changes of their jobs.",
            "Run in the SQL editor: alter publication supabase_realtime drop table "
            "public.video_jobs; alter publication supabase_realtime add table public.video_jobs;",
        )
    return ok(name, "Realtime publishes video_jobs.")


def _publishes_in_part(found: Found) -> str | None:
    if row_filter := found.get("row_filter"):
        return f"The publication supabase_realtime has a row filter for video_jobs: {row_filter}."
    columns = found.get("unpublished") or ()
    if not columns:
        return None
    few, left = ", ".join(columns[:3]), len(columns) - 3
    more = f" and {left} more columns" if left > 0 else ""
    return f"The publication supabase_realtime leaves out {few}{more} of video_jobs."


async def check_replica_identity(context: Context) -> Result:
    """Check what Postgres logs of a row's old version."""
    name = "supabase.replica_identity"
    table = (await context.catalog()).found["tables"].get("video_jobs")
    if table is None:
        return skipped(name, "supabase.tables")
    identity = table["replica_identity"]
    fix = fix_with("alter table public.video_jobs replica identity default")
    if identity == "nothing":
        return fail(name, "It is NOTHING: Postgres refuses every update of video_jobs.", fix)
    if identity != "default":
        return warn(
            name,
            f"It is {str(identity).upper()}: each event contains the row twice, which may be too "
            "large for Realtime.",
            fix,
        )
    return ok(name, "It is DEFAULT (the primary key), as it should be.")
