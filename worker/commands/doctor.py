"""`doctor`: finds problems of the setup before jobs fail."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import httpx
import typer
from rich.text import Text

from worker.commands.output import REFUSED, JsonOption, print_json, print_lines
from worker.doctor.context import Context
from worker.doctor.examine import BROWSER, CHECKS, SETTINGS, Check, examine
from worker.doctor.probe import NAME, ProbeOptions, expected_gpu_seconds, probe
from worker.doctor.result import Result, skipped
from worker.jobs.text import visible
from worker.runtime.logs import Redactor, set_up_logs
from worker.settings import load_valid_settings
from worker.supabase.store import TIMEOUT

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_OTHER_NAMES = ("not checked", "runpod.workers")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("doctor")(doctor)


def doctor(
    json: JsonOption = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Only checks with this prefix; repeatable.")
    ] = None,
    probe_run: Annotated[
        bool,
        typer.Option(
            "--probe-run", help="Also render the cheapest possible video; costs GPU time."
        ),
    ] = False,
    browser: Annotated[
        bool,
        typer.Option(
            "--browser",
            help="Also sign in, upload and insert as a browser does; needs SUPABASE_ANON_KEY.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the probe run.")] = False,
    image: Annotated[str | None, typer.Option(help="Image URL for the probe run.")] = None,
    audio: Annotated[str | None, typer.Option(help="Audio URL for the probe run.")] = None,
    minutes: Annotated[
        float, typer.Option(min=1, help="How long to wait for the probe run.")
    ] = 40.0,
) -> None:
    """Check settings, Supabase, RunPod, webhook and media libraries; exit 1 if one fails."""
    checks, with_settings = _chosen(only, browser=browser)
    options = ProbeOptions(image=image, audio=audio, patience=60 * minutes)
    settings, problems = load_valid_settings()
    set_up_logs(level="error", style="console", stream=sys.stderr, secrets=settings.secrets)
    if probe_run and not yes and not problems:
        _ask(expected_gpu_seconds(settings.seconds_per_window))
    redactor = Redactor(settings.secrets)
    names = [check.name for check in checks]
    page = _Page([*names, *([NAME] if probe_run else [])])

    def report(result: Result) -> None:
        if not json:
            page.show(_clean(redactor, result))

    async def examined() -> list[Result]:
        async with httpx.AsyncClient(timeout=TIMEOUT) as http:
            context = Context(settings=settings, problems=problems, http=http)
            results = await examine(context, checks, settings=with_settings, report=report)
            if probe_run and problems:
                results.append(skipped(NAME, " and ".join(problems)))
                report(results[-1])
            elif probe_run:
                results.append(await probe(context, options, _say))
                report(results[-1])
            return results

    results = [_clean(redactor, result) for result in asyncio.run(examined())]
    failed = any(result.level == "fail" for result in results)
    if json:
        print_json({"ok": not failed, "checks": [result.as_json() for result in results]})
    else:
        page.close(results)
    raise typer.Exit(1 if failed else 0)


def _say(text: str) -> None:
    typer.echo(f"probe run: {visible(text)}", err=True)


def _ask(seconds: float) -> None:
    cost = f"The probe run is a paid GPU run: about {seconds:.0f} s, plus the start of a worker."
    if not sys.stdin.isatty():
        typer.echo(f"{cost} To run it without a question, add --yes.", err=True)
        raise typer.Exit(REFUSED)
    typer.confirm(f"{cost} Continue?", abort=True, err=True)


def _chosen(only: list[str] | None, *, browser: bool) -> tuple[Sequence[Check], bool]:
    """Return the chosen checks, and whether to report all settings."""
    more = [BROWSER] if browser else []
    if not only:
        return [*CHECKS, *more], True
    prefixes = tuple(only)
    chosen = [check for check in CHECKS if check.name.startswith(prefixes)] + more
    with_settings = SETTINGS.startswith(prefixes)
    if not chosen and not with_settings:
        names = ", ".join([SETTINGS, *(check.name for check in CHECKS)])
        raise typer.BadParameter(
            f"no check has this prefix; the checks are: {names}", param_hint="--only"
        )
    return chosen, with_settings


def _clean(redactor: Redactor, result: Result) -> Result:
    """Return the result without secrets and line breaks: messages may quote other services."""
    return replace(
        result,
        message=" ".join(redactor.text(result.message).split()),
        fix=" ".join(redactor.text(result.fix).split()),
    )


class _Page:
    """Prints a line for each result as soon as it is there; those not checked in one line each."""

    def __init__(self, names: Sequence[str]) -> None:
        others = _OTHER_NAMES if names else ()
        self._width = max(len(name) for name in (SETTINGS, *names, *others))

    def show(self, result: Result) -> None:
        """Print the result, unless its check was not made."""
        if not result.skipped:
            self._line(result.level, result.name, f"{result.message} {result.fix}")

    def close(self, results: Sequence[Result]) -> None:
        """Print what was not checked, by what must be fixed first, and how many results there are.

        The checks end in any order, so this comes last.
        """
        waiting: dict[str, list[str]] = {}
        for result in results:
            if result.skipped:
                waiting.setdefault(result.waits_for, []).append(result.name)
        for first, names in waiting.items():
            self._line("warn", "not checked", f"{', '.join(names)}: fix {first} first.")
        made = [result for result in results if not result.skipped]
        counts = {level: sum(result.level == level for result in made) for level in COLOURS}
        left = len(results) - len(made)
        parts = [f"{number} {level}" for level, number in counts.items()]
        typer.echo(", ".join(parts + ([f"{left} not checked"] if left else [])))

    def _line(self, level: str, name: str, text: str) -> None:
        start = (f"{level:<4}", COLOURS[level])
        print_lines([Text.assemble(start, f"  {name:<{self._width}}  {text}".rstrip())])
