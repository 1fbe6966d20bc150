"""`make attack`: every attack in turn, honest jobs meanwhile, a table, and 1 if one got through."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections import Counter

from rich.console import Console
from rich.table import Table

from benchmarks._rig import load
from devstack.postgres import Postgres
from tests.attack import file_attacks, network_attacks, row_attacks
from tests.attack.machine import shipped_memory_mib
from tests.attack.trial import HONEST, Attack, Plan, Trial, try_attack

TARGET_SECONDS = 10.0
TEXTS = ("attack", "what became of it", "/readyz (samples)")
FIGURES = (
    "median s",
    "in line",
    "worst s",
    "honest failed",
    "daemon MiB",
    "decoder MiB",
    "all MiB",
    "core %",
)
ATTACKS: dict[str, Attack | None] = {
    "none": None,
    "jpeg-scans": file_attacks.jpeg_beyond_the_limit,
    "jpeg-worst": file_attacks.jpeg_within_the_limit,
    "m4a-tables": file_attacks.m4a_tables,
    "webp-50mpx": file_attacks.webp_beyond_the_limit,
    "image-worst": file_attacks.large_images,
    "audio-worst": file_attacks.long_audio,
    "both-worst": file_attacks.both_worst,
    "tar-pits-31": row_attacks.tar_pits,
    "tar-pits-64": row_attacks.more_tar_pits_than_places,
    "two-faces": row_attacks.hosts_with_two_faces,
    "cancelled-rows": row_attacks.cancelled_inserts,
    "retry-cycles": row_attacks.retry_cycles,
    "failing-rows": row_attacks.failing_rows,
    "silent-http": network_attacks.silent_connections,
    "forged-webhooks": network_attacks.forged_webhooks,
    "forged-realtime": network_attacks.forged_broadcasts,
}


async def run(names: list[str], plan: Plan, console: Console) -> list[Trial]:
    """Try the attacks one after the other, each with a new database and daemon."""
    postgres = Postgres()
    postgres.start()
    trials = []
    try:
        for name in names:
            trials.append(await try_attack(name, ATTACKS[name], postgres, plan))
            last = trials[-1]
            console.print(
                f"{name}: median {last.median:.1f} s ({last.median_in_line:.1f} s in line), "
                f"worst {last.worst:.1f} s"
            )
            for line in last.broken:
                console.print(f"BROKEN {name}: {line}", highlight=False, soft_wrap=True)
    finally:
        await asyncio.to_thread(postgres.remove)
    return trials


def table_of(trials: list[Trial], title: str) -> Table:
    """Return one row for each attack."""
    table = Table(title=title, title_justify="left")
    for column in TEXTS[:2]:
        table.add_column(column)
    for column in FIGURES:
        table.add_column(column, justify="right")
    table.add_column(TEXTS[2])
    for trial in trials:
        peaks = trial.peaks
        table.add_row(
            trial.name,
            _counts(trial.became),
            f"{trial.median:.1f}",
            f"{trial.median_in_line:.1f}",
            f"{trial.worst:.1f}",
            f"{trial.failures} of {len(trial.jobs)}",
            f"{peaks.daemon:.0f}",
            f"{peaks.decoder:.0f}",
            f"{peaks.together:.0f}",
            f"{100 * peaks.core:.0f}",
            _counts(trial.readyz),
        )
    return table


def _counts(found: Counter[str]) -> str:
    return "\n".join(f"{what} {count}" for what, count in found.most_common()) or "-"


def main() -> int:
    """Run and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--honest", type=int, default=HONEST)
    parser.add_argument("--all-cores", action="store_true", help="default: one, as shipped")
    chosen = parser.parse_args()
    # Connections that break off are what we make here on purpose.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    plan = Plan(
        honest=chosen.honest, memory_mib=shipped_memory_mib(), one_core=not chosen.all_cores
    )
    console = Console(width=170 if not sys.stdout.isatty() else None)
    trials = asyncio.run(run(chosen.only, plan, console))
    cores = "all cores" if chosen.all_cores else "one core"
    title = f"daemon on {cores} with {plan.memory_mib} MiB; {load()}"
    console.print(table_of(trials, title))
    late = [trial.name for trial in trials if trial.worst > TARGET_SECONDS]
    console.print(f"target: each honest job submitted within {TARGET_SECONDS:.0f} s of its INSERT")
    console.print(f"not met: {', '.join(late)}" if late else "met by all")
    return 1 if any(trial.broken for trial in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
