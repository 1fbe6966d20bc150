"""What an attack acts on: a world with one daemon like the shipped one, and hostile rows in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import psycopg

from benchmarks._rig import PRODUCTION
from tests.attack.machine import MemoryGroup, on_one_core
from tests.data.media.hosts import Answer, host
from tests.world import Daemon, World

RUNS = {"run_seconds_min": 1.0, "run_seconds_max": 1.0}
TERMINAL = ("completed", "failed", "cancelled")
TOP_UP_SECONDS = 0.5


@dataclass(slots=True)
class Scene:
    """A world, its daemon, a hostile host with its answers, and what the attackers did.

    `noted` is what is printed of an attack beside the ends of its rows; `broken` what must not be.
    """

    world: World
    daemon: Daemon
    host: str
    answers: dict[str, Answer]
    hostile: list[str] = field(default_factory=list)
    noted: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    @property
    def begun(self) -> bool:
        """Whether the attackers have done anything yet: some files take long to make."""
        return bool(self.hostile or self.noted)

    @property
    def http_port(self) -> int:
        return self.daemon.port

    async def insert_hostile(self, user: str | None = None, **values: object) -> str:
        """Insert a row of an attacker, without a user given of a new one."""
        job_id = await self.world.insert(user_id=user or str(uuid4()), **values)
        self.hostile.append(job_id)
        return job_id

    async def keep_up(self, make: Callable[[int], Mapping[str, str]], at_once: int) -> None:
        """Keep so many hostile rows open, each of a new user, until cancelled."""
        number = 0
        while True:
            for _ in range(at_once - await self.open_hostile()):
                await self.insert_hostile(**make(number))
                number += 1
            await asyncio.sleep(TOP_UP_SECONDS)

    async def open_hostile(self) -> int:
        """Return how many hostile rows have not ended."""
        (row,) = await self.world.sql(
            "select count(*) as n from public.video_jobs where id = any(%s::uuid[]) "
            "and status <> all (%s)", self.hostile, list(TERMINAL)
        )  # fmt: skip
        return int(row["n"])

    async def became(self) -> Counter[str]:
        """Return how the hostile rows ended, or what they wait for, with their numbers."""
        rows = await self.world.sql(
            "select coalesce(error_code, status) as what, count(*) as n from public.video_jobs "
            "where id = any(%s::uuid[]) group by 1", self.hostile
        )  # fmt: skip
        return Counter({row["what"]: row["n"] for row in rows}) + self.noted

    async def as_browser(self, user: str, query: str, *values: object) -> int:
        """Run a statement as PostgREST does for a user; return the number of rows.

        A refusal is noted by its first words, and returned as -1.
        """
        url = self.world.stack.database_url
        claims = json.dumps({"role": "authenticated", "sub": user})
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute(
                "select set_config('role', 'authenticated', true), "
                "set_config('request.jwt.claims', %s, true)",
                [claims],
            )
            try:
                return (await connection.execute(query.encode(), values)).rowcount
            except psycopg.errors.RaiseException:
                self.noted["statements refused"] += 1
                return -1

    async def readyz(self, seconds: float = 10) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the body of /readyz."""
        async with httpx.AsyncClient(trust_env=False, timeout=seconds) as http:
            answer = await http.get(f"http://127.0.0.1:{self.http_port}/readyz")
            return answer.status_code, answer.json()


@contextlib.asynccontextmanager
async def staged(
    world: World, *, group: MemoryGroup | None, one_core: bool, **settings: str
) -> AsyncIterator[Scene]:
    """Start the daemon on its machine, with a host that rows may name beside the stack's."""
    answers: dict[str, Answer] = {}
    async with host(answers) as site:
        address = f"127.0.0.1:{site.port}"
        allowed = f"{world.stack.env['INPUT_ALLOW_PRIVATE_HOSTS']},{address}"
        daemon = world.daemon(**PRODUCTION | {"INPUT_ALLOW_PRIVATE_HOSTS": allowed} | settings)
        await daemon.start()
        # Before it has made anything: a group counts only what its processes take in it.
        if group is not None:
            group.add(daemon.pid)
        if one_core:
            on_one_core(daemon.pid)
        await daemon.ready(60)
        try:
            yield Scene(world, daemon, f"http://{address}", answers)
        finally:
            await daemon.kill()
