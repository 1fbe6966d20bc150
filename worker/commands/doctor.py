"""`doctor`: says what is wrong before jobs do."""

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
from worker.settings import load_what_is_right
from worker.supabase.store import TIMEOUT

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("doctor")(doctor)


def doctor(
    json: JsonOption = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Only checks whose names begin so; may be repeated.")
    ] = None,
    probe_run: Annotated[
        bool,
        typer.Option("--probe-run", help="Also render the cheapest video, which costs GPU time."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the probe run.")] = False,
    image: Annotated[str | None, typer.Option(help="The probe run's image address.")] = None,
    audio: Annotated[str | None, typer.Option(help="The probe run's audio address.")] = None,
    minutes: Annotated[
        float, typer.Option(min=1, help="How long to wait for the probe run.")
    ] = 40.0,
) -> None:
    """Check settings, Supabase, RunPod, the webhook and the media libraries; exit 1 on a fail."""
    checks, judged = _chosen(only)
    options = ProbeOptions(image=image, audio=audio, patience=60 * minutes)
    settings, problems = load_what_is_right()
    set_up_logs(level="error", style="console", stream=sys.stderr, secrets=settings.secrets)
    if probe_run and not yes and not problems:
        _ask(expected_gpu_seconds(settings.seconds_per_window))

    async def examined() -> list[Result]:
        async with httpx.AsyncClient(timeout=TIMEOUT) as http:
            context = Context(settings=settings, problems=problems, http=http)
            results = await examine(context, checks, settings=judged)
            if probe_run and problems:
                wrong = ", ".join(problems)
                results.append(warn(NAME, "Not made.", f"Mend the settings first: {wrong}."))
            elif probe_run:
                results.append(await probe(context, options, _say))
            return results

    redactor = Redactor(settings.secrets)
    results = [_clean(redactor, one) for one in asyncio.run(examined())]
    failed = any(one.level == "fail" for one in results)
    if json:
        print_json({"ok": not failed, "checks": [one.as_json() for one in results]})
    else:
        _tell(results)
    raise typer.Exit(1 if failed else 0)


def _say(text: str) -> None:
    typer.echo(f"probe run: {text}", err=True)


def _ask(seconds: float) -> None:
    cost = (
        f"The probe run takes about {seconds:.0f} s of a GPU and the time in which a worker starts."
    )
    if not sys.stdin.isatty():
        typer.echo(f"{cost} To agree without being asked, add --yes.", err=True)
        raise typer.Exit(REFUSED)
    typer.confirm(f"{cost} Go on?", abort=True, err=True)


def _chosen(only: list[str] | None) -> tuple[Sequence[Check], bool]:
    """The checks that were asked for, and whether the settings are to be judged as a whole."""
    if not only:
        return CHECKS, True
    begins = tuple(only)
    chosen = [check for check in CHECKS if check.name.startswith(begins)]
    judged = SETTINGS.startswith(begins)
    if not chosen and not judged:
        names = ", ".join([SETTINGS, *(check.name for check in CHECKS)])
        raise typer.BadParameter(f"no check begins so; there are: {names}", param_hint="--only")
    return chosen, judged


def _clean(redactor: Redactor, result: Result) -> Result:
    """Foreign words travel in messages: one line each, and no secret."""
    return replace(
        result,
        message=" ".join(redactor.text(result.message).split()),
        mend=" ".join(redactor.text(result.mend).split()),
    )


def _tell(results: Sequence[Result]) -> None:
    width = max(len(one.name) for one in results)
    print_lines(
        [
            Text.assemble(
                (f"{one.level:<4}", COLOURS[one.level]),
                f"  {one.name:<{width}}  {one.message} {one.mend}".rstrip(),
            )
            for one in results
        ]
    )
    counts = {level: sum(one.level == level for one in results) for level in COLOURS}
    typer.echo(", ".join(f"{number} {level}" for level, number in counts.items()))
