"""The pool of decoders: reuse and replacement, limits, and who is blamed when a decoder ends."""

import asyncio
import io
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image
from structlog.testing import capture_logs

from tests.media.hostile import jpeg_of_scans, m4a_of_samples, webp_of_pixels
from tests.media.test_images import picture, saved
from worker.jobs.errors import DecoderUnavailable, JobFailed
from worker.media import decoder_process
from worker.media.decoder import __main__ as real
from worker.media.decoder.messages import DecoderFailure
from worker.media.decoder_process import DecoderLimits, DecoderProcess, start_decoder
from worker.media.decoders import IDLE_SECONDS, PART, Decoders
from worker.runtime.readiness import Readiness

PNG = saved(picture(60, 80), "PNG")
MAX_PIXELS = 50_000_000


def odd(name: str) -> tuple[str, ...]:
    """The command of a decoder in odd_decoders.py."""
    return (sys.executable, "-P", "-s", "-m", "tests.media.odd_decoders", name)


@dataclass
class Bench:
    """A pool that starts the named odd decoders, then real ones; its timers never run out."""

    names: list[str] = field(default_factory=list)
    limits: DecoderLimits = field(default_factory=DecoderLimits)
    started: list[DecoderProcess] = field(default_factory=list)
    timers: list["Planned"] = field(default_factory=list)
    readiness: Readiness = field(default_factory=Readiness)

    def __post_init__(self) -> None:
        self.pool = Decoders(
            self.limits, readiness=self.readiness, start=self._start, later=self._later
        )

    async def _start(self, limits: DecoderLimits) -> DecoderProcess:
        command = odd(self.names.pop(0)) if self.names else decoder_process.COMMAND
        self.started.append(await start_decoder(limits, command=command))
        return self.started[-1]

    def _later(self, seconds, call) -> "Planned":
        self.timers.append(Planned(seconds, call))
        return self.timers[-1]

    async def probe(self, data: bytes = PNG):
        with stored(data) as file:
            return await self.pool.probe_image(file, max_pixels=MAX_PIXELS)

    async def hear(self, data: bytes):
        with stored(data) as file:
            return await self.pool.probe_audio(file)


@dataclass
class Planned:
    """A call that waits for a test."""

    seconds: float
    call: object
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@contextmanager
def stored(data: bytes) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file


@pytest.fixture
def bench():
    made: list[Bench] = []

    def make(*names: str, **limits) -> Bench:
        made.append(Bench(names=list(names), limits=DecoderLimits(**limits)))
        return made[-1]

    yield make
    for each in made:
        each.pool.close()


def gone(decoder: DecoderProcess) -> bool:
    """Whether a killed process has ended; waits for that."""
    decoder.wait()
    return decoder.reaped()


# --- reuse --------------------------------------------------------------------------------------


async def test_a_decoder_is_reused_and_replaced_after_its_jobs(bench):
    made = bench(jobs=2)
    for _ in range(3):
        assert (await made.probe()).width == 60
    assert len(made.started) == 2
    assert gone(made.started[0])


async def test_a_refused_file_does_not_cost_the_decoder(bench):
    made = bench()
    with pytest.raises(JobFailed, match="no format"):
        await made.probe(b"not a picture")
    await made.probe()
    assert len(made.started) == 1


async def test_decoders_without_work_end_after_a_minute(bench):
    made = bench()
    await made.probe()
    await made.probe()
    first, second = made.timers
    assert (first.cancelled, second.cancelled) == (True, False)
    assert second.seconds == IDLE_SECONDS == 60
    second.call()
    assert gone(made.started[0])
    await made.probe()
    assert len(made.started) == 2


async def test_nothing_is_left_after_closing(bench):
    made = bench()
    await made.probe()
    made.pool.close()
    assert made.started[0].reaped()
    assert made.timers[-1].cancelled


# --- blame --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("crashes", "image_unreadable", "stopped working"),
        ("talks_nonsense", "image_unreadable", "stopped working"),
        ("spins", "image_too_complex", "computing time"),
    ],
)
async def test_a_file_on_which_a_fresh_decoder_fails_fails_at_once(bench, name, code, words):
    made = bench(name, cpu_seconds=1)
    with pytest.raises(JobFailed, match=words) as failed:
        await made.probe()
    assert failed.value.code == code
    assert len(made.started) == 1
    assert gone(made.started[0])


