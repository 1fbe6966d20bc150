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
from worker.jobs.errors import DecodersBusy, DecoderUnavailable, JobFailed
from worker.media import decoder_process
from worker.media.decoder import __main__ as real
from worker.media.decoder.messages import DecoderFailure
from worker.media.decoder_pool import IDLE_SECONDS, PART
from worker.media.decoder_process import DecoderLimits, DecoderProcess, start_decoder
from worker.media.decoder_queue import QUICK_CPU_SECONDS, Client
from worker.media.decoders import MOST_COSTLY_WAITING, QUICK_PIXELS, Decoders
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
    ],
)
async def test_a_file_on_which_a_fresh_decoder_fails_fails_at_once(bench, name, code, words):
    made = bench(name)
    with pytest.raises(JobFailed, match=words) as failed:
        await made.probe()
    assert failed.value.code == code
    assert len(made.started) == 1
    assert gone(made.started[0])


async def test_a_file_that_costs_too_much_has_a_first_look_and_a_last_one(bench):
    made = bench("spins", "spins", cpu_seconds=1)
    with pytest.raises(JobFailed, match="computing time") as failed:
        await made.probe()
    assert failed.value.code == "image_too_complex"
    assert [decoder.nice for decoder in made.started] == [False, True]
    assert all(gone(decoder) for decoder in made.started)
    assert made.started[0].cpu_of_task == QUICK_CPU_SECONDS


@pytest.mark.parametrize("processes", [1, 2])
async def test_cpu_seconds_are_a_files_own_also_in_a_reused_decoder(bench, processes):
    """It is not run again in a fresh one; with one process there is no first look either."""
    made = bench("spins_later", "spins", cpu_seconds=1, processes=processes)
    await made.probe()
    with pytest.raises(JobFailed, match="computing time"):
        await made.probe()
    assert len(made.started) == processes


async def test_the_kernel_ends_a_decoder_whose_seconds_nobody_counts(bench, monkeypatch):
    monkeypatch.setattr(DecoderProcess, "_cpu_seconds", lambda _self: 0.0)
    made = bench("spins", cpu_seconds=1, processes=1)
    with pytest.raises(JobFailed, match="computing time"):
        await made.probe()


async def test_a_decoder_that_had_no_processor_is_not_the_files_fault(bench, monkeypatch):
    waited = iter([10.0, 10.03])
    monkeypatch.setattr(DecoderProcess, "_waited_seconds", lambda _self: next(waited))
    made = bench("hangs", wall_seconds=0.05)
    with pytest.raises(DecoderUnavailable):
        await made.probe()
    assert "no answer within 0.05 s" in made.readiness.reasons[0]


async def test_the_kernel_tells_how_long_a_process_ran_and_how_long_it_waited(bench):
    made = bench()
    await made.probe()
    (decoder,) = made.started
    assert 0 < decoder._cpu_seconds() < 30
    assert Path(f"/proc/{decoder.pid}/schedstat").exists() == (decoder._waited_seconds() > 0)
    decoder.kill()
    decoder.wait()
    assert (decoder._cpu_seconds(), decoder._waited_seconds()) == (0.0, 0.0)


async def test_a_decoder_that_hangs_is_killed(bench):
    made = bench("hangs", "hangs", wall_seconds=0.05)
    with pytest.raises(JobFailed, match="more time") as failed:
        await made.probe()
    assert failed.value.code == "image_too_complex"
    assert gone(made.started[0])


async def test_a_reused_decoder_that_hangs_is_replaced_before_the_file_is_blamed(bench):
    made = bench("answers", "crashes", wall_seconds=0.05, processes=1)
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
    ("make", "code", "looks"),
    [
        (lambda: jpeg_of_scans(5000), "image_too_complex", 1),
        (lambda: webp_of_pixels(7000), "image_too_large", 2),
    ],
    ids=["thousands of scans", "49 Mpx WebP"],
)
async def test_a_costly_picture_is_refused(bench, make, code, looks):
    made = bench()
    with pytest.raises(JobFailed) as failed:
        await made.probe(make())
    assert failed.value.code == code
    assert sum(decoder.jobs for decoder in made.started) == looks


async def test_a_large_picture_is_decoded_apart_from_ordinary_ones(bench):
    made = bench()
    client = Client("u")
    side = 1 + int(QUICK_PIXELS**0.5)
    with stored(saved(Image.new("L", (side, side)), "JPEG")) as file:
        facts = await made.pool.probe_image(file, max_pixels=MAX_PIXELS, client=client)
    assert facts.width == side
    assert (client.costly, client.proven) == ({"image"}, False)
    assert [decoder.nice for decoder in made.started] == [False, True]
    await made.probe()
    assert [decoder.jobs for decoder in made.started] == [2, 1]


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
    nice = False
    cpu_of_task = 0.1

    def __init__(self) -> None:
        self.jobs = 0
        self.seconds: list[float] = []
        self.cpu: list[float] = []
        self.answers: asyncio.Queue = asyncio.Queue()

    def give_way(self) -> None:
        self.nice = True

    async def run(self, task, file, into, *, budget):
        self.jobs += 1
        self.seconds.append(budget.wall_seconds)
        self.cpu.append(budget.cpu_seconds)
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


