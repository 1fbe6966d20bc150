"""What goes wrong: each fault lasts a while and is undone again."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import psycopg

from tests.world import Daemon, World

RPC = r"/rest/v1/rpc/"
RETENTION_SECONDS = 6.0


class Mischief:
    """Draws faults from a seed, one after the other or two at a time."""

    def __init__(self, world: World, daemons: list[Daemon], rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self._world = world
        self._daemons = daemons
        self._rng = rng
        # With the table away for longer than a result lives, only memory holds it: then no kills.
        self._memory_matters = asyncio.Lock()
        self._faults: list[tuple[str, int, Callable[[], Awaitable[None]]]] = [
            ("worker SIGKILL", 6, self._kill),
            ("worker SIGTERM", 3, self._terminate),
            ("worker frozen", 3, self._freeze),
            ("gateway 5xx", 4, lambda: self._gateway(action="status", probability=0.4)),
            ("gateway cut after commit", 4,
             lambda: self._gateway(action="drop", when="after", probability=0.3)),
            ("gateway slow", 2, lambda: self._gateway(action="delay", seconds=0.7)),
            ("Supabase away, longer than results live", 1, self._supabase_away),
            ("Postgres restarted", 1, self._restart_postgres),
            ("Realtime dropped", 2, self._realtime_dropped),
            ("Realtime frozen", 1, lambda: self._realtime(freeze=True)),
            ("Realtime lossy", 2, lambda: self._realtime(lossy=0.5)),
            ("Realtime mute", 2, lambda: self._realtime(mute=True)),
            ("Realtime token expired", 1, self._realtime_expired),
            ("RunPod 429", 2, lambda: self._runpod("/run$", action="status", status=429)),
            ("RunPod 500 to /run", 2, lambda: self._runpod("/run$", action="status", status=500)),
            ("RunPod cut after accepting", 4,
             lambda: self._runpod("/run$", action="drop", when="after", times=3)),
            ("RunPod 502 after accepting", 3,
             lambda: self._runpod("/run$", action="status", when="after", status=502, times=3)),
            ("RunPod /status 5xx", 2,
             lambda: self._runpod("/status/", action="status", status=503)),
            ("RunPod 404 for everything", 1, self._everything_unknown),
            ("RunPod key refused", 1, lambda: self._runpod("/v2/", action="status", status=401)),
        ]  # fmt: skip

    async def run(self, until: float) -> None:
        """Make mischief until then (monotonic seconds)."""
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(self._stream(until))

    async def _stream(self, until: float) -> None:
        names = [one[0] for one in self._faults]
        weights = [one[1] for one in self._faults]
        acts = {name: act for name, _, act in self._faults}
        while time.monotonic() < until:
            await asyncio.sleep(self._rng.uniform(0.2, 1.5))
            name = self._rng.choices(names, weights)[0]
            self.counts[name] += 1
            await acts[name]()

    def _some_daemon(self) -> Daemon | None:
        alive = [one for one in self._daemons if one.alive]
        return self._rng.choice(alive) if len(alive) == len(self._daemons) else None

    async def _kill(self) -> None:
        async with self._memory_matters:
            daemon = self._some_daemon()
            if daemon is None:
                return
            owner = daemon.owner()
            await daemon.kill()
            await asyncio.sleep(self._rng.uniform(0.0, 1.0))
            await daemon.start()
        await self._watch_recovery(owner)

    async def _watch_recovery(self, owner: str | None) -> None:
        """How long the dead process' rows stay in its hands, from its restart on."""
        began = time.monotonic()
        query = "select count(*) as n from public.video_jobs where lease_owner::text = %s"
        while time.monotonic() - began < 60:
            try:
                if not (await self._world.sql(query, owner))[0]["n"]:
                    break
            except psycopg.Error:  # Postgres may just be restarting
                pass
            await asyncio.sleep(0.2)
        self.recoveries.append(time.monotonic() - began)

    async def _terminate(self) -> None:
        async with self._memory_matters:
            daemon = self._some_daemon()
            if daemon is None or daemon.process is None:
                return
            daemon.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(daemon.process.wait(), 70)
            except TimeoutError:
                await daemon.kill()
                self.counts["SIGTERM that took over 70 s"] += 1
            if daemon.process.returncode not in (0, -15):
                self.counts[f"SIGTERM exit {daemon.process.returncode}"] += 1
            await daemon.start()

    async def _freeze(self) -> None:
        async with self._memory_matters:
            daemon = self._some_daemon()
            if daemon is None:
                return
            daemon.signal(signal.SIGSTOP)
            await asyncio.sleep(self._rng.uniform(1.0, 8.0))
            daemon.signal(signal.SIGCONT)

    async def _gateway(self, **rule: object) -> None:
        faults = self._world.stack.gateway.faults
        made = faults.add({"path": RPC, "seed": self._rng.randrange(10**6), **rule})
        await asyncio.sleep(self._rng.uniform(0.5, 3.0))
        faults.remove(made.id)

    async def _supabase_away(self) -> None:
        async with self._memory_matters:
            faults = self._world.stack.gateway.faults
            made = faults.add({"path": r"^/(rest|storage|realtime)", "action": "status"})
            await self._world.stack.gateway.realtime.drop()
            await asyncio.sleep(RETENTION_SECONDS * 1.5)
            faults.remove(made.id)
            # Time to write what memory holds, before anybody is killed.
            await asyncio.sleep(4.0)

    async def _restart_postgres(self) -> None:
        async with self._memory_matters:
            # The real one hears nothing for seconds after a restart, and says nothing of it.
            realtime = self._world.stack.gateway.realtime
            realtime.apply({"silence_after_restart": self._rng.choice([0.0, 3.0])})
            await self._world.stack.restart_postgres()
            await asyncio.sleep(2.0)

    async def _realtime_dropped(self) -> None:
        await self._world.stack.gateway.realtime.drop(self._rng.choice([None, 1001, 1012]))

    async def _realtime_expired(self) -> None:
        self._world.stack.gateway.realtime.system_error(
            "Token has expired 1 seconds ago", fatal=True
        )

    async def _realtime(self, **knobs: object) -> None:
        realtime = self._world.stack.gateway.realtime
        realtime.apply(knobs)
        await asyncio.sleep(self._rng.uniform(0.5, 4.0))
        realtime.apply({"freeze": False, "lossy": 0.0, "mute": False})

    async def _runpod(self, path: str, **rule: object) -> None:
        faults = self._world.runpod.faults
        made = faults.add({"path": path, "seed": self._rng.randrange(10**6), **rule})
        await asyncio.sleep(self._rng.uniform(0.5, 2.0))
        faults.remove(made.id)

    async def _everything_unknown(self) -> None:
        """RunPod forgets everybody for a moment that is shorter than our patience."""
        faults = self._world.runpod.faults
        made = faults.add({"path": "/status/", "action": "status", "status": 404})
        await asyncio.sleep(1.5)
        faults.remove(made.id)
