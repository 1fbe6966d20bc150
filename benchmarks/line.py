"""What the table's functions cost as the line grows: 10^3 to 10^6 waiting rows, with history."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.table import Table

from benchmarks._rig import load
from devstack.postgres import SUPERUSER, Postgres
from devstack.supabase.database import prepare

SIZES = (1_000, 10_000, 100_000, 1_000_000)
OPEN_RUNS = 10_000
HISTORY = 1_000_000
ROWS_PER_USER = 10
ROUNDS = 15
LIMITS = {"p_max_in_flight": 20_000, "p_max_queued_runs": 20_000, "p_max_preparing": 100_000}
SENTENCES = {"in_line": "Waiting in line.", "in_flight": "Waiting for another of your jobs."}

FILL = Path(__file__).with_name("line.sql")


class Bench:
    """One database with a line of some length."""

    def __init__(self, postgres: Postgres, rows: int) -> None:
        name = f"line_{rows}"
        postgres.create_database(name, template="migrated")
        self.admin = psycopg.connect(
            postgres.url(name, user=SUPERUSER), autocommit=True, row_factory=dict_row
        )
        text = FILL.read_text().format(
            rows=rows, runs=OPEN_RUNS, history=HISTORY, per_user=ROWS_PER_USER
        )
        for statement in text.split(";\n"):
            if statement.strip():
                self.admin.execute(statement.encode())
        self.admin.execute("vacuum analyze")
        self.owner = str(uuid4())

    def call(self, function: str, **arguments: Any) -> list[dict[str, Any]]:
        names = ", ".join(f"{name} => %s" for name in arguments)
        values = [Jsonb(v) if isinstance(v, dict | list) else v for v in arguments.values()]
        query = f"select * from public.{function}({names})"
        return self.admin.execute(query.encode(), values).fetchall()

    def claim(self) -> None:
        rows = self.call(
            "claim_video_jobs_v1", p_owner=self.owner, p_want=12, p_lease_seconds=60.0,
            p_endpoint_id="endpoint", **LIMITS,
        )  # fmt: skip
        assert len(rows) == 12, len(rows)

    def insert(self) -> None:
        self.admin.execute(
            "insert into public.video_jobs (user_id, image_url) values (gen_random_uuid(), 'i')"
        )


def timed(do: Callable[[], object]) -> tuple[float, float]:
    """Return the median and the longest of some calls, in milliseconds, after one to warm up."""
    do()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        do()
        times.append((time.perf_counter() - began) * 1000)
    return median(times), max(times)


def measure(bench: Bench) -> dict[str, tuple[float, float]]:
    """Return milliseconds by what was done."""
    everything: dict[str, Callable[[], object]] = {
        "insert a row": bench.insert,
        "claim 12 rows": bench.claim,
        "no room to claim": lambda: bench.call(
            "claim_video_jobs_v1", p_owner=bench.owner, p_want=12, p_lease_seconds=60.0,
            p_endpoint_id="endpoint", **LIMITS | {"p_max_in_flight": 0},
        ),
        "sweep: stranded rows": lambda: bench.call(
            "stranded_video_jobs_v1", p_want=100, p_after=None
        ),
        "sweep: places in line": lambda: bench.call(
            "refresh_video_job_queue_v1", p_places=200, p_sentences=SENTENCES
        ),
        "sweep: 200 users counted": lambda: bench.call("recount_video_job_users_v1", p_want=200),
        "sweep: counts by status": lambda: bench.call("count_video_jobs_v1"),
        "take 32 due polls": lambda: bench.call(
            "take_due_video_job_submissions_v1", p_want=32, p_poll_seconds=30.0, p_all=False,
            p_after=None,
        ),
    }  # fmt: skip
    return {name: timed(do) for name, do in everything.items()}


def main() -> None:
    """Fill one database after another and print milliseconds."""
    sizes = [int(size) for size in sys.argv[1:]] or list(SIZES)
    postgres = Postgres()
    postgres.start()
    found = {}
    try:
        prepare(postgres, "migrated")
        for size in sizes:
            bench = Bench(postgres, size)
            found[size] = measure(bench)
            bench.admin.close()
            postgres.drop_database(f"line_{size}")
    finally:
        postgres.remove()
    title = (
        f"Milliseconds, median (longest) of {ROUNDS}; {OPEN_RUNS:,} open runs, {HISTORY:,} old "
        f"submissions, {ROWS_PER_USER} rows per user ({load()})"
    )
    table = Table("waiting rows", *(f"{size:,}" for size in sizes), title=title)
    for name in found[sizes[0]]:
        cells = (f"{found[size][name][0]:.1f} ({found[size][name][1]:.0f})" for size in sizes)
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 110).print(table)


if __name__ == "__main__":
    main()
