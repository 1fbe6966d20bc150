"""Runs all checks concurrently, each with a time limit; every error becomes a result."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx

from worker.doctor import (
    additions,
    browser,
    buckets,
    catalogs,
    definitions,
    endpoint,
    grants,
    hook,
    keys,
    local,
    publication,
    realtime,
)
from worker.doctor.context import CannotCheck, Context
from worker.doctor.result import Result, fail, skipped
from worker.runtime.network import why

_SUPABASE = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY")
_RUNPOD = ("RUNPOD_API_KEY", "RUNPOD_ENDPOINT_ID", "RUNPOD_ENDPOINT_URL")
SECONDS = 20.0
REACHABLE = "supabase.reachable"
_AFTER = (REACHABLE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check.

    It is skipped while one of the settings that it `needs` is invalid, and if one of the checks
    that it comes `after` has failed.
    """

    name: str
    run: Callable[[Context], Awaitable[Result | list[Result]]]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
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
    Check(name="supabase.constraints", run=definitions.check_constraints, needs=_SUPABASE),
    Check(name=additions.NAME, run=additions.check_additions, needs=_SUPABASE),
    Check(name="supabase.functions", run=catalogs.check_functions, needs=_SUPABASE),
    Check(name="supabase.grants", run=grants.check_grants, needs=_SUPABASE),
    Check(name="supabase.rls", run=catalogs.check_rls, needs=_SUPABASE),
    Check(name="supabase.triggers", run=catalogs.check_triggers, needs=_SUPABASE),
    Check(name="supabase.publication", run=publication.check_publication, needs=_SUPABASE),
    Check(
        name="supabase.replica_identity", run=publication.check_replica_identity, needs=_SUPABASE
    ),
    Check(
        name="supabase.realtime",
        run=realtime.check_realtime,
        needs=_SUPABASE,
        after=(REACHABLE, "supabase.publication"),
        seconds=40.0,
    ),
    Check(name="storage.policies", run=definitions.check_policies, needs=_SUPABASE),
    Check(name="storage.inputs", run=buckets.check_input_buckets, needs=_SUPABASE, after=_AFTER),
    Check(name="storage.prepared", run=buckets.check_media_bucket, needs=_SUPABASE, after=_AFTER),
    Check(name="storage.results", run=buckets.check_results, needs=_SUPABASE, after=_AFTER),
    Check(name="runpod.endpoint", run=endpoint.check_endpoint, needs=_RUNPOD, seconds=75.0),
    Check(name="webhook", run=hook.check_webhook, needs=("PUBLIC_URL", "WEBHOOK_SECRET")),
)

# Only with --browser: it creates a user.
BROWSER = Check(
    name=browser.NAME,
    run=browser.check_browser,
    needs=_SUPABASE,
    after=(REACHABLE, "supabase.grants", "storage.policies", "storage.inputs"),
    seconds=60.0,
)


async def examine(
    context: Context,
    checks: Sequence[Check] = CHECKS,
    *,
    settings: bool = True,
    report: Callable[[Result], None] = lambda _result: None,
) -> list[Result]:
    """Return all results, in the order of the checks; problems are results, never exceptions.

    `report` gets each result as soon as it is there. Without `settings`, report only those settings
    that one of the checks needs.
    """
    needed = {name for check in checks for name in check.needs}
    wrong = {
        name: problem for name, problem in context.problems.items() if settings or name in needed
    }
    results = local.judge_settings(wrong) if settings or wrong else []
    for result in results:
        report(result)
    running: dict[str, asyncio.Task[list[Result]]] = {}

    async def made(check: Check) -> list[Result]:
        first = await _failed_before(check, running)
        found = [skipped(check.name, first)] if first else await _run(check, context, checks)
        for result in found:
            report(result)
        return found

    async with asyncio.TaskGroup() as tasks:
        for check in checks:
            running[check.name] = tasks.create_task(made(check))
    return results + [result for task in running.values() for result in task.result()]


async def _failed_before(
    check: Check, running: Mapping[str, asyncio.Task[list[Result]]]
) -> str | None:
    """Return the first failed check of those that this one comes after, if they are made at all."""
    for name in check.after:
        for result in await running[name] if name in running else ():
            if result.level == "fail" or result.skipped:
                return result.waits_for or name
    return None


async def _run(check: Check, context: Context, checks: Sequence[Check]) -> list[Result]:
    wrong = [name for name in check.needs if name in context.problems]
    if wrong:
        return [skipped(check.name, wrong[0])]
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
        return [_not_checked(check, problem, checks)]
    except (ssl.SSLError, httpx.HTTPError) as error:
        fix = "Check the URL in the settings, and this machine's network."
        return [fail(check.name, f"The connection failed: {why(error)}.", fix)]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return [
            fail(
                check.name,
                f"The answer has an unexpected form ({type(error).__name__}: {error}).",
                "Check that the URL is right; if it is, report this as a bug.",
            )
        ]
    return found if isinstance(found, list) else [found]


def _not_checked(check: Check, problem: CannotCheck, checks: Sequence[Check]) -> Result:
    """Report the cause once; the other checks that it stops are just not checked."""
    if check.name != REACHABLE and any(other.name == REACHABLE for other in checks):
        return skipped(check.name, REACHABLE)
    return fail(check.name, problem.message, problem.fix)
