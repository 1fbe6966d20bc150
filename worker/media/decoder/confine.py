"""Takes from this process all that decoding does not need; nothing of it can be taken back."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from worker.media.decoder import landlock, seccomp

# Standard streams, the socket to the daemon, and two files of a job, with room for copies.
_OPEN_FILES = 16
# More than ten minutes of prepared sound at 48 kHz in two channels.
_LARGEST_OUTPUT = 128 * 1024 * 1024
_NO_NEW_PRIVILEGES = 38


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """What one decoder may use: bytes of memory beyond its start, and CPU seconds per job."""

    memory_bytes: int
    cpu_seconds: int
    jobs: int


def confine(limits: ProcessLimits) -> tuple[str, ...]:
    """Give up privileges, files, network and processes; return the layers the kernel lacks."""
    _set_limits(limits)
    # If the machine runs out of memory, the kernel ends a decoder and not the daemon.
    _write_if_possible(Path("/proc/self/oom_score_adj"), "1000")
    # What libraries print about a hostile file must not fill the log.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    layers = {"landlock": landlock.deny_everything, "seccomp": seccomp.allow_only_decoding}
    return tuple(name for name, apply in layers.items() if not apply())


def allow_cpu(seconds: int) -> None:
    """Let this process use so many CPU seconds from now on; then the kernel ends it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (min(soft, hard), hard))


def _set_limits(limits: ProcessLimits) -> None:
    # Python and the libraries take different address space on each system: it comes on top.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + limits.memory_bytes
    whole_life = math.ceil(time.process_time()) + (limits.cpu_seconds + 1) * (limits.jobs + 1)
    for name, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, whole_life),
        (resource.RLIMIT_FSIZE, _LARGEST_OUTPUT),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        _, hard = resource.getrlimit(name)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (allowed, allowed))


def _write_if_possible(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError:
        return