async def test_a_decoder_that_hangs_is_killed(bench):
    made = bench("hangs", wall_seconds=0.05)
    with pytest.raises(JobFailed, match="more time") as failed:
        await made.probe()
    assert failed.value.code == "image_too_complex"
    assert gone(made.started[0])


async def test_a_reused_decoder_that_hangs_is_replaced_before_the_file_is_blamed(bench):
    made = bench("answers", "crashes", wall_seconds=0.05)
    await made.probe()
    with pytest.raises(JobFailed, match="stopped working"):
        await made.probe()
    assert len(made.started) == 2


async def test_a_decoder_killed_in_the_middle_costs_the_file_nothing(bench):
    made = bench("answers")
    await made.probe()
    task = asyncio.ensure_future(made.probe())
    while made.started[0].jobs < 2:
        await asyncio.sleep(0)
    os.kill(made.started[0].pid, signal.SIGKILL)
    assert (await task).width == 60
    assert len(made.started) == 2


async def test_a_decoder_that_died_while_idle_costs_the_file_nothing(bench):
    made = bench()
    await made.probe()
    os.kill(made.started[0].pid, signal.SIGKILL)
    made.started[0].wait()
    assert (await made.probe()).width == 60


@pytest.mark.parametrize("names", [["never_ready"], None])
async def test_a_decoder_that_cannot_be_started_makes_the_job_wait(bench, names, monkeypatch):
    made = bench(*names or ())
    with monkeypatch.context() as patched:
        if names is None:
            patched.setattr(decoder_process, "COMMAND", ("/no/such/python",))
        with pytest.raises(DecoderUnavailable, match="keeps trying"):
            await made.probe()
    assert made.readiness.reasons[0].startswith(f"{PART}: No decoder can work: ")
    assert (await made.probe()).width == 60
    assert made.readiness.reasons == []


async def test_running_out_of_open_files_makes_the_job_wait(bench, monkeypatch):
    def none_left(*_arguments):
        raise OSError(24, "Too many open files")

    made = bench()
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socketpair", none_left)
        with pytest.raises(DecoderUnavailable):
            await made.probe()
    await made.probe()
    with stored(PNG) as file, monkeypatch.context() as patched:
        patched.setattr(os, "open", none_left)
        with pytest.raises(DecoderUnavailable):
            await made.pool.probe_image(file, max_pixels=MAX_PIXELS)


async def test_a_full_disk_makes_the_job_wait(monkeypatch):
    fakes: list[Fake] = []
    pool = pool_of(fakes, 1, monkeypatch)
    task = asyncio.ensure_future(pool.probe_audio(io.BytesIO()))
    await settled()
    fakes[0].answers.put_nowait(DecoderFailure("machine"))
    with pytest.raises(DecoderUnavailable):
        await task
    pool.close()


def test_a_decoder_says_that_the_disk_is_full():
    with stored(PNG) as file, Path("/dev/full").open("wb") as full:
        options = {"size": [480, 480], "fit": "cover", "max_pixels": MAX_PIXELS}
        numbers = [os.dup(file.fileno()), os.dup(full.fileno())]
        file.seek(0)
        answer = real._answer({"task": "render_image", "options": options}, numbers)
    assert answer == {"failure": "machine"}


async def test_a_cancelled_caller_ends_its_decoder(bench):
    made = bench("hangs")
    task = asyncio.ensure_future(made.probe())
    while not made.started or not made.started[0].jobs:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(made.started[0])


async def test_what_the_kernel_lacks_is_logged_once(bench):
    made = bench("crashes", "crashes")
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(JobFailed):
                await made.probe()
    lacking = [line["lacking"] for line in logs if line["event"] == "decoder.less_confined"]
    assert lacking == [["landlock"]]


# --- hostile files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: jpeg_of_scans(5000), "image_too_complex"),
        (lambda: webp_of_pixels(7000), "image_too_large"),
    ],
    ids=["thousands of scans", "49 Mpx WebP"],
)
async def test_a_costly_picture_is_refused(bench, make, code):
    made = bench()
    with pytest.raises(JobFailed) as failed:
        await made.probe(make())
    assert failed.value.code == code
    assert len(made.started) == 1


