"""Decodes media in a small pool of confined processes, and decides who is to blame if one ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from fractions import Fraction
from typing import Any, BinaryIO, Protocol, TypeVar

import structlog

from worker.jobs.errors import DecoderUnavailable, JobFailed
from worker.media.decoder.messages import (
    DecoderFailure,
    Task,
    probe_audio_task,
    probe_image_task,
    render_audio_task,
    render_image_task,
)
from worker.media.decoder_process import DecoderLimits, DecoderProcess, start_decoder
from worker.media.first_look import Kind
from worker.plan.media_facts import MOST_SECONDS, AudioFacts, ImageFacts
from worker.plan.policy import ImageFit
from worker.plan.sizes import Size
from worker.runtime.readiness import Readiness

T = TypeVar("T")
log = structlog.get_logger(__name__)

IDLE_SECONDS = 60.0
"""How long decoders without work are kept."""
PART = "decoders"
"""The pool's name in the reasons of /readyz."""
_NO_DECODER = "The file cannot be checked at the moment; the service keeps trying."
_TOO_COMPLEX = {"memory": "memory", "cpu": "computing time", "time": "time"}


class Timer(Protocol):
    """A call that is planned."""

    def cancel(self) -> None: ...


Start = Callable[[DecoderLimits], Awaitable[DecoderProcess]]
Later = Callable[[float, Callable[[], None]], Timer]


def _later(seconds: float, call: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, call)


class Decoders:
    """At most `limits.processes` decoders, never more than cores; one image at a time.

    Each method raises JobFailed if the file cannot be decoded within the limits, and
    DecoderUnavailable if no decoder can be started: then the job waits. Cancelling a caller ends
    the decoder that works for it.
    """

    def __init__(
        self,
        limits: DecoderLimits | None = None,
        *,
        readiness: Readiness | None = None,
        start: Start = start_decoder,
        later: Later = _later,
    ) -> None:
        self._limits = limits or DecoderLimits()
        self._readiness = readiness or Readiness()
        self._start = start
        self._later = later
        cores = len(os.sched_getaffinity(0))
        self._places = asyncio.Semaphore(max(1, min(self._limits.processes, cores)))
        self._one_image = asyncio.Semaphore(1)
        self._idle: list[DecoderProcess] = []
        self._killed: list[DecoderProcess] = []
        self._idle_timer: Timer | None = None
        self._lacking: tuple[str, ...] = ()
        self._closed = False

    @property
    def lacking(self) -> tuple[str, ...]:
        """The layers of confinement that the kernel does not have."""
        return self._lacking

    async def probe_image(self, file: BinaryIO, *, max_pixels: int) -> ImageFacts:
        """Return the facts of an image file."""
        return await self._run(probe_image_task(max_pixels=max_pixels), file)

    async def probe_audio(
        self, file: BinaryIO, *, max_seconds: Fraction = MOST_SECONDS
    ) -> AudioFacts:
        """Return the facts of an audio file of at most `max_seconds`."""
        return await self._run(probe_audio_task(max_seconds=max_seconds), file)

    async def render_image(
        self, file: BinaryIO, *, size: Size, fit: ImageFit, max_pixels: int, into: BinaryIO
    ) -> None:
        """Write an upright sRGB JPEG of exactly `size` into an empty file; rewind it."""
        task = render_image_task(size=size, fit=fit, max_pixels=max_pixels)
        await self._run(task, file, into)

    async def render_audio(
        self, file: BinaryIO, facts: AudioFacts, *, seconds: Fraction, into: BinaryIO
    ) -> None:
        """Write a FLAC of exactly `seconds` into an empty file; rewind it."""
        await self._run(render_audio_task(facts, seconds=seconds), file, into)

    def end_idle(self) -> None:
        """End all decoders that have no work."""
        while self._idle:
            self._discard(self._idle.pop())

    def close(self) -> None:
        """End all decoders without work, and each other one when its work ends."""
        self._closed = True
        self._stop_timer()
        self.end_idle()
        for decoder in self._killed:
            decoder.wait()
        self._killed.clear()

    async def _run(self, task: Task[T], file: BinaryIO, into: BinaryIO | None = None) -> T:
        async with AsyncExitStack() as stack:
            if task.kind == "image":
                await stack.enter_async_context(self._one_image)
            await stack.enter_async_context(self._places)
            self._stop_timer()
            try:
                return await self._first_or_second(task, file, into)
            finally:
                if into is not None:
                    into.seek(0)
                self._start_timer()

    async def _first_or_second(self, task: Task[T], file: BinaryIO, into: BinaryIO | None) -> T:
        """Work in a reused decoder; if that fails, a fresh one decides whose fault it was."""
        if self._idle:
            try:
                return await self._work(self._idle.pop(), task, file, into)
            except DecoderFailure as failure:
                log.info("decoder.failed", task=task.name, reason=str(failure), fresh=False)
        try:
            return await self._work(await self._fresh(), task, file, into)
        except DecoderFailure as failure:
            log.warning("decoder.failed", task=task.name, reason=str(failure), fresh=True)
            if failure.reason == "machine":
                raise self._unavailable(str(failure)) from None
            raise _fault_of_the_file(task.kind, failure) from None

    async def _work(
        self, decoder: DecoderProcess, task: Task[T], file: BinaryIO, into: BinaryIO | None
    ) -> T:
        usable = False
        try:
            if into is not None:
                into.seek(0)
                into.truncate()
            result = await decoder.run(task, file, into, seconds=self._limits.wall_seconds)
            usable = True
            self._readiness.clear(PART)
            return result
        except JobFailed:
            usable = True
            raise
        except OSError as error:
            raise self._unavailable(error.strerror or type(error).__name__) from error
        finally:
            if usable and not self._closed and decoder.jobs < self._limits.jobs:
                self._idle.append(decoder)
            else:
                self._discard(decoder)

    async def _fresh(self) -> DecoderProcess:
        try:
            decoder = await self._start(self._limits)
        except DecoderUnavailable as error:
            raise self._unavailable(error.message) from error
        if decoder.lacking and decoder.lacking != self._lacking:
            log.warning("decoder.less_confined", lacking=list(decoder.lacking))
        self._lacking = decoder.lacking
        return decoder

    def _unavailable(self, reason: str) -> DecoderUnavailable:
        if self._readiness.report(PART, f"No decoder can work: {reason}."):
            log.error("decoder.unavailable", reason=reason)
        return DecoderUnavailable(_NO_DECODER)

    def _discard(self, decoder: DecoderProcess) -> None:
        decoder.kill()
        if self._closed:
            decoder.wait()
        self._killed = [killed for killed in (*self._killed, decoder) if not killed.reaped()]

    def _start_timer(self) -> None:
        self._stop_timer()
        if self._idle:
            self._idle_timer = self._later(IDLE_SECONDS, self.end_idle)

    def _stop_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None


def _fault_of_the_file(kind: Kind, failure: DecoderFailure) -> JobFailed:
    """Return what the job ends with: a new process, which had no other file, failed on it."""
    short: dict[str, Any] = {"image": "picture", "audio": "recording"}
    if failure.reason in _TOO_COMPLEX:
        return JobFailed(
            f"{kind}_too_complex",
            f"Decoding the {kind} takes more {_TOO_COMPLEX[failure.reason]} than is permitted: "
            f"export the {short[kind]} again in a common format.",
        )
    return JobFailed(
        f"{kind}_unreadable",
        f"The {kind} is damaged: a decoder stopped working on it. "
        f"Export the {short[kind]} again in a common format.",
    )
