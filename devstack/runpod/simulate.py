"""The fast mode: simulated workers inside the stand-in, so that hundreds of runs are cheap."""

import asyncio
import itertools
from collections.abc import Callable

from devstack.runpod.cloud import Cloud
from devstack.runpod.condition import Condition
from devstack.runpod.runs import Json, Run, State

STEPS = 4


class Simulation:
    """Takes waiting runs and ends each after the time set in the options."""

    def __init__(
        self, *, cloud: Cloud, condition: Condition, video_url: Callable[[Run], str]
    ) -> None:
        self._cloud = cloud
        self._condition = condition
        self._video_url = video_url
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def tick(self) -> None:
        """Take one run for each free simulated worker."""
        options = self._cloud.options
        if options.render != "none":
            return
        while len(self._tasks) < options.simulated_workers:
            worker_id = f"simulated{next(self._numbers)}"
            run = self._cloud.take(worker_id, silent=True)
            if run is None:
                self._cloud.slots.pop(worker_id, None)
                return
            task = asyncio.get_running_loop().create_task(self._work(run, worker_id, run.takes))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop all simulated work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, run: Run, worker_id: str, take: int) -> None:
        try:
            await self._pretend(run, worker_id, take)
        finally:
            self._cloud.slots.pop(worker_id, None)

    async def _pretend(self, run: Run, worker_id: str, take: int) -> None:
        cloud, options = self._cloud, self._cloud.options

        def mine() -> bool:
            return run.state is State.IN_PROGRESS and run.worker_id == worker_id and not run.gone

        spread = options.run_seconds_max - options.run_seconds_min
        seconds = options.run_seconds_min + max(0.0, spread) * cloud.draw(run, "run_seconds")
        for step in range(STEPS):
            if options.report_progress:
                report = {"phase": "generating", "progress": 100.0 * step / STEPS}
                cloud.progress(run, worker_id, report)
            await asyncio.sleep(seconds / STEPS)
            if not mine():
                return
        if cloud.draw(run, "hang") < options.hang:
            while mine():
                await self._condition.wait(1.0)
            return
        if cloud.draw(run, f"lose_worker{take}") < options.lose_worker:
            cloud.worker_gone(worker_id)
            return
        cloud.finish(run, worker_id, self._result(run))

    def _result(self, run: Run) -> Json:
        fail_text = self._cloud.fail_text(run)
        if fail_text is not None:
            return {"error": fail_text}
        return {"output": {"video": [self._video_url(run)]}}
