"""What people do meanwhile: insert, cancel, delete and retry by plain SQL."""

from __future__ import annotations

import asyncio
import random
import time
import uuid

import psycopg

from tests.world import World

BAD_MEDIA = 0.03


class People:
    """Inserts jobs over a while and meddles with some; remembers what was asked."""

    def __init__(self, world: World, rng: random.Random, *, jobs: int, seconds: float) -> None:
        self.inserted: list[str] = []
        self.cancelled: set[str] = set()
        self.deleted: set[str] = set()
        self.retried: set[str] = set()
        self.bad: set[str] = set()
        self._world = world
        self._rng = rng
        self._jobs = jobs
        self._seconds = seconds
        self._users = [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(8)]

    async def run(self) -> None:
        """Insert everything within the time, meddling as it goes."""
        began = time.monotonic()
        for number in range(self._jobs):
            due = began + self._seconds * number / self._jobs
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._insert()
            if self._rng.random() < 0.3:
                await self._meddle()

    async def _insert(self) -> None:
        job_id = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        values: dict[str, object] = {"id": job_id, "width": 480, "height": 832}
        if self._rng.random() < 0.5:
            values["user_id"] = self._rng.choice(self._users)
        if self._rng.random() < BAD_MEDIA:
            values["audio_url"] = self._world.audio_url + ".missing"
            self.bad.add(job_id)
        await self._sql_insert(values)
        self.inserted.append(job_id)

    async def _sql_insert(self, values: dict[str, object]) -> None:
        while True:
            try:
                await self._world.insert(**values)
                return
            except psycopg.errors.UniqueViolation:
                return
            except psycopg.OperationalError:
                await asyncio.sleep(0.2)

    async def _meddle(self) -> None:
        job_id = self._rng.choice(self.inserted[-6:])
        act = self._rng.choice([self._cancel, self._cancel, self._delete, self._retry])
        try:
            await act(job_id)
        except (psycopg.errors.RaiseException, psycopg.OperationalError):
            return  # refused with a sentence, or Postgres is restarting

    async def _cancel(self, job_id: str) -> None:
        self.cancelled.add(job_id)
        await self._world.sql(
            "update public.video_jobs set cancel_requested = true where id = %s", job_id
        )

    async def _delete(self, job_id: str) -> None:
        self.deleted.add(job_id)
        await self._world.sql("delete from public.video_jobs where id = %s", job_id)

    async def _retry(self, job_id: str) -> None:
        rows = await self._world.sql(
            "update public.video_jobs set status = 'queued' where id = %s "
            "and status in ('failed', 'cancelled') returning id", job_id
        )  # fmt: skip
        if rows:
            self.retried.add(job_id)
