"""`run`: the daemon."""

from __future__ import annotations

import asyncio
import ssl
import sys

import httpx
import typer

from worker.app import run_daemon
from worker.jobs.errors import SettingsInvalid, WorkflowInvalid
from worker.jobs.text import visible
from worker.runtime.logs import set_up_logs
from worker.runtime.migrations import other_schema
from worker.settings import Settings, load_settings


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("run")(run)


async def problem_of_database(settings: Settings, *, seconds: float = 5.0) -> str | None:
    """Return why the database's schema cannot be used, None if it can or cannot be asked now.

    A database that is away is no reason not to start: the daemon waits for it, as for RunPod.
    """
    key = settings.supabase_service_role_key.get_secret_value()
    url = f"{settings.supabase_url}/rest/v1/video_job_migrations?select=name,hash"
    headers = {"apikey": key, "Authorization": f"Bearer {key}"}
    try:
        async with httpx.AsyncClient(timeout=seconds) as http:
            answer = await http.get(url, headers=headers)
        body = answer.json()
    except (httpx.HTTPError, ssl.SSLError, ValueError):
        return None
    if answer.status_code == 200 and isinstance(body, list):
        return other_schema({str(row["name"]): row["hash"] for row in body})
    # 42703: the table is there, but has no column `hash`.
    if isinstance(body, dict) and body.get("code") == "42703":
        return other_schema(None)
    return None


def run() -> None:
    """Run the daemon: render the jobs of video_jobs until SIGTERM or Ctrl-C."""
    try:
        settings = load_settings()
        set_up_logs(level=settings.log_level, style=settings.log_format, secrets=settings.secrets)
        if problem := asyncio.run(problem_of_database(settings)):
            sys.stderr.write(f"Cannot start: {problem}\n")
            raise typer.Exit(2)
        code = run_daemon(settings)
    except (SettingsInvalid, WorkflowInvalid) as error:
        what = "these settings" if isinstance(error, SettingsInvalid) else "the workflow template"
        sys.stderr.write(f"Cannot start: fix {what}:\n")
        sys.stderr.writelines(f"  {visible(problem)}\n" for problem in error.problems)
        raise typer.Exit(2) from error
    raise typer.Exit(code)
