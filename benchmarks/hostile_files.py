"""An ordinary job's time at the decoders, alone and while others keep bringing the worst files."""

from __future__ import annotations

import asyncio
import io
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import structlog
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks._rig import load
from benchmarks.decoders import FILES, MOST_PIXELS
from worker.jobs.errors import JobFailed, TransientError
from worker.media.decoder_queue import Client
from worker.media.decoders import Decoders
from worker.media.together import both

# With one more job, as many as are prepared at a time by default.
HOSTILE = (0, 11, 31)
JOBS = 4
SIZE = (1280, 720)
TARGET_SECONDS = 10.0
SPEECH = Path(__file__).parents[1] / "devstack/samples/speech.mp3"
WORST_IMAGE = "image: JPEG, CMYK, 100 scans, 10 Mpx"
WORST_AUDIO = "audio: FLAC, 10 min, 48 kHz 7.1"
Files = tuple[BinaryIO, BinaryIO]


def photo() -> bytes:
    """Return a JPEG as a phone makes it: 12 million pixels with detail."""
    small = Image.frombytes("RGB", (252, 189), random.Random(1).randbytes(252 * 189 * 3))
    out = io.BytesIO()
    small.resize((4032, 3024), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
    return out.getvalue()


@contextmanager
def stored(*contents: bytes) -> Iterator[list[BinaryIO]]:
    """Keep contents in temporary files."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in contents]
        for file, content in zip(files, contents, strict=True):
            file.write(content)
            file.flush()
        yield cast("list[BinaryIO]", files)


async def job(pool: Decoders, image: BinaryIO, audio: BinaryIO, client: Client) -> None:
    """Decode and prepare both files, as the daemon does for a job."""
    _, facts = await both(
        pool.probe_image(image, max_pixels=MOST_PIXELS, client=client),
        pool.probe_audio(audio, client=client),
    )
    with tempfile.TemporaryFile() as into:
        await pool.render_image(
            image, size=SIZE, fit="cover", max_pixels=MOST_PIXELS, into=into, client=client
        )
    with tempfile.TemporaryFile() as into:
        seconds = Fraction(521, 25)
        await pool.render_audio(audio, facts, seconds=seconds, into=into, client=client)


async def attack(pool: Decoders, files: Files, clients: list[Client]) -> None:
    """Bring the same two files again and again, each time as a new user."""
    while True:
        clients.append(Client(f"hostile-{len(clients)}"))
        try:
            await job(pool, *files, clients[-1])
        except (JobFailed, TransientError):
            continue


async def measure(ordinary: Files, worst: Files, hostile: int) -> list[tuple[float, float]]:
    """Return for each ordinary job its seconds and the CPU seconds of the others meanwhile."""
    pool, figures = Decoders(), []
    clients: list[Client] = []
    async with asyncio.TaskGroup() as tasks:
        attackers = [tasks.create_task(attack(pool, worst, clients)) for _ in range(hostile)]
        if hostile:
            await asyncio.sleep(5)
        for number in range(JOBS):
            began, before = time.perf_counter(), sum(client.used for client in clients)
            await job(pool, *ordinary, Client(f"ordinary-{number}"))
            others = sum(client.used for client in clients) - before
            figures.append((time.perf_counter() - began, others))
        for attacker in attackers:
            attacker.cancel()
    pool.close()
    return figures


def main() -> int:
    """Measure both and print the table."""
    contents = (photo(), SPEECH.read_bytes(), FILES[WORST_IMAGE](), FILES[WORST_AUDIO]())
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    names = ("jobs beside it", "median s", "worst s", "CPU s of others meanwhile, worst")
    table = Table(*names, title=load())
    with stored(*contents) as (image, audio, worst_image, worst_audio):
        for hostile in HOSTILE:
            figures = asyncio.run(measure((image, audio), (worst_image, worst_audio), hostile))
            seconds, others = zip(*figures, strict=True)
            row = (statistics.median(seconds), max(seconds), max(others))
            name = f"{hostile} with the worst files" if hostile else "none"
            table.add_row(name, *(f"{number:.1f}" for number in row))
    Console(width=110 if not sys.stdout.isatty() else None).print(table)
    print(f"target on a machine without other work: below {TARGET_SECONDS:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
