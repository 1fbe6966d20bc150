"""The command line of `python -m worker`: registers the commands."""

from __future__ import annotations

import typer

from worker import __version__
from worker.commands import doctor, jobs, migrate, plan, submit, workflow
from worker.commands import run as run_command

app = typer.Typer(
    help="Worker between Supabase and RunPod that renders talking-head videos.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


for command in (run_command, migrate, submit, jobs, doctor, plan, workflow):
    command.register(app)
