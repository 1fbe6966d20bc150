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
from worker.doctor.examine import CHECKS, SETTINGS, Check, examine
from worker.doctor.probe import NAME, ProbeOptions, expected_gpu_seconds, probe
from worker.doctor.result import Result, warn
from worker.runtime.logs import Redactor, set_up_logs
from worker.settings import load_valid_settings
from worker.supabase.store import TIMEOUT

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


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
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the probe run.")] = False,
    image: Annotated[str | None, typer.Option(help="Image URL for the probe run.")] = None,
    audio: Annotated[str | None, typer.Option(help="Audio URL for the probe run.")] = None,
    minutes: Annotated[
        float, typer.Option(min=1, help="How long to wait for the probe run.")
    ] = 40.0,
) -> None:
    """Check settings, Supabase, RunPod, webhook and media libraries; exit 1 if one fails."""
    checks, with_settings = _chosen(only)
    options = ProbeOptions(image=image, audio=audio, patience=60 * minutes)
    settings, problems = load_valid_settings()
    set_up_logs(level="error", style="console", stream=sys.stderr, secrets=settings.secrets)
    if probe_run and not yes and not problems:
        _ask(expected_gpu_seconds(settings.seconds_per_window))

    async def examined() -> list[Result]:
        async with httpx.AsyncClient(timeout=TIMEOUT) as http:
            context = Context(settings=settings, problems=problems, http=http)
            results = await examine(context, checks, settings=with_settings)
            if probe_run and problems:
                wrong = ", ".join(problems)
                results.append(warn(NAME, "Not done.", f"Fix these settings first: {wrong}."))
            elif probe_run:
                results.append(await probe(context, options, _say))
            return results

    redactor = Redactor(settings.secrets)
    results = [_clean(redactor, result) for result in asyncio.run(examined())]
    failed = any(result.level == "fail" for result in results)
    if json:
        print_json({"ok": not failed, "checks": [result.as_json() for result in results]})
    else:
        _print(results)
    raise typer.Exit(1 if failed else 0)


def _say(text: str) -> None:
    typer.echo(f"probe run: {text}", err=True)


def _ask(seconds: float) -> None:
    cost = f"The probe run is a paid GPU run: about {seconds:.0f} s, plus the start of a worker."
    if not sys.stdin.isatty():
        typer.echo(f"{cost} To run it without a question, add --yes.", err=True)
        raise typer.Exit(REFUSED)
    typer.confirm(f"{cost} Continue?", abort=True, err=True)


def _chosen(only: list[str] | None) -> tuple[Sequence[Check], bool]:
    """Return the chosen checks, and whether to report all settings."""
    if not only:
        return CHECKS, True
    prefixes = tuple(only)
    chosen = [check for check in CHECKS if check.name.startswith(prefixes)]
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


def _print(results: Sequence[Result]) -> None:
    width = max(len(result.name) for result in results)
    print_lines(
        [
            Text.assemble(
                (f"{result.level:<4}", COLOURS[result.level]),
                f"  {result.name:<{width}}  {result.message} {result.fix}".rstrip(),
            )
            for result in results
        ]
    )
    counts = {level: sum(result.level == level for result in results) for level in COLOURS}
    typer.echo(", ".join(f"{number} {level}" for level, number in counts.items()))
