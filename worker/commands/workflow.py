"""`workflow check`: whether a template may be used, and what would be rendered with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from worker.adapters.files import workflow_file
from worker.commands.output import JsonOption, print_json, refusals
from worker.core.errors import WorkflowInvalid
from worker.core.guard import Template, load_template
from worker.settings import load_planning_settings

_LARGEST_TEMPLATE = 4 * 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        help="Look at the workflow template.", no_args_is_help=True, add_completion=False
    )
    group.command("check")(check)
    app.add_typer(group, name="workflow")


def read_template(path: Path, deviations: Iterable[str] = ()) -> Template:
    """Read and check a template file; WorkflowInvalid also when it cannot be read."""
    try:
        if path.stat().st_size > _LARGEST_TEMPLATE:
            raise WorkflowInvalid([f"{path} is too large for a workflow."])
        data = path.read_bytes()
    except OSError as error:
        raise WorkflowInvalid([f"{path} cannot be read: {error.strerror}."]) from error
    return load_template(data, deviations=deviations)


def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Default: WORKFLOW_PATH, or the shipped."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="A deviation to permit, such as WanVideoSampler.shift; repeatable."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check a workflow template as the worker does at its start."""
    with refusals(json):
        settings = load_planning_settings()
        path = file or workflow_file(settings.workflow_path)
        template = read_template(path, [*settings.workflow_deviations, *(allow or [])])
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
    typer.echo(f"{path} may be used.")
    typer.echo(f"sha256 {template.sha256}")
    for note in template.notes:
        typer.echo(f"note: {note}")
