"""The machine of the attacks: its memory limit ends what takes too much, and peaks are seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.machine import (
    Peaks,
    children,
    memory_group,
    shipped_memory_mib,
    used_cpu_seconds,
)

HOLD = "import sys; data = bytearray(int(sys.argv[1]) * 2**20); print(flush=True); input()"


def held(mib: int) -> subprocess.Popen[bytes]:
    """Start a process that waits to be told to take so much memory."""
    wait = f"input(); {HOLD}"
    return subprocess.Popen(
        [sys.executable, "-c", wait, str(mib)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_the_kernel_ends_what_takes_more_than_the_machine_has() -> None:
    with memory_group(64) as group:
        if group is None:
            pytest.skip("no control group may be made here")
        with held(200) as process:
            group.add(process.pid)
            process.communicate(b"\n\n")
            assert process.returncode != 0
        assert group.kills == 1


def test_what_fits_is_left_alone_and_the_group_goes_away() -> None:
    with memory_group(200) as group:
        if group is None:
            pytest.skip("no control group may be made here")
        with held(20) as process:
            group.add(process.pid)
            process.communicate(b"\n\n")
            assert process.returncode == 0
        assert group.kills == 0
    assert not group.path.exists()


def test_peaks_are_those_of_the_process_and_of_what_it_started() -> None:
    start = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {HOLD!r}, '80'], "
        "stdin=subprocess.PIPE, stdout=subprocess.PIPE); "
        "child.stdout.readline(); print(flush=True); input(); child.communicate(b'\\n')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        peaks = Peaks()
        peaks.look(process.pid)
        assert len(children(process.pid)) == 1
        process.communicate(b"\n")
    assert peaks.decoder > 80
    assert peaks.daemon < 80
    assert peaks.together > peaks.decoder


def test_the_machine_is_that_of_fly_toml(tmp_path: Path) -> None:
    assert shipped_memory_mib() == 960
    fly = tmp_path / "fly.toml"
    fly.write_text('[[vm]]\nmemory = "2gb"\n')
    assert shipped_memory_mib(fly) == 1984
    fly.write_text('[[vm]]\nmemory = "lots"\n')
    with pytest.raises(ValueError, match="lots"):
        shipped_memory_mib(fly)


def test_the_cpu_time_is_also_that_of_what_was_started() -> None:
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    start = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}]); "
        "print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert used_cpu_seconds(process.pid) >= 0.29
        process.communicate(b"\n")