def pool_of(fakes: list[Fake], processes: int, monkeypatch, *, cores: int = 8) -> Decoders:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))

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


async def test_never_more_decoders_than_cores_but_two_on_one_core(monkeypatch):
    """Else no place would be left when a file that costs much is decoded."""
    fakes: list[Fake] = []
    pool = pool_of(fakes, 4, monkeypatch, cores=1)
    tasks = [asyncio.ensure_future(pool.probe_audio(io.BytesIO())) for _ in range(3)]
    await settled()
    assert len(fakes) == 2
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    pool.close()


async def test_costly_files_never_take_the_place_of_a_first_look(monkeypatch):
    fakes: list[Fake] = []
    pool = pool_of(fakes, 2, monkeypatch)
    costly = [
        asyncio.ensure_future(pool.probe_audio(io.BytesIO(), client=Client(f"u{number}")))
        for number in range(2)
    ]
    await settled()
    for fake in fakes:
        fake.answers.put_nowait(DecoderFailure("cpu"))
    await settled()
    honest = asyncio.ensure_future(pool.probe_audio(io.BytesIO()))
    await settled()
    assert [fake.nice for fake in fakes[2:]] == [True, False]
    fakes[-1].answers.put_nowait("done")
    assert await honest == "done"
    for task in costly:
        task.cancel()
    await asyncio.wait(costly)
    pool.close()


async def test_a_first_look_is_shorter_while_many_wait(monkeypatch):
    fakes: list[Fake] = []
    pool = pool_of(fakes, 2, monkeypatch)
    tasks = [asyncio.ensure_future(pool.probe_audio(io.BytesIO())) for _ in range(14)]
    await settled()
    for fake in fakes:
        for _ in tasks:
            fake.answers.put_nowait("done")
    assert await asyncio.gather(*tasks) == ["done"] * 14
    given = sorted(seconds for fake in fakes for seconds in fake.cpu)
    assert given[0] <= 6 / 11
    assert given[-1] == QUICK_CPU_SECONDS
    pool.close()


async def test_a_file_known_to_be_costly_has_no_second_first_look(monkeypatch):
    fakes: list[Fake] = []
    pool = pool_of(fakes, 2, monkeypatch)
    client = Client(None, costly={"audio"})
    task = asyncio.ensure_future(pool.probe_audio(io.BytesIO(), client=client))
    await settled()
    assert [fake.nice for fake in fakes] == [True]
    fakes[0].answers.put_nowait("done")
    assert await task == "done"
    pool.close()


async def test_too_many_costly_files_give_their_places_back_and_come_one_after_the_other(
    monkeypatch,
):
    fakes: list[Fake] = []
    pool = pool_of(fakes, 2, monkeypatch)

    def costly() -> asyncio.Future:
        work = pool.probe_audio(io.BytesIO(), client=Client(None, costly={"audio"}))
        return asyncio.ensure_future(work)

    waiting = [costly() for _ in range(1 + MOST_COSTLY_WAITING)]
    await settled()
    waits = []
    for _ in range(40):
        with pytest.raises(DecodersBusy, match="takes long to check") as busy:
            await costly()
        waits.append(busy.value.retry_in)
    assert waits[:2] == pytest.approx([40, 50], abs=1)
    assert waits[-1] == 300
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    pool.close()


async def test_there_are_never_more_processes_than_places(monkeypatch):
    """One that gives way to others cannot do a first look, and goes for one that can."""
    fakes: list[Fake] = []
    gone: list[Fake] = []
    monkeypatch.setattr(Fake, "kill", lambda fake: gone.append(fake))
    pool = pool_of(fakes, 2, monkeypatch)

    async def done(kind, amount, **client):
        tasks = [
            asyncio.ensure_future(pool.probe_audio(io.BytesIO(), client=Client(None, **client)))
            for _ in range(amount)
        ]
        await settled()
        assert len(fakes) - len(gone) <= 2
        for fake in fakes:
            fake.answers.put_nowait("done")
        await asyncio.wait(tasks)

    await done("costly", 1, costly={"audio"})
    await done("first looks", 2)
    assert gone == [fakes[0]]
    await done("costly", 1, costly={"audio"})
    assert len(gone) == 2
    pool.close()


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
