"""Decodes media in confined processes: a first look for everybody, a second for costly files."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import BinaryIO, TypeVar

from worker.jobs.errors import DecodersBusy, JobFailed
from worker.media.decoder.messages import (
    DecoderFailure,
    Reason,
    Task,
    probe_audio_task,
    probe_image_task,
    render_audio_task,
    render_image_task,
)
from worker.media.decoder_pool import DecoderPool, Later, Start, call_later
from worker.media.decoder_process import Budget, DecoderLimits, start_decoder
from worker.media.decoder_queue import (
    QUICK_CPU_SECONDS,
    Client,
    DecoderQueue,
    first_look_seconds,
)
from worker.media.first_look import Kind
from worker.plan.media_facts import MOST_SECONDS, AudioFacts, ImageFacts
from worker.plan.policy import ImageFit
from worker.plan.sizes import Size
from worker.runtime.readiness import Readiness

T = TypeVar("T")

QUICK_WALL_SECONDS = 20.0
"""What a first look may take beside QUICK_CPU_SECONDS."""
QUICK_PIXELS = 12_200_000
"""Larger pictures are costly for their memory: beside one, the machine bears one of this size."""
MOST_COSTLY_WAITING = 3
"""How many costly files may wait for their place without giving up their job's."""
LONGEST_BUSY_SECONDS = 300.0
# Reasons that are a file's own in whichever decoder; after a first look these ask for more time.
_OWN: frozenset[Reason] = frozenset({"cpu"})
_MORE: frozenset[Reason] = frozenset({"cpu", "time"})
_TOO_COMPLEX = {"memory": "memory", "cpu": "computing time", "time": "time"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One way of decoding a file; the `last` one decides about it."""

    budget: Budget
    costly: bool
    last: bool


class _CostsMoreError(Exception):
    """A file needs more than a first look may take."""


class Decoders:
    """At most `limits.processes` decoders; fair between users, and costly files apart.

    A first look may take QUICK_CPU_SECONDS, less while many wait, and QUICK_PIXELS. What needs more
    is decoded from its start once more, with all of its limits, in the one place for costly files;
    one core is shared by two processes for that.

    Each method raises JobFailed if the file cannot be decoded within the limits, DecodersBusy if
    too many costly files wait, and DecoderUnavailable if no decoder can work: then the job waits.
    Cancelling a caller ends the decoder that works for it.
    """

    def __init__(
        self,
        limits: DecoderLimits | None = None,
        *,
        readiness: Readiness | None = None,
        start: Start = start_decoder,
        later: Later = call_later,
    ) -> None:
        self._limits = limits or DecoderLimits()
        cores = max(len(os.sched_getaffinity(0)), 2)
        places = max(1, min(self._limits.processes, cores))
        self._queue = DecoderQueue(places)
        self._pool = DecoderPool(
            self._limits,
            most=places,
            readiness=readiness or Readiness(),
            start=start,
            later=later,
        )
        whole = Budget(cpu_seconds=self._limits.cpu_seconds, wall_seconds=self._limits.wall_seconds)
        self._whole = _Look(budget=whole, costly=True, last=True)
        self._first = _Look(
            budget=Budget(
                cpu_seconds=QUICK_CPU_SECONDS,
                wall_seconds=min(QUICK_WALL_SECONDS, whole.wall_seconds),
            ),
            costly=False,
            last=False,
        )
        if places == 1 or whole.cpu_seconds <= QUICK_CPU_SECONDS:
            self._first = _Look(budget=whole, costly=False, last=True)
        # Until when the place for costly files is promised, by the event loop's clock.
        self._promised = 0.0

    @property
    def lacking(self) -> tuple[str, ...]:
        """The layers of confinement that the kernel does not have."""
        return self._pool.lacking

    async def probe_image(
        self, file: BinaryIO, *, max_pixels: int, client: Client | None = None
    ) -> ImageFacts:
        """Return the facts of an image file."""
        first = probe_image_task(max_pixels=self._first_pixels(max_pixels))
        return await self._run(first, probe_image_task(max_pixels=max_pixels), file, None, client)

    async def probe_audio(
        self,
        file: BinaryIO,
        *,
        max_seconds: Fraction = MOST_SECONDS,
        client: Client | None = None,
    ) -> AudioFacts:
        """Return the facts of an audio file of at most `max_seconds`."""
        task = probe_audio_task(max_seconds=max_seconds)
        return await self._run(task, task, file, None, client)

    async def render_image(
        self,
        file: BinaryIO,
        *,
        size: Size,
        fit: ImageFit,
        max_pixels: int,
        into: BinaryIO,
        client: Client | None = None,
    ) -> None:
        """Write an upright sRGB JPEG of exactly `size` into an empty file; rewind it."""
        most = self._first_pixels(max_pixels)
        first = render_image_task(size=size, fit=fit, max_pixels=most)
        whole = render_image_task(size=size, fit=fit, max_pixels=max_pixels)
        await self._run(first, whole, file, into, client)

    async def render_audio(
        self,
        file: BinaryIO,
        facts: AudioFacts,
        *,
        seconds: Fraction,
        into: BinaryIO,
        client: Client | None = None,
    ) -> None:
        """Write a FLAC of exactly `seconds` into an empty file; rewind it."""
        task = render_audio_task(facts, seconds=seconds)
        await self._run(task, task, file, into, client)

    def close(self) -> None:
        """End all decoders without work, and each other one when its work ends."""
        self._pool.close()

    def _first_pixels(self, max_pixels: int) -> int:
        return max_pixels if self._first.last else min(max_pixels, QUICK_PIXELS)

    async def _run(
        self,
        first: Task[T],
        whole: Task[T],
        file: BinaryIO,
        into: BinaryIO | None,
        client: Client | None,
    ) -> T:
        client = client or Client()
        try:
            if first.kind not in client.costly:
                try:
                    result = await self._in_place(first, file, into, self._first, client)
                except _CostsMoreError:
                    client.costly.add(first.kind)
                else:
                    client.proven = True
                    return result
            self._refuse_if_crowded(first.kind)
            return await self._in_place(whole, file, into, self._whole, client)
        finally:
            if into is not None:
                into.seek(0)

    async def _in_place(
        self, task: Task[T], file: BinaryIO, into: BinaryIO | None, look: _Look, client: Client
    ) -> T:
        async with self._queue.place(client, task.kind, costly=look.costly):
            budget = look.budget
            if not look.last:
                most = first_look_seconds(self._queue.first_looks_waiting)
                budget = replace(budget, cpu_seconds=most)
            try:
                return await self._pool.run(
                    task,
                    file,
                    into,
                    budget=budget,
                    client=client,
                    behind=look.costly,
                    own=_OWN if look.last else _MORE,
                )
            except DecoderFailure as failure:
                if not look.last and failure.reason in _MORE:
                    raise _CostsMoreError from None
                raise _fault_of_the_file(task.kind, failure) from None
            except JobFailed as error:
                if not look.last and error.code == "image_too_large":
                    raise _CostsMoreError from None
                raise

    def _refuse_if_crowded(self, kind: Kind) -> None:
        """Give the job's place back while other costly files wait, and say when to come again."""
        if self._queue.costly_waiting < MOST_COSTLY_WAITING:
            return
        now = asyncio.get_running_loop().time()
        ahead = now + self._queue.costly_waiting * self._limits.cpu_seconds
        self._promised = max(self._promised, ahead) + self._limits.cpu_seconds
        wait = min(self._promised - now, LONGEST_BUSY_SECONDS)
        raise DecodersBusy(
            f"The {kind} takes long to check, and other such files are before it.", retry_in=wait
        )


def _fault_of_the_file(kind: Kind, failure: DecoderFailure) -> JobFailed:
    """Return what the job ends with: a new process, which had no other file, failed on it."""
    short: dict[Kind, str] = {"image": "picture", "audio": "recording"}
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
