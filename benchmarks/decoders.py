"""The worst permitted files: peak memory of decoder and daemon, and seconds for each."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import av
import pillow_heif
from PIL import Image, ImageCms
from rich.console import Console
from rich.table import Table

from benchmarks._rig import load
from benchmarks.plan_cost import in_a_process_of_its_own
from worker.jobs.errors import JobFailed
from worker.media.decoder_process import DecoderLimits, DecoderProcess, start_decoder
from worker.media.decoders import Decoders
from worker.media.image_costs import ALWAYS_ALLOWED_SCANS, MOST_SCANNED_PIXELS, MOST_SCANS

MIB = 1024 * 1024
SIDE = 7070
MOST_PIXELS = 50_000_000
SIZE = (1920, 1072)
# The shipped machine, less what its kernel keeps for itself.
MACHINE_MIB = 960


def peak_mib(pid: int) -> float:
    """Return the peak resident memory of a running process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def code_mib(pid: int) -> float:
    """Return how much of the memory of a running process are files, which all decoders share."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) / 1024


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if image.mode in ("RGB", "RGBA"):
        options["icc_profile"] = profile
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _plain(side: int = SIDE, mode: str = "RGBA") -> Image.Image:
    return Image.new(mode, (side, side), (200, 90, 40, 250)[: len(mode)])


def _scans(side: int, mode: str) -> bytes:
    """A progressive JPEG with as many scans as its size permits."""
    data = _saved(_plain(side, mode), "JPEG", progressive=True, quality=50, subsampling=0)
    most = max(ALWAYS_ALLOWED_SCANS, min(MOST_SCANS, MOST_SCANNED_PIXELS // side**2))
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (most - data.count(b"\xff\xda")) + b"\xff\xd9"


def _heic() -> bytes:
    pillow_heif.register_heif_opener()
    return _saved(_plain(), "HEIF", quality=40)


def _without_length(flac: bytes) -> bytes:
    """The same as a live recorder writes it: the header states no number of samples."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def _flac(seconds: int, rate: int, layout: str) -> bytes:
    """A FLAC of silence."""
    out = io.BytesIO()
    with av.open(out, "w", format="flac") as output:
        stream: Any = output.add_stream("flac", rate=rate, layout=layout)
        for second in range(seconds):
            frame = av.AudioFrame(format="s16", layout=layout, samples=rate)
            frame.planes[0].update(bytes(frame.planes[0].buffer_size))
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = second * rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return out.getvalue()


# The largest picture of a first look, which may be decoded beside a costly one.
FIRST_LOOK = "image: WebP, RGBA, 12 Mpx"
FILES: dict[str, Callable[[], bytes]] = {
    "image: PNG, RGBA, 50 Mpx": lambda: _saved(_plain(), "PNG", compress_level=1),
    "image: WebP, RGBA, 36 Mpx": lambda: _saved(
        _plain(6000), "WEBP", lossless=True, method=0, quality=0
    ),
    FIRST_LOOK: lambda: _saved(_plain(3490), "WEBP", lossless=True, method=0, quality=0),
    "image: AVIF, RGBA, 50 Mpx": lambda: _saved(_plain(), "AVIF", speed=10),
    "image: HEIC, RGBA, 50 Mpx": _heic,
    "image: TIFF, float, 50 Mpx": lambda: _saved(
        Image.new("F", (SIDE, SIDE), 0.5), "TIFF", compression="tiff_lzw"
    ),
    "image: JPEG, CMYK, 20 scans, 50 Mpx": lambda: _scans(SIDE, "CMYK"),
    "image: JPEG, CMYK, 100 scans, 10 Mpx": lambda: _scans(3160, "CMYK"),
    "audio: FLAC, 10 min, 192 kHz stereo": lambda: _flac(600, 192_000, "stereo"),
    "audio: FLAC, 10 min, 48 kHz 7.1": lambda: _flac(600, 48_000, "7.1"),
    "audio: FLAC, 590 s, 384 kHz 7.1": lambda: _flac(590, 384_000, "7.1"),
    "audio: FLAC, 74 s, 384 kHz 7.1, live": lambda: _without_length(_flac(74, 384_000, "7.1")),
}


async def _cost(path: Path) -> dict[str, Any]:
    """Decode and prepare one file in a fresh decoder, as the daemon does for a job."""
    started: list[DecoderProcess] = []

    async def start(limits: DecoderLimits) -> DecoderProcess:
        started.append(await start_decoder(limits))
        return started[-1]

    pool = Decoders(DecoderLimits(), start=start)
    began, verdict, peak, code = time.perf_counter(), "", 0.0, 0.0
    with path.open("rb") as file, tempfile.TemporaryFile() as into:
        work = _image if path.name.startswith("image") else _audio
        try:
            await work(pool, file, into)
        except JobFailed as error:
            verdict = error.code
        else:
            peak, code = peak_mib(started[-1].pid), code_mib(started[-1].pid)
    seconds = time.perf_counter() - began
    before = os.times()
    pool.close()
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return {"verdict": verdict, "peak": peak, "seconds": seconds, "cpu": cpu, "code": code}


async def _image(pool: Decoders, file: BinaryIO, into: BinaryIO) -> None:
    await pool.probe_image(file, max_pixels=MOST_PIXELS)
    await pool.render_image(file, size=SIZE, fit="blur", max_pixels=MOST_PIXELS, into=into)


async def _audio(pool: Decoders, file: BinaryIO, into: BinaryIO) -> None:
    facts = await pool.probe_audio(file)
    await pool.render_audio(file, facts, seconds=Fraction(1089, 25), into=into)


def _measure(paths: list[Path], answer: Connection) -> None:
    import worker.__main__  # the daemon's own code, so that its memory is in the figure

    costs = [asyncio.run(_cost(path)) for path in paths]
    answer.send({"costs": costs, "daemon": peak_mib(os.getpid()), "code": worker.__main__.__name__})


def _write(directory: Path, name: str, answer: Connection) -> None:
    path = directory / name.partition(":")[0]
    path = path.with_name(f"{path.name}-{list(FILES).index(name)}")
    path.write_bytes(FILES[name]())
    answer.send({"path": path})


def main() -> int:
    """Make each file in a process of its own, measure all, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [in_a_process_of_its_own(_write, Path(folder), name)["path"] for name in FILES]
        sizes = [path.stat().st_size / MIB for path in paths]
        measured = in_a_process_of_its_own(_measure, paths)
    table = Table("file", "MiB", "peak RSS MiB", "seconds", "CPU s", "refused", title=load())
    for name, size, cost in zip(FILES, sizes, measured["costs"], strict=True):
        peak = f"{cost['peak']:.0f}" if cost["peak"] else "-"
        numbers = (f"{size:.2f}", peak, f"{cost['seconds']:.1f}", f"{cost['cpu']:.1f}")
        table.add_row(name, *numbers, cost["verdict"] or "-")
    Console(width=110 if not sys.stdout.isatty() else None).print(table)
    worst = max(cost["peak"] for cost in measured["costs"])
    first = measured["costs"][list(FILES).index(FIRST_LOOK)]
    beside = first["peak"] - first["code"]
    together = worst + beside + measured["daemon"]
    print(
        f"daemon {measured['daemon']:.0f} MiB + worst decoder {worst:.0f} MiB + worst first look "
        f"{beside:.0f} MiB (without shared code) = {together:.0f} MiB "
        f"(target: below {MACHINE_MIB} MiB)"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
