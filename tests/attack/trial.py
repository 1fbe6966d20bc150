"""One attack and the honest jobs beside it: what is measured, and what must not be."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import httpx

from devstack.postgres import Postgres
from tests.attack.honest import HonestJob, insert_honest, until_ended, until_submitted
from tests.attack.machine import MemoryGroup, Peaks, memory_group
from tests.attack.scene import RUNS, Scene, staged
from tests.world import ROOT, World

Attack = Callable[[Scene], Awaitable[None]]
SAMPLES = ROOT / "devstack" / "samples"
READYZ_SECONDS = 1.0
HONEST = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one attack is tried: seconds, and the memory of the machine in MiB."""

    honest: int = HONEST
    warm_up_seconds: float = 10.0
    pause_seconds: float = 3.0
    patience_seconds: float = 180.0
    memory_mib: int
    one_core: bool = True


@dataclass(slots=True)
class Trial:
    """What became of an attack, and of the others meanwhile."""

    name: str
    jobs: list[HonestJob] = field(default_factory=list)
    became: Counter[str] = field(default_factory=Counter)
    peaks: Peaks = field(default_factory=Peaks)
    readyz: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    @property
    def delays(self) -> list[float]:
        """The seconds from INSERT to POST /run of the honest jobs that were submitted."""
        return [job.delay for job in self.jobs if job.delay is not None]

    @property
    def median(self) -> float:
        return statistics.median(self.delays) if self.delays else float("inf")

    @property
    def worst(self) -> float:
        every = len(self.delays) == len(self.jobs)
        return max(self.delays) if every and self.delays else float("inf")

    @property
    def median_in_line(self) -> float:
        return statistics.median([job.in_line for job in self.jobs if job.submitted] or [0.0])

    @property
    def failures(self) -> int:
        """How many honest jobs ended in an error."""
        return sum(job.error_code is not None for job in self.jobs)


async def try_attack(name: str, attack: Attack | None, postgres: Postgres, plan: Plan) -> Trial:
    """Run one attack until every honest job has been submitted; None: nobody attacks."""
    trial = Trial(name)
    database = f"attack_{name.replace('-', '_')}"
    with memory_group(plan.memory_mib) as group:
        async with (
            World(options=RUNS, postgres=postgres, database=database) as world,
            staged(world, group=group, one_core=plan.one_core) as scene,
            _watched(scene, trial),
        ):
            inputs = await _ordinary_inputs(world)
            async with asyncio.TaskGroup() as tasks:
                attacking = tasks.create_task(_attack(scene, attack))
                while attack is not None and not (scene.begun or attacking.done()):
                    await asyncio.sleep(0.1)
                await _honest_jobs(world, trial, plan, inputs)
                if attacking.done():
                    trial.broken.append("the attack ended before the honest jobs were submitted")
                attacking.cancel()
            await until_ended(world, trial.jobs, 60)
            trial.became = await scene.became()
            trial.broken += scene.broken
            _judge(trial, scene, group, plan)
    return trial


async def _attack(scene: Scene, attack: Attack | None) -> None:
    await (asyncio.Event().wait() if attack is None else attack(scene))


async def _ordinary_inputs(world: World) -> dict[str, object]:
    """Upload a portrait and a speech as people have them."""
    return {
        f"{kind}_url": await world.upload(f"honest-{file}", (SAMPLES / file).read_bytes())
        for kind, file in (("image", "portrait.jpg"), ("audio", "speech.mp3"))
    }


async def _honest_jobs(world: World, trial: Trial, plan: Plan, inputs: dict[str, object]) -> None:
    """Insert jobs while the attack lasts, and wait until each has been submitted."""
    await asyncio.sleep(plan.warm_up_seconds)
    async with asyncio.TaskGroup() as waiting:
        for _ in range(plan.honest):
            job = await insert_honest(world, **inputs)
            trial.jobs.append(job)
            waiting.create_task(until_submitted(world, job, plan.patience_seconds))
            await asyncio.sleep(plan.pause_seconds)


@contextlib.asynccontextmanager
async def _watched(scene: Scene, trial: Trial) -> AsyncIterator[None]:
    """Sample memory and /readyz meanwhile."""
    async with asyncio.TaskGroup() as tasks:
        watchers = [
            tasks.create_task(trial.peaks.watch(scene.daemon.pid)),
            tasks.create_task(_watch_readyz(scene, trial)),
        ]
        try:
            yield
        finally:
            for watcher in watchers:
                watcher.cancel()


async def _watch_readyz(scene: Scene, trial: Trial) -> None:
    while True:
        try:
            _, said = await scene.readyz()
        except (httpx.HTTPError, ValueError) as error:
            trial.readyz[f"no answer ({type(error).__name__})"] += 1
        else:
            trial.readyz["; ".join([said["status"], *said["reasons"]])] += 1
        await asyncio.sleep(READYZ_SECONDS)


def _judge(trial: Trial, scene: Scene, group: MemoryGroup | None, plan: Plan) -> None:
    """Add what must not be to `broken`."""
    for job in trial.jobs:
        if job.error_code is not None:
            trial.broken.append(f"an honest job failed: {job.error_code}")
        elif job.submitted is None:
            trial.broken.append(
                f"an honest job was not submitted within {plan.patience_seconds:.0f} s"
            )
    if not scene.daemon.alive:
        trial.broken.append(f"the daemon ended: {scene.daemon.words()[-500:]}")
    if trial.peaks.together > plan.memory_mib:
        trial.broken.append(
            f"daemon and decoders took {trial.peaks.together:.0f} MiB; "
            f"the machine has {plan.memory_mib}"
        )
    if group is not None and group.kills:
        trial.broken.append(f"the kernel ended {group.kills} processes for want of memory")
