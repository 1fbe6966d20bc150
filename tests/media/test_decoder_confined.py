"""What a decoder can reach: the files of its job, and nothing else."""

import ctypes
import errno
import json
import platform
import struct
import tempfile
from fractions import Fraction
from pathlib import Path

import pytest

import worker
from tests.data.media.sounds import sound
from tests.media.test_audio import TABLE
from tests.media.test_decoders import odd, stored
from tests.media.test_images import FORMATS
from worker.jobs.errors import JobFailed
from worker.media import images
from worker.media.audio import probe_audio
from worker.media.audio_render import render_audio
from worker.media.decoder import landlock, seccomp
from worker.media.decoder.messages import probe_image_task
from worker.media.decoder_process import Budget, DecoderLimits, start_decoder
from worker.media.decoders import Decoders

LIMITS = DecoderLimits(memory_mib=256)


@pytest.fixture
async def decoder():
    started = await start_decoder(LIMITS)
    yield started
    started.kill()
    started.wait()


BUDGET = Budget(cpu_seconds=60, wall_seconds=60)


def _landlock_version() -> int:
    return ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)


needs_kernel = pytest.mark.skipif(
    _landlock_version() < 6 or platform.machine() not in seccomp.MACHINES,
    reason="this kernel has no Landlock of version 6, or the processor no list of calls",
)


@needs_kernel
async def test_every_layer_is_in_place_where_the_kernel_has_it(decoder):
    assert decoder.lacking == ()


@needs_kernel
async def test_a_confined_decoder_can_read_its_file_and_do_nothing_else():
    decoder = await start_decoder(LIMITS, command=odd("tries_everything"))
    with stored(b"abc") as file, pytest.raises(JobFailed) as report:
        await decoder.run(probe_image_task(max_pixels=1), file, None, budget=BUDGET)
    decoder.kill()
    decoder.wait()
    assert json.loads(report.value.message) == ["read the job's file"]


async def test_its_environment_has_no_secret(monkeypatch):
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "very-secret")
    monkeypatch.setenv("HOME", "/home/somebody")
    decoder = await start_decoder(LIMITS)
    raw = Path(f"/proc/{decoder.pid}/environ").read_bytes().rstrip(b"\0").decode()
    found = dict(line.split("=", 1) for line in raw.split("\0"))
    decoder.kill()
    decoder.wait()
    assert found.pop("PYTHONPATH") == str(Path(worker.__file__).parents[1])
    assert sorted(found) == [
        "MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_",
        "PYTHONDONTWRITEBYTECODE",
    ]  # fmt: skip


@needs_kernel
async def test_its_limits_and_privileges_are_set(decoder):
    status = Path(f"/proc/{decoder.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    limits = {
        line[:26].strip(): line[26:].split()[:2]
        for line in Path(f"/proc/{decoder.pid}/limits").read_text().splitlines()
    }
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"] == ["16", "16"]
    assert limits["Max file size"] == [str(128 * 1024 * 1024)] * 2
    assert 256 * 2**20 < int(limits["Max address space"][0]) < 1024 * 2**20
    opened = {str(path.readlink()) for path in Path(f"/proc/{decoder.pid}/fd").iterdir()}
    assert {name.partition(":")[0] for name in opened} == {"/dev/null", "socket"}


async def test_a_decoder_ends_by_itself_when_the_daemon_is_gone(decoder):
    """Its socket is then closed, as here."""
    decoder._channel.close()
    assert decoder._process.wait() == 0


async def test_every_format_decodes_in_confinement_as_outside():
    """No library looks for a file at first use, and the prepared inputs are the same bytes."""
    pool = Decoders()
    size, most = (480, 640), 50_000_000
    for name, make in FORMATS.items():
        with stored(make()) as file, tempfile.TemporaryFile() as into:
            facts = await pool.probe_image(file, max_pixels=most)
            assert facts == images.probe_image(file, max_pixels=most), name
            await pool.render_image(file, size=size, fit="blur", max_pixels=most, into=into)
            assert into.read() == images.render_image(
                file, size=size, fit="blur", max_pixels=most
            ), name
    for name, make, *_ in TABLE:
        with stored(make()) as file, tempfile.TemporaryFile() as into:
            heard = await pool.probe_audio(file)
            assert heard == probe_audio(file), name
            await pool.render_audio(file, heard, seconds=Fraction(81, 25), into=into)
            with tempfile.TemporaryFile() as outside:
                render_audio(file, heard, seconds=Fraction(81, 25), into=outside)
                assert into.read() == outside.read(), name
    pool.close()


async def test_the_files_of_the_daemon_keep_their_places():
    """The decoder reads through a descriptor of its own."""
    pool = Decoders()
    with stored(sound(1)) as file:
        file.seek(7)
        await pool.probe_audio(file)
        assert file.tell() == 7
    pool.close()


# --- kernels that lack something ----------------------------------------------------------------


class Libc:
    """A C library on a kernel without these calls."""

    def syscall(self, *_arguments):
        return -1

    def prctl(self, *_arguments):
        return -1


def test_a_kernel_without_a_layer_is_said(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc())
    assert not landlock.deny_everything()
    assert not seccomp.allow_only_decoding()


def test_a_processor_without_a_list_is_said(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not seccomp.allow_only_decoding()


ALLOW, KILL = 0x7FFF_0000, 0x8000_0000


def verdict(machine: seccomp.Machine, number: int, *arguments: int, audit: int | None = None):
    """Run the filter as the kernel does, on one system call."""
    audit = machine.audit if audit is None else audit
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, audit, 0, *values)
    code = seccomp.program(machine)
    place = accumulator = 0
    while True:
        kind, if_true, if_false, value = struct.unpack_from("=HBBI", code, place * 8)
        place += 1
        if kind == 0x06:
            return value if value in (ALLOW, KILL) else errno.errorcode[value & 0xFFFF]
        if kind == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        else:
            holds = accumulator == value if kind == 0x15 else bool(accumulator & value)
            place += if_true if holds else if_false


@pytest.mark.parametrize("name", seccomp.MACHINES)
def test_the_filter_allows_its_list_and_nothing_else(name):
    machine = seccomp.MACHINES[name]
    special = {"clone", "clone3", "mmap", "mprotect", "prlimit64"}
    allowed = {number for call, number in machine.calls.items() if call not in special}
    for number in range(600):
        if number not in machine.calls.values():
            assert verdict(machine, number) == "EPERM"
    assert all(verdict(machine, number) == ALLOW for number in allowed)
    calls = machine.calls
    assert verdict(machine, calls["clone3"]) == "ENOSYS"
    assert verdict(machine, calls["clone"], 17) == "EPERM"
    assert verdict(machine, calls["clone"], 0x3D0F00) == ALLOW
    assert verdict(machine, calls["prlimit64"], 0, 9) == ALLOW
    assert verdict(machine, calls["prlimit64"], 4711, 9) == "EPERM"
    for call in ("mmap", "mprotect"):
        assert verdict(machine, calls[call], 0, 4096, 3) == ALLOW
        assert verdict(machine, calls[call], 0, 4096, 7) == "EPERM"
    assert verdict(machine, calls["read"], audit=0x40000003) == KILL
