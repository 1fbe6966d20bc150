"""Shared by the commands on jobs: opening the table, describing a row, showing its progress."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from worker.jobs.job import JobStatus
from worker.jobs.text import visible
from worker.media.storage import StorageApi
from worker.settings import Settings
from worker.supabase.jobs_table import JobsTable
from worker.supabase.store import TIMEOUT, connect

ENDED = tuple(status.value for status in JobStatus if status.terminal)
PHASES = {
    "in_line": "in line",
    "checking_media": "checking the media",
    "confirming_submission": "checking whether RunPod accepted it",
    "waiting_gpu": "waiting for a GPU",
    "loading_models": "loading models",
    "generating": "generating",
    "saving": "saving",
    "cancelling": "cancelling",
    "paused_budget": "paused",
    "done": "done",
}


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[JobsTable, StorageApi]]:
    """Open the table and Storage with the service key."""
    key = settings.supabase_service_role_key.get_secret_value()
    async with httpx.AsyncClient(timeout=TIMEOUT) as http:
        client = await connect(settings.supabase_url, key, http)
        yield JobsTable(client), StorageApi(url=settings.supabase_url, key=key, client=http)


def describe(row: Mapping[str, Any]) -> str:
    """Return status, phase and details in one line."""
    phase = PHASES.get(str(row["phase"]), str(row["phase"]))
    why = row["error_code"] if row["status"] in ENDED else phase
    parts = [f"{row['status']}: {why}" if why else str(row["status"])]
    if row.get("queue_position") and row["status"] == "queued":
        parts.append(f"place {row['queue_position']}")
    if row.get("phase_detail"):
        parts.append(str(row["phase_detail"]))
    return visible(" · ".join(parts))


class Follower:
    """Shows one job: a progress bar on a terminal, elsewhere a line for each change of state."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=False,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._last = ""

    def __enter__(self) -> Follower:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, row: Mapping[str, Any]) -> None:
        """Show the row as it is now."""
        text = describe(row)
        if not self._console.is_terminal:
            if text != self._last:
                self._console.print(text, soft_wrap=True, highlight=False, markup=False)
            self._last = text
            return
        if self._task is None:
            self._task = self._progress.add_task(text, total=100)
        self._progress.update(self._task, completed=row["progress"], description=text)
