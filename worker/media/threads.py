"""The threads that decode media, and a first check of a file's bytes."""

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
"""Called between two steps of long work; true if nobody waits for its result any more."""


class WorkStopped(Exception):
    """The work ended early, because nobody waits for its result."""


def never() -> bool:
    """Return false: for work that nobody cancels."""
    return False


class MediaThreads:
    """Runs blocking media work on its own threads; only one image at a time."""

    def __init__(self, workers: int = 2) -> None:
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="media")
        self._one_image = asyncio.Semaphore(1)

    async def run(self, work: Callable[[Stopped], T]) -> T:
        """Return what `work` returns on a thread; cancelling stops the work and waits for it."""
        stop = threading.Event()
        job = self._pool.submit(work, stop.is_set)
        future = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            if not job.cancel():
                # The thread still reads the caller's file, which must stay open until the thread
                # has finished its current step.
                await asyncio.wait({future})
                if not future.cancelled():
                    future.exception()
            raise

    async def run_image(self, work: Callable[[Stopped], T]) -> T:
        """Return what `work` returns; only one image is in memory at a time."""
        async with self._one_image:
            return await self.run(work)

    def close(self) -> None:
        """Start no more work; running work ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def refuse_text(file: BinaryIO, *, kind: Kind) -> None:
    """Raise JobFailed for an empty file, a web page or other text; rewind the file."""
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
            f"The {kind} file contains text, such as an error page or a playlist.",
        )


async def both(first: Coroutine[None, None, T], second: Coroutine[None, None, U]) -> tuple[T, U]:
    """Return both results; if one fails, cancel the other and raise the error itself."""
    try:
        async with asyncio.TaskGroup() as group:
            first_task, second_task = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as errors:
        failure = _most_important(errors)
    else:
        return first_task.result(), second_task.result()
    # Raised here, after the except block, so that the error does not keep the group as context.
    raise failure


def _most_important(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error to report: a defect, else an error that ends the job, else the first."""
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
