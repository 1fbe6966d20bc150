"""`run`: the daemon."""

from __future__ import annotations

import sys

import typer

from worker.app import run_daemon
from worker.jobs.errors import SettingsInvalid, WorkflowInvalid
from worker.runtime.logs import set_up_logs
from worker.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("run")(run)


def run() -> None:
    """Run the daemon: render the jobs of video_jobs until SIGTERM or Ctrl-C."""
    try:
        settings = load_settings()
        set_up_logs(level=settings.log_level, style=settings.log_format, secrets=settings.secrets)
        code = run_daemon(settings)
    except (SettingsInvalid, WorkflowInvalid) as error:
        what = "these settings" if isinstance(error, SettingsInvalid) else "the workflow template"
        sys.stderr.write(f"Cannot start: fix {what}:\n")
        sys.stderr.writelines(f"  {problem}\n" for problem in error.problems)
        raise typer.Exit(2) from error
    raise typer.Exit(code)