async def test_a_picture_that_needs_more_memory_than_permitted_is_refused(bench):
    made = bench(memory_mib=64)
    with pytest.raises(JobFailed, match="more memory") as failed:
        await made.probe(saved(Image.new("RGBA", (5000, 5000)), "PNG"))
    assert failed.value.code == "image_too_complex"
    assert (await made.probe()).width == 60


async def test_an_index_of_240_million_samples_is_refused_by_its_header(bench):
    made = bench()
    with pytest.raises(JobFailed) as failed:
        await made.hear(m4a_of_samples(240_000_000))
    assert failed.value.code == "audio_too_complex"


async def test_without_that_the_limit_of_memory_holds(bench):
    """FFmpeg goes on without the memory that it did not get, and then finds no sound."""
    made = bench("unguarded", memory_mib=256)
    with pytest.raises(JobFailed) as failed:
        await made.hear(m4a_of_samples(240_000_000))
    assert failed.value.code in {"audio_unreadable", "audio_too_complex"}


# --- order --------------------------------------------------------------------------------------


class Fake:
    """A decoder that answers when a test says so."""

    lacking = ()

    def __init__(self) -> None:
        self.jobs = 0
        self.seconds: list[float] = []
        self.answers: asyncio.Queue = asyncio.Queue()

    async def run(self, task, file, into, *, seconds):
        self.jobs += 1
        self.seconds.append(seconds)
        if into is not None:
            into.write(b"some bytes")
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None: ...

    def wait(self) -> None: ...

    def reaped(self) -> bool:
        return True


def pool_of(fakes: list[Fake], processes: int, monkeypatch) -> Decoders:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))

    async def start(limits):
        fakes.append(Fake())
        return fakes[-1]

    return Decoders(DecoderLimits(processes=processes, wall_seconds=7), start=start)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_waiting_for_a_decoder_counts_against_nobody(monkeypatch):
    fakes: list[Fake] = []
    pool = pool_of(fakes, 1, monkeypatch)
    first = asyncio.ensure_future(pool.probe_audio(io.BytesIO()))
    second = asyncio.ensure_future(pool.probe_audio(io.BytesIO()))
    await settled()
    assert fakes[0].seconds == [7]
    fakes[0].answers.put_nowait("first")
    assert await first == "first"
    await settled()
    assert fakes[0].seconds == [7, 7]
    fakes[0].answers.put_nowait("second")
    assert await second == "second"
    pool.close()


async def test_never_two_images_at_once_but_sound_beside_one(monkeypatch):
    fakes: list[Fake] = []
    pool = pool_of(fakes, 4, monkeypatch)
    look = partial(pool.probe_image, max_pixels=MAX_PIXELS)
    work = [look(io.BytesIO()), look(io.BytesIO()), pool.probe_audio(io.BytesIO())]
    tasks = [asyncio.ensure_future(each) for each in work]
    await settled()
    assert len(fakes) == 2
    for fake in fakes:
        fake.answers.put_nowait("done")
    await asyncio.wait(tasks[:1])
    await settled()
    assert sum(fake.jobs for fake in fakes) == 3
    for fake in fakes:
        fake.answers.put_nowait("done")
    assert await asyncio.gather(*tasks) == ["done"] * 3
    pool.close()


async def test_never_more_decoders_than_cores(monkeypatch):
    fakes: list[Fake] = []
    pool = pool_of(fakes, 4, monkeypatch)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    small = Decoders(DecoderLimits(processes=4), start=pool._start)
    tasks = [asyncio.ensure_future(small.probe_audio(io.BytesIO())) for _ in range(3)]
    await settled()
    assert len(fakes) == 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    small.close()


async def test_what_a_failed_decoder_wrote_is_removed(monkeypatch):
    fakes: list[Fake] = []
    pool = pool_of(fakes, 1, monkeypatch)
    into = io.BytesIO()
    for expected in (1, 2):
        render = pool.render_image(
            io.BytesIO(), size=(480, 480), fit="cover", max_pixels=1, into=into
        )
        task = asyncio.ensure_future(render)
        await settled()
        fakes[0].answers.put_nowait(None if expected == 1 else DecoderFailure("crash"))
        await settled()
        if expected == 2:
            fakes[1].answers.put_nowait(None)
        await task
        assert (into.tell(), into.getvalue()) == (0, b"some bytes")
    pool.close()
