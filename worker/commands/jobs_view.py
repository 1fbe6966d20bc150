"""Jobs on a terminal: a table that fits its width, and the details of one job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from worker.commands.table import ENDED, PHASES, describe
from worker.jobs.text import visible

Row = Mapping[str, Any]
COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}
NO_MATCH = "No matching jobs."
# Widths from which a short, and a full, time of creation fits beside id, status and error code.
_NARROW, _WIDE = 80, 100
_FACTS = ("user_id", "image_url", "audio_url", "video_url", "error_code", "error_message")
_PLAN = (
    "frames", "windows", "render_width", "render_height", "quality", "steps", "seed_used",
    "audio_duration", "video_duration", "expected_seconds",
)  # fmt: skip


def as_line(row: Row) -> str:
    """Return the job's state, or why the request was refused."""
    return visible(f"refused: {row['refused']}") if "refused" in row else describe(row)


def table_view(rows: Sequence[Row], *, width: int) -> RenderableType:
    """Return one line per job; from 80 columns on, ids, statuses and error codes are never cut."""
    if not rows:
        return Text(NO_MATCH)
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
    """Return why it failed or how far it is, and its cost."""
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
    return visible(
        ", ".join([str(part) for part in parts if part] + ([f"${cost}"] if cost else []))
    )


def job_lines(found: Mapping[str, Any]) -> Iterator[Text]:
    """Yield the lines of a job with its plan, submissions and timeline."""
    job, submissions = found["job"], found["submissions"]
    if job is None:
        yield Text("The job was deleted; this is its remaining history.", style="yellow")
    else:
        yield from _facts(job)
    if submissions:
        plan = submissions[-1]["plan"]
        yield _pair("plan", ", ".join(f"{name} {plan[name]}" for name in _PLAN if name in plan))
        cost = money(found["cost_usd"])
        spent = f"{found['gpu_seconds']:.1f} s{f', ${cost}' if cost else ''}"
        yield _pair("GPU", spent)
        for submission in submissions:
            yield Text()
            yield from _submission(submission)
    yield Text("\ntimeline (UTC; try.attempt)", style="bold")
    runs = {(row["attempt"], row["runpod_job_id"]) for row in submissions}
    for event in found["events"]:
        yield _event(event, runs)


def _facts(job: Row) -> Iterator[Text]:
    yield _pair("job", str(job["id"]))
    yield _pair("state", describe(job), COLOURS.get(job["status"], ""))
    yield _pair("created", instant(job["created_at"]))
    yield _pair("progress", f"{job['progress']} % {job['progress_source'] or ''}".strip())
    for name in _FACTS:
        if job[name]:
            value = str(job[name])
            yield _pair(name, value.partition("?")[0] if name.endswith("_url") else value)
    for warning in job["warnings"] or ():
        yield _pair("warning", f"{warning['code']}: {warning['message']}", "yellow")


def _submission(row: Row) -> Iterator[Text]:
    times = {"waited": seconds(row["delay_ms"]), "GPU": seconds(row["execution_ms"])}
    parts = [row["state"], *(f"{name} {value} s" for name, value in times.items() if value)]
    if cost := money(row["cost_usd"]):
        parts.append(f"${cost}")
    where = f"{row['try_number']}.{row['attempt']}"
    yield _pair("submission", f"{where}  {', '.join(parts)}", COLOURS.get(row["state"], ""))
    yield _pair("run", row["runpod_job_id"] or "unknown")
    if row["error_code"]:
        yield _pair("error", ": ".join([row["error_code"], *filter(None, [row["raw_error"]])]))


def _event(row: Row, runs: set[tuple[int, str | None]]) -> Text:
    """Return one step; a run id that its submission already shows is left out."""
    detail = dict(row["detail"] or {})
    if (row["attempt"], detail.get("runpod_job_id")) in runs:
        detail.pop("runpod_job_id", None)
    facts = visible(", ".join(f"{name} {value}" for name, value in detail.items()))
    where = f"{row['try_number']}.{row['attempt']}"
    return Text(f"{instant(row['at'])}  {where:<5} {row['event']:<22} {facts}".rstrip())


def _pair(name: str, value: str, style: str = "") -> Text:
    # Rows hold texts of people and of RunPod: none may steer the terminal.
    return Text.assemble((f"{name:<15}", "bold"), (visible(value), style))


def instant(text: str) -> str:
    """Format an instant from PostgREST, to the second."""
    return text[:19].replace("T", " ")


def money(value: object) -> str:
    """Format US dollars; empty if unknown."""
    return "" if value is None else f"{float(str(value)):.3f}"


def seconds(milliseconds: int | None) -> str:
    """Format milliseconds as seconds; empty if unknown."""
    return "" if milliseconds is None else f"{milliseconds / 1000:.1f}"
