"""`workflow check`: validates a workflow template."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.commands.output import JsonOption, print_json, refusals
from worker.jobs.text import visible
from worker.policies import read_template
from worker.runtime.data_files import workflow_file
from worker.settings import load_planning_settings


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        help="Work with the workflow template.", no_args_is_help=True, add_completion=False
    )
    group.command("check")(check)
    app.add_typer(group, name="workflow")


def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Default: WORKFLOW_PATH, or the shipped template."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="A deviation to allow, such as WanVideoSampler.shift; repeatable."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check a workflow template as the worker does at start."""
    with refusals(json):
        settings = load_planning_settings()
        path = file or workflow_file(settings.workflow_path)
        template = read_template(settings, path, allow=allow or [])
    if json:
        print_json(
            {
                "path": str(path),
                "template_hash": template.sha256,
                "advance": template.advance,
                "nodes": dict(template.nodes),
                "notes": list(template.notes),
                "problems": [],
            }
        )
        return
    typer.echo(visible(f"{path} is valid."))
    typer.echo(f"sha256 {template.sha256}")
    for note in template.notes:
        typer.echo(visible(f"note: {note}"))
