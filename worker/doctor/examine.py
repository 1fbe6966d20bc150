"""Runs all checks concurrently, each with a time limit; every error becomes a result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx

from worker.doctor import buckets, catalogs, endpoint, grants, hook, keys, local, realtime
from worker.doctor.context import CannotCheck, Context
from worker.doctor.result import Result, fail, warn

_SUPABASE = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY")
_RUNPOD = ("RUNPOD_API_KEY", "RUNPOD_ENDPOINT_ID", "RUNPOD_ENDPOINT_URL")
SECONDS = 20.0
REACHABLE = "supabase.reachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check; it is skipped while one of the settings that it `needs` is invalid."""

    name: str
    run: Callable[[Context], Awaitable[Result | list[Result]]]
    needs: tuple[str, ...] = ()
    seconds: float = SECONDS


# Not in CHECKS: always reported first, for the settings that the chosen checks need.
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
    Check(name="supabase.realtime", run=realtime.check_realtime, needs=_SUPABASE, seconds=40.0),
    Check(name="storage.inputs", run=buckets.check_input_buckets, needs=_SUPABASE),
    Check(name="storage.prepared", run=buckets.check_media_bucket, needs=_SUPABASE),
    Check(name="storage.results", run=buckets.check_results, needs=_SUPABASE),
    Check(name="runpod.endpoint", run=endpoint.check_endpoint, needs=_RUNPOD, seconds=75.0),
    Check(name="webhook", run=hook.check_webhook, needs=("PUBLIC_URL", "WEBHOOK_SECRET")),
)


async def examine(
    context: Context, checks: Sequence[Check] = CHECKS, *, settings: bool = True
) -> list[Result]:
    """Return all results, in the order of the checks; problems are results, never exceptions.

    Without `settings`, report only those settings that one of the checks needs.
    """
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_run(check, context)) for check in checks]
    needed = {name for check in checks for name in check.needs}
    wrong = {
        name: problem for name, problem in context.problems.items() if settings or name in needed
    }
    results = local.judge_settings(wrong) if settings or wrong else []
    for task in running:
        results += task.result()
    return _without_consequences(results)


def _without_consequences(results: list[Result]) -> list[Result]:
    """If Supabase does not answer, report the checks that need it as not checked."""
    if not any(result.name == REACHABLE and result.level == "fail" for result in results):
        return results
    return [
        warn(result.name, "Not checked.", f"Fix {REACHABLE} first.")
        if result.name.startswith(("supabase.realtime", "storage.")) and result.level != "ok"
        else result
        for result in results
    ]


async def _run(check: Check, context: Context) -> list[Result]:
    wrong = [name for name in check.needs if name in context.problems]
    if wrong:
        return [warn(check.name, "Not checked.", f"Fix {wrong[0]} first.")]
    try:
        async with asyncio.timeout(check.seconds):
            found = await check.run(context)
    except TimeoutError:
        return [
            fail(
                check.name,
                f"No answer within {check.seconds:.0f} s.",
                "Try again. If it happens again, the service or the network is overloaded.",
            )
        ]
    except CannotCheck as problem:
        return [_not_checked(check, problem)]
    except (ArithmeticError, LookupError, TypeError, ValueError, httpx.HTTPError) as error:
        return [
            fail(
                check.name,
                f"The answer has an unexpected form ({type(error).__name__}: {error}).",
                "Check that the URL is right; if it is, report this as a bug.",
            )
        ]
    return found if isinstance(found, list) else [found]


def _not_checked(check: Check, problem: CannotCheck) -> Result:
    """Report the cause once; the other checks that it stops are just not checked."""
    if check.name in (REACHABLE, "storage.inputs", "storage.prepared"):
        return fail(check.name, problem.message, problem.fix)
    return warn(check.name, "Not checked.", f"Fix {REACHABLE} first.")
