"""What checking media costs the daemon: CPU with its decoders, its memory, and its delays."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import resource
import struct
import sys
import time
import wave
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from tests.data.media.hosts import host, reply
from tests.data.media.sounds import sound
from worker.jobs.errors import JobFailed
from worker.media.fetch import Fetcher
from worker.media.inputs import InputMedia, InputPolicy

MIB = 1024 * 1024
POLICY = InputPolicy(
    max_image_bytes=10 * MIB,
    max_audio_bytes=51 * MIB,
    max_image_pixels=50_000_000,
    input_buckets=frozenset(),
    media_bucket=None,
    image_fit="cover",
)
PLANS = 20
COLUMNS = {"cpu": 2, "growth": 0, "peak": 0}
Measured = dict[str, Any]


def rss() -> float:
    """Return the current resident memory, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the decoders that have ended."""
    return sum(os.times()[:4])


def peak_rss() -> float:
    """Return the peak resident memory of this program, in MiB.

    Not getrusage: its number lives on from the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


async def plans(port: int, count: int) -> Measured:
    """Open `count` jobs at once while a heartbeat looks for delays."""
    inputs = InputMedia(
        policy=POLICY,
        fetcher=Fetcher(allow_private_hosts=[f"127.0.0.1:{port}"]),
    )

    refusals: list[str] = []

    async def open_job(image: str, audio: str) -> None:
        base = f"http://127.0.0.1:{port}/"
        try:
            async with inputs.open(image_url=base + image, audio_url=base + audio, user_id=None):
                pass
        except JobFailed as failed:
            refusals.append(failed.code)

    # The first job of a daemon loads libraries: do not count it.
    await open_job("warm-image", "warm-audio")
    before, cpu, worst = rss(), cpu_seconds(), 0.0
    done = asyncio.Event()

    async def heartbeat() -> None:
        nonlocal worst
        while not done.is_set():
            started = time.perf_counter()
            await asyncio.sleep(0.01)
            worst = max(worst, time.perf_counter() - started - 0.01)

    async with asyncio.TaskGroup() as group:
        group.create_task(heartbeat())
        await asyncio.gather(*(open_job("image", "audio") for _ in range(count)))
        done.set()
    inputs.close()
    return {
        "cpu": cpu_seconds() - cpu,
        "growth": peak_rss() - before,
        "peak": peak_rss(),
        "delay": worst * 1000,
        "refused": ", ".join(sorted(set(refusals))) or "-",
    }


def photo(width: int = 3000, height: int = 4000) -> bytes:
    """A noisy photograph of 12 megapixels, below the limit of 10 MiB."""
    out = io.BytesIO()
    noise = Image.effect_noise((width // 4, height // 4), 60).resize((width, height))
    noise.convert("RGB").save(out, "JPEG", quality=85)
    return out.getvalue()


def png_bomb(width: int, height: int, *, colour: int = 6) -> bytes:
    """A PNG of zeros: many pixels in few bytes; colour 6 is RGBA."""
    packer = zlib.compressobj(9)
    row = bytes(1 + width * (4 if colour == 6 else 1))
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", head), chunk(b"IDAT", packed), chunk(b"IEND", b""))
    )


def _mp3() -> bytes:
    stereo = [[(60.0, 0.3)], [(60.0, 0.2)]]
    return sound(channels=stereo, codec="libmp3lame", container="mp3", bit_rate=128_000)


def _wav_50_mib() -> bytes:
    """50 MiB of 16-bit stereo at 44.1 kHz, nearly five minutes."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(bytes(range(256)) * ((50 * MIB - 256) // 256))
    return out.getvalue()


SMALL = (64, 64)
CASES: dict[str, tuple[str, Callable[[], tuple[bytes, bytes]], int]] = {
    "60 s mp3, one plan": ("cpu < 0.5 s", lambda: (photo(*SMALL), _mp3()), 1),
    "50 MiB WAV, one plan": ("growth < 60 MiB", lambda: (photo(*SMALL), _wav_50_mib()), 1),
    f"12 MP photo + 60 s mp3, {PLANS} at once": (
        "delay < 100 ms",
        lambda: (photo(), _mp3()),
        PLANS,
    ),
    "400 MP PNG bomb, 20 at once": (
        "peak < 700 MiB",
        lambda: (png_bomb(20_000, 20_000, colour=0), _mp3()),
        PLANS,
    ),
    "49 MP RGBA PNG, 20 at once": (
        "peak < 700 MiB",
        lambda: (png_bomb(7000, 7000), _mp3()),
        PLANS,
    ),
    "hours of silence in FLAC, 20 at once": (
        "cpu",
        lambda: (
            photo(*SMALL),
            sound(channels=[[(1800.0, 0.0)]], rate=8000, codec="flac", container="flac"),
        ),
        PLANS,
    ),
}


def _measure(port: int, count: int, answer: Connection) -> None:
    answer.send(asyncio.run(plans(port, count)))


async def served(image: bytes, audio: bytes, count: int) -> Measured:
    """Serve the files from this process, and measure in another process."""
    answers = {"/image": reply(image), "/audio": reply(audio)}
    answers |= {"/warm-image": reply(photo(*SMALL)), "/warm-audio": reply(sound(4.0))}
    async with host(answers) as site:
        return await asyncio.to_thread(in_a_process_of_its_own, _measure, site.port, count)


def in_a_process_of_its_own(work: Callable[..., None], *args: Any) -> Measured:
    """Run a measurement in a new process, whose memory nothing else has used."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(*args, theirs))
    process.start()
    theirs.close()
    measured: Measured = ours.recv()
    process.join()
    return measured


def main() -> int:
    """Measure every case and print a table; the files are in memory and in temporary files."""
    table = Table(
        "case", "target", "CPU s", "RSS growth MiB", "peak RSS MiB", "delay ms", "refused"
    )
    for name, (target, make, count) in CASES.items():
        _add(table, name, target, asyncio.run(served(*make(), count)))
    Console(width=120 if not sys.stdout.isatty() else None).print(table)
    return 0


def _add(table: Table, name: str, target: str, measured: Measured) -> None:
    numbers = (f"{measured[key]:.{digits}f}" for key, digits in COLUMNS.items() if key in measured)
    refused = measured.get("refused", "-")
    delay = f"{measured['delay']:.0f}" if "delay" in measured else "-"
    table.add_row(name, target, *numbers, delay, refused)


if __name__ == "__main__":
    raise SystemExit(main())
