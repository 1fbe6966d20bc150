"""One claimed row on its way to RunPod, and the task that works on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from worker.jobs.job import Case, Job


@dataclass(slots=True, eq=False)
class Claim:
    """A row in our name; `began` is the dispatcher's clock.

    `posting`: POST /run may be under way, so the work must not be interrupted. `committed`: its
    submission is in the table. `sent`: POST /run may have left. `answered`: how it ends is known
    and only to be written. `released`: the work is to stop; nothing may be sent any more.
    """

    case: Case
    job: Job
    began: float
    task: asyncio.Task[None] | None = None
    running: bool = False
    released: bool = False
    posting: bool = False
    committed: bool = False
    sent: bool = False
    answered: bool = False

    def release(self) -> None:
        """Stop the work; a task that has not begun could not clean up if it were cancelled."""
        self.released = True
        if self.running and self.task is not None:
            self.task.cancel()
