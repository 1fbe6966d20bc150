"""The few threads that decode media, and the first look at a file's bytes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, TypeVar

from worker.jobs.errors import JobFailed, WorkerError
from worker.media.addresses import Kind

T = TypeVar("T")
U = TypeVar("U")
Stopped = Callable[[], bool]
"""Asked between two steps of long work: is the result still wanted?"""


class WorkStopped(Exception):
    """The work was given up because nobody waits for its result."""


def never() -> bool:
    """For work that nobody cancels."""
    return False


class MediaThreads:
    """Runs blocking media work on threads of its own, images one at a time."""

    def __init__(self, workers: int = 2) -> None:
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="media")
        self._one_image = asyncio.Semaphore(1)

    async def run(self, work: Callable[[Stopped], T]) -> T:
        """Run `work` on a thread; a cancelled caller stops it and waits until it let go."""
        stop = threading.Event()
        job = self._pool.submit(work, stop.is_set)
        future = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            if not job.cancel():
                # The thread still reads the caller's file; closing that under it would be worse
                # than waiting for the packet in hand.
                await asyncio.wait({future})
                if not future.cancelled():
                    future.exception()
            raise

    async def run_image(self, work: Callable[[Stopped], T]) -> T:
        """Like `run`, with never two images in memory at once."""
        async with self._one_image:
            return await self.run(work)

    def close(self) -> None:
        """Give the threads up; work in hand ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def refuse_text(file: BinaryIO, *, kind: Kind) -> None:
    """Refuse an empty file and a web page, each with the sentence that helps; rewinds the file."""
    file.seek(0)
    head = file.read(1024)
    file.seek(0)
    if not head:
        raise JobFailed(f"{kind}_unreadable", f"The {kind} file is empty.")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--")):
        raise JobFailed(
            f"{kind}_unreadable",
            f"The {kind} link points to a web page; use a direct download link.",
        )
    if start.startswith((b"<?xml", b"<error", b"{", b"[playlist]", b"#extm3u")):
        raise JobFailed(
            f"{kind}_unreadable",
            f"The {kind} file holds text, such as an error page or a playlist.",
        )


async def both(first: Coroutine[None, None, T], second: Coroutine[None, None, U]) -> tuple[T, U]:
    """Wait for both; a failure stops the other one, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            one, other = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as errors:
        failure = _foremost(errors)
    else:
        return one.result(), other.result()
    # Raised out here, so that the error does not drag the group that it was in behind it.
    raise failure


def _foremost(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report: one that ends the job before one that may pass, a defect before all."""
    flat = list(_flatten(errors))
    for error in flat:
        if not isinstance(error, WorkerError):
            return error
    for error in flat:
        if isinstance(error, JobFailed):
            return error
    return flat[0]


def _flatten(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in errors.exceptions:
        found.extend(_flatten(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
