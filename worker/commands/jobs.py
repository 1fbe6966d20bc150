"""`jobs list|show|cancel|retry`: the jobs table for operators."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from worker.commands.jobs_view import NO_MATCH, as_line, job_lines, table_view
from worker.commands.output import (
    FAILED,
    REFUSED,
    JsonOption,
    print_json,
    print_lines,
    refusals,
)
from worker.commands.table import opened
from worker.jobs.errors import StoreRefused, StoreUnavailable
from worker.jobs.job import JobStatus
from worker.jobs.text import visible
from worker.settings import load_table_settings
from worker.supabase.jobs_table import JobsTable

WATCH_SECONDS = 2.0
T = TypeVar("T")
Row = Mapping[str, Any]
Ids = Annotated[list[uuid.UUID] | None, typer.Argument(help="Job ids.", show_default=False)]
CodeOption = Annotated[str | None, typer.Option(help="Only jobs with this error code.")]
UserOption = Annotated[uuid.UUID | None, typer.Option(help="Only jobs of this user_id.")]

jobs_app = typer.Typer(help="List, show, cancel and retry jobs.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(jobs_app, name="jobs")


def _text(user: uuid.UUID | None) -> str | None:
    return None if user is None else str(user)


def _json_wanted(asked: bool) -> bool:
    return asked or not sys.stdout.isatty()


@jobs_app.command("list")
def list_jobs(
    status: Annotated[
        list[JobStatus] | None, typer.Option(help="Only jobs with this status; repeatable.")
    ] = None,
    code: CodeOption = None,
    user: UserOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many jobs.")] = 20,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep the list up to date until Ctrl-C.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List jobs, newest first; prints JSON if the output is not a terminal."""
    statuses = tuple(wanted.value for wanted in status or ())

    async def find(table: JobsTable) -> list[dict[str, Any]]:
        return await table.find(statuses=statuses, code=code, user_id=_text(user), limit=limit)

    with refusals(json):
        if watch:
            _until_interrupted(_watch(find, as_json=_json_wanted(json)))
            return
        rows = asyncio.run(_with_table(find))
    if _json_wanted(json):
        print_json(rows)
    else:
        console = Console(highlight=False)
        console.print(table_view(rows, width=console.width))


@jobs_app.command()
def show(
    job_id: Annotated[uuid.UUID, typer.Argument(help="The job's id.")], json: JsonOption = False
) -> None:
    """Show one job: state, plan, submissions, GPU seconds, cost and timeline."""

    async def read(table: JobsTable) -> dict[str, Any] | None:
        row, submissions, events = await asyncio.gather(
            table.get(str(job_id)), table.submissions(str(job_id)), table.events(str(job_id))
        )
        if row is None and not submissions and not events:
            return None
        gpu = sum(submission["execution_ms"] or 0 for submission in submissions) / 1000
        costs = [s["cost_usd"] for s in submissions if s["cost_usd"] is not None]
        return {
            "job": row,
            "gpu_seconds": gpu,
            "cost_usd": sum(costs) if costs else None,
            "submissions": submissions,
            "events": events,
        }

    with refusals(json):
        found = asyncio.run(_with_table(read))
    if found is None:
        _no_such_job(job_id, json)
    elif _json_wanted(json):
        print_json(found)
    else:
        print_lines([*job_lines(found)])


@jobs_app.command()
def cancel(ids: Ids = None, json: JsonOption = False) -> None:
    """Cancel jobs; a live run is cancelled at RunPod too."""
    if not ids:
        raise typer.BadParameter("give at least one job id", param_hint="IDS")
    _each([str(job_id) for job_id in ids], lambda table: table.cancel, json)


@jobs_app.command()
def retry(
    ids: Ids = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="All failed jobs that match --code and --user.")
    ] = False,
    code: CodeOption = None,
    user: UserOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Retry at most this many jobs.")] = 100,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Retry failed or cancelled jobs: those given by id, or all failed ones with --failed."""
    if bool(ids) == failed or (ids and (code or user)):
        raise typer.BadParameter(
            "give job ids, or use --failed (with --code or --user)", param_hint="IDS"
        )
    chosen = [str(job_id) for job_id in ids or ()]
    if failed:
        with refusals(json):
            rows = asyncio.run(
                _with_table(
                    lambda table: table.find(
                        statuses=("failed",), code=code, user_id=_text(user), limit=limit
                    )
                )
            )
        chosen = [row["id"] for row in rows]
        if chosen and not yes:
            _ask(len(chosen))
    _each(chosen, lambda table: table.retry, json)


def _ask(number: int) -> None:
    question = f"Retry {number} job{'s' * (number > 1)}? Each is a paid GPU run."
    if not sys.stdin.isatty():
        typer.echo(f"{question} To run without a question, add --yes.", err=True)
        raise typer.Exit(REFUSED)
    typer.confirm(question, abort=True, err=True)


Action = Callable[[str], Awaitable[dict[str, Any] | None]]


def _each(ids: Sequence[str], choose: Callable[[JobsTable], Action], json: bool) -> None:
    """Do the same to each job; a refused job does not stop the others."""

    async def act(table: JobsTable) -> list[dict[str, Any]]:
        return [await _done(choose(table), job_id) for job_id in ids]

    with refusals(json):
        answers = asyncio.run(_with_table(act))
    if _json_wanted(json):
        print_json(answers)
    else:
        for answer in answers:
            typer.echo(f"{answer['id']}  {as_line(answer)}")
        if not answers:
            typer.echo(NO_MATCH)
    raise typer.Exit(FAILED if any("refused" in answer for answer in answers) else 0)


async def _done(action: Action, job_id: str) -> dict[str, Any]:
    try:
        row = await action(job_id)
    except StoreRefused as error:
        return {"id": job_id, "refused": error.message}
    return row or {"id": job_id, "refused": "There is no such job."}


async def _with_table(work: Callable[[JobsTable], Awaitable[T]]) -> T:
    async with opened(load_table_settings()) as (table, _storage):
        return await work(table)


async def _watch(
    find: Callable[[JobsTable], Awaitable[list[dict[str, Any]]]], *, as_json: bool
) -> None:
    """Redraw the table, or print a JSON line for each row that is new or changed.

    After the first answer, Supabase may be unavailable for a while: the last table stays, with a
    note.
    """
    seen: dict[str, object] = {}
    rows: list[dict[str, Any]] | None = None
    console = Console(quiet=as_json, highlight=False)
    async with opened(load_table_settings()) as (table, _storage):
        with Live(console=console, auto_refresh=False) as live:
            while True:
                problem = ""
                try:
                    rows = await find(table)
                except StoreUnavailable as error:
                    if rows is None:
                        raise
                    problem = error.message
                if as_json:
                    _print_changes(rows, seen)
                else:
                    note = Text(visible(problem), style="red")
                    live.update(Group(table_view(rows, width=console.width), note), refresh=True)
                await asyncio.sleep(WATCH_SECONDS)


def _print_changes(rows: Sequence[Row], seen: dict[str, object]) -> None:
    for row in reversed(rows):
        if seen.get(row["id"]) != row["revision"]:
            seen[row["id"]] = row["revision"]
            print_json(row, line=True)


def _until_interrupted(work: Any) -> None:
    try:
        asyncio.run(work)
    except KeyboardInterrupt:
        return


def _no_such_job(job_id: uuid.UUID, json: bool) -> None:
    text = f"There is no job {job_id}, and no history of one."
    if _json_wanted(json):
        print_json({"error_code": "job_missing", "error_message": text})
    else:
        typer.echo(text, err=True)
    raise typer.Exit(FAILED)
