"""Feeds files to the header readers and to real decoders, and says what must not happen."""

from __future__ import annotations

import io
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO

from worker.jobs.errors import JobFailed
from worker.media.audio_costs import flac_stream, refuse_costly_audio, wav_stream
from worker.media.audio_header import caf_is_cut
from worker.media.decoder.messages import (
    DecoderFailure,
    Task,
    probe_audio_task,
    probe_image_task,
    render_audio_task,
    render_image_task,
)
from worker.media.decoder_process import Budget, DecoderLimits, DecoderProcess, start_decoder
from worker.media.first_look import Kind, refuse_text
from worker.media.image_costs import jpeg_scans, refuse_costly_image, webp_size
from worker.media.mp4_end import is_mp4, mp4_end
from worker.media.mp4_tables import claims_too_much
from worker.media.ogg_pages import ogg_end
from worker.media.webm_end import webm_is_cut
from worker.plan.media_facts import MOST_SECONDS

MIB = 1024 * 1024
MAX_PIXELS = 50_000_000
SIZE = (480, 832)
LIMITS = DecoderLimits(cpu_seconds=4, wall_seconds=60.0)
# What a header reader may take for a file of at most 1 MiB.
READER_CPU_SECONDS = 2.0
READER_BYTES = 16 * MIB
# Together with what the mutations themselves leave behind.
GROWTH_MIB = 64
MACHINE_TRIES = 3
Reader = Callable[[BinaryIO], object]

READERS: dict[str, Reader] = {
    "refuse_text": lambda file: refuse_text(file, kind="image"),
    "refuse_costly_image": lambda file: refuse_costly_image(file, max_pixels=MAX_PIXELS),
    "refuse_costly_audio": lambda file: refuse_costly_audio(file, max_seconds=MOST_SECONDS),
    "jpeg_scans": lambda file: jpeg_scans(file),
    "webp_size": lambda file: webp_size(file.read(32)),
    "flac_stream": lambda file: flac_stream(file.read(64)),
    "wav_stream": lambda file: wav_stream(file),
    "claims_too_much": lambda file: claims_too_much(file),
    "is_mp4": lambda file: is_mp4(file.read(8)),
    "mp4_end": lambda file: mp4_end(file),
    "ogg_end": lambda file: ogg_end(file),
    "webm_is_cut": lambda file: webm_is_cut(file),
    "caf_is_cut": lambda file: caf_is_cut(file),
}


@dataclass(slots=True)
class Harness:
    """One decoder that is reused as the daemon reuses it, and counts of what became of files."""

    start: Callable[[DecoderLimits], Any] = start_decoder
    readers: dict[str, Reader] = field(default_factory=lambda: dict(READERS))
    outcomes: Counter[str] = field(default_factory=Counter)
    _decoder: DecoderProcess | None = None

    async def findings(self, data: bytes, kind: Kind) -> list[str]:
        """Return what must not happen with this file, each in a sentence."""
        found = [text for name, read in self.readers.items() if (text := _read(name, read, data))]
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            text = await self._decode(file, kind)
        return [*found, text] if text else found

    def close(self) -> None:
        """End the decoder."""
        if self._decoder is not None:
            self._decoder.kill()
            self._decoder.wait()
            self._decoder = None

    async def _decode(self, file: BinaryIO, kind: Kind) -> str | None:
        """Probe and render as for a job; return what is wrong, or None."""
        first = probe_image_task(max_pixels=MAX_PIXELS) if kind == "image" else probe_audio_task()
        facts, wrong = await self._run(first, file, None)
        if facts is None:
            return wrong
        if kind == "image":
            second: Task[None] = render_image_task(size=SIZE, fit="blur", max_pixels=MAX_PIXELS)
        else:
            second = render_audio_task(facts, seconds=Fraction(81, 25))
        with tempfile.TemporaryFile() as into:
            _, wrong = await self._run(second, file, into)
        return wrong

    async def _run(
        self, task: Task[Any], file: BinaryIO, into: BinaryIO | None
    ) -> tuple[Any, str | None]:
        """Return the result of a task, and what is wrong with how it ended."""
        reason = ""
        # A decoder that fails after other files decides nothing: a fresh one is asked.
        for fresh in (False, *[True] * MACHINE_TRIES):
            try:
                result = await self._work(task, file, into, fresh)
            except JobFailed as error:
                self.outcomes[f"refused: {error.code}"] += 1
                return None, None
            except DecoderFailure as failure:
                self.close()
                reason = str(failure)
                if failure.reason in ("memory", "cpu"):
                    self.outcomes[f"limit: {failure.reason}"] += 1
                    return None, None
                if failure.reason != "machine" and fresh:
                    break
            else:
                self.outcomes[f"done: {task.name}"] += 1
                return result, None
        self.outcomes["finding"] += 1
        return None, f"{task.name}: {reason}"

    async def _work(
        self, task: Task[Any], file: BinaryIO, into: BinaryIO | None, fresh: bool
    ) -> Any:
        if fresh or (self._decoder is not None and self._decoder.jobs >= LIMITS.jobs):
            self.close()
        if self._decoder is None:
            self._decoder = await self.start(LIMITS)
        if into is not None:
            into.seek(0)
            into.truncate()
        budget = Budget(cpu_seconds=LIMITS.cpu_seconds, wall_seconds=LIMITS.wall_seconds)
        return await self._decoder.run(task, file, into, budget=budget)


@asynccontextmanager
async def harness(**options: Any) -> AsyncIterator[Harness]:
    """Make a harness and end its decoder."""
    made = Harness(**options)
    try:
        yield made
    finally:
        made.close()


def _read(name: str, read: Reader, data: bytes) -> str | None:
    """Run one header reader; return what is wrong, or None."""
    tracemalloc.start()
    began = time.process_time()
    try:
        read(io.BytesIO(data))
    except JobFailed:
        pass
    except Exception as error:  # noqa: BLE001 - each of them is what is looked for
        return f"{name}: {type(error).__name__}: {error}"
    finally:
        seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    if seconds > READER_CPU_SECONDS:
        return f"{name}: took {seconds:.1f} CPU seconds"
    return f"{name}: took {peak / MIB:.0f} MiB" if peak > READER_BYTES else None
