"""The decoder processes: started when needed, reused, replaced after a failure, ended when idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import BinaryIO, Protocol, TypeVar

import structlog

from worker.jobs.errors import DecoderUnavailable, JobFailed
from worker.media.decoder.messages import DecoderFailure, Reason, Task
from worker.media.decoder_process import Budget, DecoderLimits, DecoderProcess
from worker.media.decoder_queue import Client
from worker.runtime.readiness import Readiness

T = TypeVar("T")
log = structlog.get_logger(__name__)

IDLE_SECONDS = 60.0
"""How long decoders without work are kept."""
PART = "decoders"
"""The pool's name in the reasons of /readyz."""
_NO_DECODER = "The file cannot be checked at the moment; the service keeps trying."


class Timer(Protocol):
    """A call that is planned."""

    def cancel(self) -> None: ...


Start = Callable[[DecoderLimits], Awaitable[DecoderProcess]]
Later = Callable[[float, Callable[[], None]], Timer]


def call_later(seconds: float, call: Callable[[], None]) -> Timer:
    """Plan a call by the event loop's clock."""
    return asyncio.get_running_loop().call_later(seconds, call)


class DecoderPool:
    """At most `most` decoders, as long as no more tasks are given at a time."""

    def __init__(
        self,
        limits: DecoderLimits,
        *,
        most: int,
        readiness: Readiness,
        start: Start,
        later: Later,
    ) -> None:
        self._limits = limits
        self._most = most
        self._readiness = readiness
        self._start = start
        self._later = later
        self._at_work = 0
        self._idle: list[DecoderProcess] = []
        self._killed: list[DecoderProcess] = []
        self._idle_timer: Timer | None = None
        self.lacking: tuple[str, ...] = ()
        self._closed = False

    async def run(
        self,
        task: Task[T],
        file: BinaryIO,
        into: BinaryIO | None,
        *,
        budget: Budget,
        client: Client,
        behind: bool,
        own: frozenset[Reason],
    ) -> T:
        """Work in a reused decoder; if that fails, a fresh one decides whose fault it was.

        Not if it failed for a reason of the file's `own`. With `behind` the process gives way to
        all others. Raise JobFailed if the file is refused, DecoderFailure if it is at fault, and
        DecoderUnavailable if no decoder can work.
        """
        self._stop_timer()
        self._at_work += 1
        try:
            return await self._first_or_second(task, file, into, budget, client, behind, own)
        except DecoderFailure as failure:
            if failure.reason == "machine":
                raise self._unavailable(str(failure)) from None
            raise
        finally:
            self._at_work -= 1
            self._start_timer()

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

    async def _first_or_second(
        self,
        task: Task[T],
        file: BinaryIO,
        into: BinaryIO | None,
        budget: Budget,
        client: Client,
        behind: bool,
        own: frozenset[Reason],
    ) -> T:
        reused = self._take_idle(behind)
        if reused is not None:
            try:
                return await self._work(reused, task, file, into, budget, client)
            except DecoderFailure as failure:
                log.info("decoder.failed", task=task.name, reason=str(failure), fresh=False)
                if failure.reason in own or failure.reason == "machine":
                    raise
        try:
            return await self._work(await self._fresh(behind), task, file, into, budget, client)
        except DecoderFailure as failure:
            level = logging.INFO if failure.reason in own else logging.WARNING
            log.log(level, "decoder.failed", task=task.name, reason=str(failure), fresh=True)
            raise

    def _take_idle(self, behind: bool) -> DecoderProcess | None:
        """Return a decoder without work; one that gives way cannot get its rank back."""
        for decoder in self._idle:
            if decoder.nice == behind:
                self._idle.remove(decoder)
                return decoder
        return None

    async def _work(
        self,
        decoder: DecoderProcess,
        task: Task[T],
        file: BinaryIO,
        into: BinaryIO | None,
        budget: Budget,
        client: Client,
    ) -> T:
        usable = False
        try:
            if into is not None:
                into.seek(0)
                into.truncate()
            result = await decoder.run(task, file, into, budget=budget)
            usable = True
            self._readiness.clear(PART)
            return result
        except JobFailed:
            usable = True
            raise
        except OSError as error:
            raise self._unavailable(error.strerror or type(error).__name__) from error
        finally:
            client.used += decoder.cpu_of_task
            if usable and not self._closed and decoder.jobs < self._limits.jobs:
                self._idle.append(decoder)
            else:
                self._discard(decoder)

    async def _fresh(self, behind: bool) -> DecoderProcess:
        while self._idle and len(self._idle) + self._at_work > self._most:
            self._discard(self._idle.pop(0))
        try:
            decoder = await self._start(self._limits)
        except DecoderUnavailable as error:
            raise self._unavailable(error.message) from error
        if decoder.lacking and decoder.lacking != self.lacking:
            log.warning("decoder.less_confined", lacking=list(decoder.lacking))
        self.lacking = decoder.lacking
        if behind:
            decoder.give_way()
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
