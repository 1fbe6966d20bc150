"""The machine of fly.toml for a daemon: its memory and its one core, and what is used of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks._rig import MIB, TICKS
from tests.world import ROOT

# What a kernel of a machine of 1 GiB keeps for itself, as benchmarks/decoders.py has it.
KERNEL_MIB = 64
SAMPLE_SECONDS = 0.25
CGROUPS = Path("/sys/fs/cgroup")
_numbers = itertools.count(1)


def shipped_memory_mib(fly: Path = ROOT / "fly.toml") -> int:
    """Return the memory that the shipped machine has for processes, in MiB."""
    (machine,) = tomllib.loads(fly.read_text("utf-8"))["vm"]
    stated = str(machine["memory"])
    if not stated.endswith("gb"):
        raise ValueError(f"fly.toml: memory is {stated}; expected a number of gb")
    return int(stated.removesuffix("gb")) * 1024 - KERNEL_MIB


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group of the kernel (version 1 or 2) whose processes share a memory limit."""

    path: Path

    def add(self, pid: int) -> None:
        """Put a process into the group; what it starts later is in it, too."""
        (self.path / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """How many processes the kernel has ended because the group had no memory left."""
        for name in ("memory.oom_control", "memory.events"):
            with suppress(OSError):
                lines = (self.path / name).read_text().splitlines()
                counts = dict(line.split() for line in lines)
                if "oom_kill" in counts:
                    return int(counts["oom_kill"])
        return 0


@contextmanager
def memory_group(limit_mib: int) -> Iterator[MemoryGroup | None]:
    """Make a control group with this limit and remove it; None where that is not permitted."""
    path = _made(limit_mib)
    try:
        yield None if path is None else MemoryGroup(path)
    finally:
        if path is not None:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a group; its processes, which have been ended, may take a moment to be gone."""
    for _ in range(100):
        try:
            path.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return


def _made(limit_mib: int) -> Path | None:
    for parent, file in _places():
        path = parent / f"attack-{os.getpid()}-{next(_numbers)}"
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            (path / file).write_text(str(limit_mib * MIB))
        except OSError:
            path.rmdir()
            continue
        for swap in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
            with suppress(OSError):
                value = "0" if swap == "memory.swap.max" else str(limit_mib * MIB)
                (path / swap).write_text(value)
        return path
    return None


def _places() -> Iterator[tuple[Path, str]]:
    """Yield where a group may be made, and the name of its limit; the innermost place first."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, inside = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, file = CGROUPS / "memory", "memory.limit_in_bytes"
        elif not controllers:
            root, file = CGROUPS, "memory.max"
        else:
            continue
        if (root / "cgroup.procs").exists():
            for place in dict.fromkeys((root / inside.lstrip("/"), root)):
                if place.is_dir():
                    yield place, file


def on_one_core(pid: int) -> None:
    """Keep a process, and what it starts later, to one core, as a shared-cpu-1x has it."""
    os.sched_setaffinity(pid, {max(os.sched_getaffinity(0))})


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def resident_mib(pid: int) -> float:
    """Return the memory of a process now, in MiB, its part of what it shares; 0 if it is gone."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        # Of a process that is about to end nothing is left.
        found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def used_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of all that it has started so far."""
    ticks = 0
    for one, fields in ((pid, slice(11, 15)), *((child, slice(11, 13)) for child in children(pid))):
        with suppress(OSError):
            stat = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, stat[fields]))
    return ticks / TICKS


@dataclass(slots=True)
class Peaks:
    """The most memory seen, in MiB: of the daemon, of one decoder, and of all at a time.

    `core` is the share of one core that they had: on a machine with other work less than they
    could have used, and what waited for it took longer.
    """

    daemon: float = 0.0
    decoder: float = 0.0
    together: float = 0.0
    core: float = 0.0

    def look(self, pid: int) -> None:
        """Take one sample."""
        own, others = resident_mib(pid), [resident_mib(child) for child in children(pid)]
        self.daemon = max(self.daemon, own)
        self.decoder = max(self.decoder, *others, 0.0)
        self.together = max(self.together, own + sum(others))

    async def watch(self, pid: int) -> None:
        """Sample until cancelled."""
        began, used = time.monotonic(), used_cpu_seconds(pid)
        while True:
            self.look(pid)
            if (passed := time.monotonic() - began) > SAMPLE_SECONDS:
                self.core = (used_cpu_seconds(pid) - used) / passed
            await asyncio.sleep(SAMPLE_SECONDS)
