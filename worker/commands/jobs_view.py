"""Jobs as people see them on a terminal: a table that fits, and one job line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from worker.commands.table import ENDED, PHASES, describe

Row = Mapping[str, Any]
COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}
# From 80 columns on, ids, days, states and error codes fit beside each other.
_NARROW, _WIDE = 80, 100
_FACTS = ("user_id", "image_url", "audio_url", "video_url", "error_code", "error_message")
_PLAN = (
    "frames", "windows", "render_width", "render_height", "quality", "steps", "seed_used",
    "audio_duration", "video_duration", "expected_seconds",
)  # fmt: skip


def as_line(row: Row) -> str:
    """What became of a job, or why it was refused."""
    return f"refused: {row['refused']}" if "refused" in row else describe(row)


def table_view(rows: Sequence[Row], *, width: int) -> RenderableType:
    """One line for each job; ids, states and error codes are never cut from 80 columns on."""
    if not rows:
        return Text("No job fits.")
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("id", no_wrap=True, min_width=36)
    if width >= _NARROW:
        table.add_column("created (UTC)" if width >= _WIDE else "created", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("what", overflow="fold")
    for row in rows:
        created = instant(row["created_at"])
        table.add_row(
            row["id"],
            *([created if width >= _WIDE else created[5:16]] if width >= _NARROW else []),
            Text(row["status"], style=COLOURS.get(row["status"], "")),
            _what(row),
        )
    return table


def _what(row: Row) -> str:
    """Why it failed, or how far it is; and what it has cost."""
    if row["status"] in ENDED:
        parts = [row["error_code"]]
    else:
        place = row.get("queue_position") if row["status"] == "queued" else None
        parts = [
            PHASES.get(str(row["phase"]), str(row["phase"])),
            f"{row['progress']} %" if row["progress"] else None,
            f"place {place}" if place else None,
            row.get("phase_detail"),
        ]
    cost = money(row["cost_usd"])
    return ", ".join([str(one) for one in parts if one] + ([f"${cost}"] if cost else []))


def job_lines(found: Mapping[str, Any]) -> Iterator[Text]:
    """A job with its plan, submissions and timeline."""
    job, submissions = found["job"], found["submissions"]
    if job is None:
        yield Text("The job was deleted; this is what is left of it.", style="yellow")
    else:
        yield from _facts(job)
    if submissions:
        plan = submissions[-1]["plan"]
        yield _pair("plan", ", ".join(f"{name} {plan[name]}" for name in _PLAN if name in plan))
        cost = money(found["cost_usd"])
        spent = f"{found['gpu_seconds']:.1f} s{f', ${cost}' if cost else ''}"
        yield _pair("GPU", spent)
        for one in submissions:
            yield Text()
            yield from _submission(one)
    yield Text("\ntimeline (UTC; try.attempt)", style="bold")
    runs = {(one["attempt"], one["runpod_job_id"]) for one in submissions}
    for one in found["events"]:
        yield _event(one, runs)


def _facts(job: Row) -> Iterator[Text]:
    yield _pair("job", str(job["id"]))
    yield _pair("state", describe(job), COLOURS.get(job["status"], ""))
    yield _pair("created", instant(job["created_at"]))
    yield _pair("progress", f"{job['progress']} % {job['progress_source'] or ''}".strip())
    for name in _FACTS:
        if job[name]:
            value = str(job[name])
            yield _pair(name, value.partition("?")[0] if name.endswith("_url") else value)
    for notice in job["warnings"] or ():
        yield _pair("warning", f"{notice['code']}: {notice['message']}", "yellow")


def _submission(one: Row) -> Iterator[Text]:
    times = {"waited": seconds(one["delay_ms"]), "GPU": seconds(one["execution_ms"])}
    parts = [one["state"], *(f"{name} {value} s" for name, value in times.items() if value)]
    if cost := money(one["cost_usd"]):
        parts.append(f"${cost}")
    where = f"{one['try_number']}.{one['attempt']}"
    yield _pair("submission", f"{where}  {', '.join(parts)}", COLOURS.get(one["state"], ""))
    yield _pair("run", one["runpod_job_id"] or "unknown")
    if one["error_code"]:
        yield _pair("error", ": ".join([one["error_code"], *filter(None, [one["raw_error"]])]))


def _event(one: Row, runs: set[tuple[int, str | None]]) -> Text:
    """One step; a run's id that stands with its submission is not told again."""
    detail = dict(one["detail"] or {})
    if (one["attempt"], detail.get("runpod_job_id")) in runs:
        detail.pop("runpod_job_id", None)
    told = ", ".join(f"{name} {value}" for name, value in detail.items())
    where = f"{one['try_number']}.{one['attempt']}"
    return Text(f"{instant(one['at'])}  {where:<5} {one['event']:<22} {told}".rstrip())


def _pair(name: str, value: str, style: str = "") -> Text:
    return Text.assemble((f"{name:<15}", "bold"), (value, style))


def instant(text: str) -> str:
    """An instant as PostgREST writes it, to the second."""
    return text[:19].replace("T", " ")


def money(value: object) -> str:
    """US dollars, nothing when unknown."""
    return "" if value is None else f"{float(str(value)):.3f}"


def seconds(milliseconds: int | None) -> str:
    """Seconds, nothing when unknown."""
    return "" if milliseconds is None else f"{milliseconds / 1000:.1f}"
