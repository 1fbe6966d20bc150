"""What the commands on jobs share: the table opened with a service key, rows for people."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from worker.media.storage import StorageApi
from worker.settings import Settings
from worker.supabase.jobs_table import JobsTable
from worker.supabase.store import TIMEOUT, connect

ENDED = ("completed", "failed", "cancelled")
PHASES = {
    "in_line": "in line",
    "checking_media": "checking the media",
    "confirming_submission": "asking whether RunPod took it",
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
    """The table and Storage, with the service key."""
    key = settings.supabase_service_role_key.get_secret_value()
    async with httpx.AsyncClient(timeout=TIMEOUT) as http:
        client = await connect(settings.supabase_url, key, http)
        yield JobsTable(client), StorageApi(url=settings.supabase_url, key=key, client=http)


def describe(row: Mapping[str, Any]) -> str:
    """Status, phase and what is worth knowing of it, in one line."""
    phase = PHASES.get(str(row["phase"]), str(row["phase"]))
    why = row["error_code"] if row["status"] in ENDED else phase
    parts = [f"{row['status']}: {why}" if why else str(row["status"])]
    if row.get("queue_position") and row["status"] == "queued":
        parts.append(f"place {row['queue_position']}")
    if row.get("phase_detail"):
        parts.append(str(row["phase_detail"]))
    return " · ".join(parts)


class Follower:
    """A progress bar for one job on a terminal; elsewhere a line for each change of its state."""

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
        self._told = ""

    def __enter__(self) -> Follower:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, row: Mapping[str, Any]) -> None:
        """Draw the row as it is now."""
        said = describe(row)
        if not self._console.is_terminal:
            if said != self._told:
                self._console.print(said, soft_wrap=True, highlight=False, markup=False)
            self._told = said
            return
        if self._task is None:
            self._task = self._progress.add_task(said, total=100)
        self._progress.update(self._task, completed=row["progress"], description=said)
