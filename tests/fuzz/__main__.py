"""`make fuzz MINUTES=… SEED=…`: mutated files without end; each finding is kept as a file."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._rig import rss_mib
from tests.fuzz.harness import GROWTH_MIB, Harness, harness
from tests.fuzz.mutate import mutated
from tests.fuzz.seeds import Seed, all_seeds

FOLDER = Path("fuzz-findings")
# The first cases fill caches and load what is loaded once.
WARM_UP_CASES = 100


@dataclass(slots=True)
class Session:
    """How many cases were run, and what was found, each with its reproducer."""

    seed: int
    cases: int = 0
    growth_mib: float = 0.0
    findings: list[str] = field(default_factory=list)

    def summary(self, found: Harness) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(found.outcomes.items()))
        return (
            f"seed {self.seed}: {self.cases} files, {len(self.findings)} findings, "
            f"{self.growth_mib:.0f} MiB more memory; {counts}"
        )


def case(seeds: list[Seed], seed: int, number: int) -> tuple[Seed, bytes]:
    """Return the file of this number: the same for the same seed."""
    rng = random.Random(f"{seed}/{number}")
    chosen = rng.choice(seeds)
    return chosen, mutated(chosen.data, chosen.format, rng)


async def fuzz(
    found: Harness, *, seed: int, going_on: Callable[[int], bool], folder: Path = FOLDER
) -> Session:
    """Run cases while `going_on(number)`; write each file with a finding into the folder."""
    seeds, session, before = all_seeds(), Session(seed), 0.0
    while going_on(session.cases):
        origin, data = case(seeds, seed, session.cases)
        for text in await found.findings(data, origin.kind):
            path = folder / f"{origin.kind}-{seed}-{session.cases}.{origin.name}"
            folder.mkdir(exist_ok=True)
            path.write_bytes(data)
            session.findings.append(f"{path}: {text}")
            print(f"FINDING {session.findings[-1]}", flush=True)
        session.cases += 1
        if session.cases == WARM_UP_CASES:
            before = rss_mib(os.getpid())
    session.growth_mib = rss_mib(os.getpid()) - before if before else 0.0
    if session.growth_mib > GROWTH_MIB:
        session.findings.append(f"the process has grown by {session.growth_mib:.0f} MiB")
        print(f"FINDING {session.findings[-1]}", flush=True)
    return session


async def _repeat(path: Path) -> int:
    """Run one kept file again; the kind is the first word of its name."""
    kind = path.name.partition("-")[0]
    if kind not in ("image", "audio"):
        print(f"{path.name}: the name must begin with image- or audio-")
        return 2
    async with harness() as found:
        texts = await found.findings(path.read_bytes(), "image" if kind == "image" else "audio")
    print("\n".join(texts) or f"no finding: {dict(found.outcomes)}")
    return 1 if texts else 0


async def _session(seed: int, minutes: float) -> int:
    until = time.monotonic() + 60 * minutes
    async with harness() as found:
        session = await fuzz(found, seed=seed, going_on=lambda _: time.monotonic() < until)
        print(session.summary(found))
    return 1 if session.findings else 0


def main() -> int:
    """Run and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--file", type=Path, help="run one kept file again")
    chosen = parser.parse_args()
    if chosen.file is not None:
        return asyncio.run(_repeat(chosen.file))
    return asyncio.run(_session(chosen.seed, chosen.minutes))


if __name__ == "__main__":
    sys.exit(main())
