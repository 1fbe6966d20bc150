"""Runs two pieces of work at the same time; the more important of two errors is raised."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from worker.jobs.errors import JobFailed, WorkerError

T = TypeVar("T")
U = TypeVar("U")


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
