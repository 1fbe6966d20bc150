"""Shared by the benchmarks: the printed table, and figures of a running process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

MIB = 1024 * 1024
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
# The daemon's own defaults, in place of the short ones that tests use.
PRODUCTION = {
    "SWEEP_SECONDS": "15",
    "POLL_SECONDS": "30",
    "SLOW_POLL_SECONDS": "300",
    "LEASE_SECONDS": "60",
    "RESULT_PATIENCE_SECONDS": "60",
    "RETRY_SECONDS": "15",
}


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / MIB


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the percentile of the values (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * int(percent) // 100) - 1)]


def load() -> str:
    """Describe the machine and its load, for readers of the figures."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def show(title: str, rows: Iterable[tuple[str, str, str]]) -> None:
    """Print a table of measurement, figure and target."""
    table = Table("what", "measured", "target", title=f"{title} ({load()})", title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=100 if not sys.stdout.isatty() else None).print(table)
