"""Runs all checks at once, each within its time, and turns whatever happens into results."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx

from worker.doctor import bell, buckets, catalogs, endpoint, grants, hook, keys, local
from worker.doctor.context import Context, Trouble
from worker.doctor.result import Result, fail, warn

_SUPABASE = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY")
_RUNPOD = ("RUNPOD_API_KEY", "RUNPOD_ENDPOINT_ID", "RUNPOD_ENDPOINT_URL")
SECONDS = 20.0
REACHABLE = "supabase.reachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check; it is left out while one of the settings that it `needs` is wrong."""

    name: str
    run: Callable[[Context], Awaitable[Result | list[Result]]]
    needs: tuple[str, ...] = ()
    seconds: float = SECONDS


# Not a check of its own: told first, as far as the others need them.
SETTINGS = "settings"
CHECKS = (
    Check(name="template", run=local.check_template),
    Check(name="media", run=local.check_media),
    Check(name="supabase.key", run=keys.check_key, needs=_SUPABASE[1:]),
    Check(name=REACHABLE, run=catalogs.check_reachable, needs=_SUPABASE),
    Check(name="supabase.clock", run=catalogs.check_clock, needs=_SUPABASE),
    Check(name="supabase.migrations", run=catalogs.check_migrations, needs=_SUPABASE),
    Check(name="supabase.tables", run=catalogs.check_tables, needs=_SUPABASE),
    Check(name="supabase.functions", run=catalogs.check_functions, needs=_SUPABASE),
    Check(name="supabase.grants", run=grants.check_grants, needs=_SUPABASE),
    Check(name="supabase.rls", run=catalogs.check_rls, needs=_SUPABASE),
    Check(name="supabase.triggers", run=catalogs.check_triggers, needs=_SUPABASE),
    Check(name="supabase.publication", run=catalogs.check_publication, needs=_SUPABASE),
    Check(name="supabase.replica_identity", run=catalogs.check_replica_identity, needs=_SUPABASE),
    Check(name="supabase.realtime", run=bell.check_realtime, needs=_SUPABASE, seconds=40.0),
    Check(name="storage.inputs", run=buckets.check_input_buckets, needs=_SUPABASE),
    Check(name="storage.prepared", run=buckets.check_media_bucket, needs=_SUPABASE),
    Check(name="storage.results", run=buckets.check_results, needs=_SUPABASE),
    Check(name="runpod.endpoint", run=endpoint.check_endpoint, needs=_RUNPOD, seconds=75.0),
    Check(name="webhook", run=hook.check_webhook, needs=("PUBLIC_URL", "WEBHOOK_SECRET")),
)


async def examine(
    context: Context, checks: Sequence[Check] = CHECKS, *, settings: bool = True
) -> list[Result]:
    """All results, in the checks' order; never raises for what is wrong with the patient.

    Without `settings` only those settings are judged that one of the checks needs.
    """
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_one(check, context)) for check in checks]
    needed = {name for check in checks for name in check.needs}
    wrong = {name: said for name, said in context.problems.items() if settings or name in needed}
    results = local.judge_settings(wrong) if settings or wrong else []
    for task in running:
        results += task.result()
    return _each_cause_once(results)


def _each_cause_once(results: list[Result]) -> list[Result]:
    """Without Supabase, what needs it is not judged by the errors that this brings there."""
    if not any(one.name == REACHABLE and one.level == "fail" for one in results):
        return results
    return [
        warn(one.name, "Not checked.", f"Mend {REACHABLE} first.")
        if one.name.startswith(("supabase.realtime", "storage.")) and one.level != "ok"
        else one
        for one in results
    ]


async def _one(check: Check, context: Context) -> list[Result]:
    wrong = [name for name in check.needs if name in context.problems]
    if wrong:
        return [warn(check.name, "Not checked.", f"Mend {wrong[0]} first.")]
    try:
        async with asyncio.timeout(check.seconds):
            found = await check.run(context)
    except TimeoutError:
        return [
            fail(
                check.name,
                f"There was no answer within {check.seconds:.0f} s.",
                "Try again; if it stays so, the service or the way to it is overloaded.",
            )
        ]
    except Trouble as trouble:
        return [_troubled(check, trouble)]
    except (ArithmeticError, LookupError, TypeError, ValueError, httpx.HTTPError) as error:
        return [
            fail(
                check.name,
                f"The answer cannot be understood ({type(error).__name__}: {error}).",
                "Make sure that the address belongs to the service it should; else report this.",
            )
        ]
    return found if isinstance(found, list) else [found]


def _troubled(check: Check, trouble: Trouble) -> Result:
    """One cause is told once: the other checks that it stops only say so."""
    if check.name in (REACHABLE, "storage.inputs", "storage.prepared"):
        return fail(check.name, trouble.message, trouble.mend)
    return warn(check.name, "Not checked.", f"Mend {REACHABLE} first.")
