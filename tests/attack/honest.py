"""Honest people meanwhile: one job each, and the time from its INSERT to its POST /run."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tests.attack.scene import TERMINAL
from tests.world import World

LOOK_SECONDS = 0.05


@dataclass(slots=True)
class HonestJob:
    """A job of somebody else; instants are of the monotonic clock.

    `in_line` are the seconds from its INSERT to the claim with which it was submitted.
    """

    id: str
    inserted: float
    submitted: float | None = None
    in_line: float = 0.0
    error_code: str | None = None

    @property
    def delay(self) -> float | None:
        """The seconds from its INSERT to its POST /run; None while there is none."""
        return None if self.submitted is None else self.submitted - self.inserted


async def insert_honest(world: World, **inputs: object) -> HonestJob:
    """Insert a job of a new user."""
    job_id = await world.insert(user_id=str(uuid4()), **inputs)
    return HonestJob(id=job_id, inserted=time.monotonic())


async def until_submitted(world: World, job: HonestJob, seconds: float) -> None:
    """Wait until RunPod has the job, or until it has waited so long or has failed."""
    while time.monotonic() - job.inserted < seconds:
        runs: list[Any] = world.runs_of(job.id)
        if runs:
            job.submitted = runs[0].submitted_at
            row = await world.job(job.id)
            job.in_line = (row["claimed_at"] - row["created_at"]).total_seconds()
            return
        row = await world.job(job.id)
        job.error_code = row["error_code"]
        if row["status"] in TERMINAL:
            return
        await asyncio.sleep(LOOK_SECONDS)


async def until_ended(world: World, jobs: list[HonestJob], seconds: float) -> None:
    """Wait until all have ended, and keep the error codes of those that failed."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        rows = [await world.job(job.id) for job in jobs]
        for job, row in zip(jobs, rows, strict=True):
            job.error_code = row["error_code"]
        if all(row["status"] in TERMINAL for row in rows):
            return
        await asyncio.sleep(0.5)
