"""Jobs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worker.commands.table import describe

Row = Mapping[str, Any]
COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}
_PLAN = (
    "frames", "windows", "render_width", "render_height", "quality", "steps", "seed_used",
    "audio_duration", "video_duration", "expected_seconds",
)  # fmt: skip


def as_line(row: Row) -> str:
    """What became of a job, or why it was refused."""
    return f"refused: {row['refused']}" if "refused" in row else describe(row)


def table_view(rows: Sequence[Row]) -> RenderableType:
    """One line for each job; ids are never cut."""
    if not rows:
        return Text("No job fits.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("id", no_wrap=True, min_width=36)
    table.add_column("created (UTC)", no_wrap=True)
    table.add_column("state")
    table.add_column("%", justify="right")
    table.add_column("error")
    table.add_column("$", justify="right")
    for row in rows:
        table.add_row(
            row["id"],
            instant(row["created_at"]),
            Text(describe(row), style=COLOURS.get(row["status"], "")),
            str(row["progress"]),
            row["error_code"] or "",
            money(row["cost_usd"]),
        )
    return table


def job_view(found: Mapping[str, Any]) -> RenderableType:
    """A job with its plan, submissions and timeline."""
    job, submissions = found["job"], found["submissions"]
    parts: list[RenderableType] = []
    if job is None:
        parts.append(Text("The job was deleted; this is what is left of it.", style="yellow"))
    else:
        parts.append(_facts(job))
    if submissions:
        parts += [Text(), _plan(submissions[-1]["plan"]), Text(), _submissions(submissions)]
        cost = money(found["cost_usd"])
        parts.append(Text(f"GPU {found['gpu_seconds']:.1f} s{f', ${cost}' if cost else ''}"))
    parts += [Text(), _events(found["events"])]
    return Group(*parts)


def _facts(job: Row) -> Table:
    table = _pairs()
    table.add_row("job", str(job["id"]))
    table.add_row("state", Text(describe(job), style=COLOURS.get(job["status"], "")))
    table.add_row("progress", f"{job['progress']} % {job['progress_source'] or ''}".strip())
    for name in ("user_id", "image_url", "audio_url", "video_url", "error_code", "error_message"):
        if job[name]:
            table.add_row(name, Text(str(job[name]).partition("?")[0], overflow="fold"))
    for notice in job["warnings"] or ():
        table.add_row("warning", f"{notice['code']}: {notice['message']}")
    return table


def _plan(plan: Row) -> Text:
    return Text("plan  " + ", ".join(f"{name} {plan[name]}" for name in _PLAN if name in plan))


def _submissions(submissions: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("try", "attempt", "run", "state", "queued s", "GPU s", "$", "error"):
        table.add_column(name, overflow="fold")
    for one in submissions:
        table.add_row(
            str(one["try_number"]),
            str(one["attempt"]),
            one["runpod_job_id"] or "unknown",
            one["state"],
            seconds(one["delay_ms"]),
            seconds(one["execution_ms"]),
            money(one["cost_usd"]),
            one["error_code"] or "",
        )
    return table


def _events(events: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("when (UTC)", "try", "attempt", "what", "detail"):
        table.add_column(name, overflow="fold")
    for one in events:
        detail = one["detail"] or {}
        table.add_row(
            instant(one["at"]),
            str(one["try_number"]),
            str(one["attempt"]),
            one["event"],
            ", ".join(f"{name} {value}" for name, value in detail.items()),
        )
    return table


def _pairs() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def instant(text: str) -> str:
    """An instant as PostgREST writes it, to the second."""
    return text[:19].replace("T", " ")


def money(value: object) -> str:
    """US dollars, nothing when unknown."""
    return "" if value is None else f"{float(str(value)):.3f}"


def seconds(milliseconds: int | None) -> str:
    """Seconds, nothing when unknown."""
    return "" if milliseconds is None else f"{milliseconds / 1000:.1f}"
