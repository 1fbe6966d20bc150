"""The output of the demo: steps, one progress line, a summary."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

PHASES = {
    "in_line": "waiting for a worker",
    "checking_media": "checking image and audio",
    "confirming_submission": "checking whether RunPod accepted it",
    "waiting_gpu": "waiting for a GPU",
    "loading_models": "loading models",
    "generating": "rendering",
    "saving": "saving the video",
    "cancelling": "cancelling",
    "paused_budget": "paused by a budget",
    "done": "done",
}


class Screen:
    """Prints each step once, with the time since the start."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._begun = time.monotonic()
        self._shown: tuple[object, object] | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[status]:<10}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.description}"),
            console=self.console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def step(self, text: str) -> None:
        """Print the next step."""
        seconds = time.monotonic() - self._begun
        self.console.print(f"[dim]{seconds:5.1f} s[/dim]  {escape(text)}")

    def row(self, row: Mapping[str, Any]) -> None:
        """Show the state of the job."""
        phase = PHASES.get(str(row["phase"]), str(row["phase"]))
        if self._task is None:
            self._task = self._progress.add_task(phase, total=100, status="")
        shown = (row["status"], row["phase"])
        if shown != self._shown:
            self._shown = shown
            self.step(f"job {row['status']}: {phase}")
        self._progress.update(
            self._task,
            completed=row["progress"],
            status=row["status"],
            description=f"{phase}{_eta(row)}",
        )

    def summary(self, row: Mapping[str, Any], path: object, facts: object) -> None:
        """Print warnings, facts and path of the video."""
        for warning in row["warnings"] or []:
            self.console.print(f"[yellow]note[/yellow]   {escape(warning['message'])}")
        self.console.print(f"\n[bold green]Video[/bold green]  {facts}")
        self.console.print(str(path), markup=False)

    def failure(self, text: str, log: list[str]) -> None:
        """Print why there is no video, and the worker's last log lines."""
        if log:
            self.console.print("\nThe worker's last log lines:", style="dim")
            self.console.print("\n".join(log), style="dim", markup=False)
        self.console.print(f"\n[bold red]No video:[/bold red] {escape(text)}")


def _eta(row: Mapping[str, Any]) -> str:
    if not row.get("eta_at") or row["status"] in ("completed", "failed", "cancelled"):
        return ""
    left = (datetime.fromisoformat(row["eta_at"]) - datetime.now(UTC)).total_seconds()
    return f", about {left:.0f} s left" if left >= 1 else ""
