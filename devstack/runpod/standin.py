"""The whole stand-in: an HTTP server with its clock, workers and webhooks."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from starlette.applications import Starlette

from devstack.faults import FaultMiddleware, Faults
from devstack.runpod.api import ClientApi
from devstack.runpod.cloud import Cloud
from devstack.runpod.condition import Condition
from devstack.runpod.control import Control
from devstack.runpod.limits import Limits
from devstack.runpod.options import Options
from devstack.runpod.run_log import FileRunLog
from devstack.runpod.runs import Run
from devstack.runpod.simulate import Simulation
from devstack.runpod.webhooks import Webhooks
from devstack.runpod.worker_api import WorkerApi
from devstack.runpod.workers import StorageTarget, Workers
from devstack.server import AppServer

# How often deadlines and simulated runs are checked while any run is live.
TICK_SECONDS = 0.02


class RunPodStandIn:
    """One RunPod Serverless endpoint on this machine; `start` it, then talk to `endpoint_url`."""

    def __init__(
        self,
        *,
        data_dir: Path,
        storage: StorageTarget | None = None,
        workers: int = 1,
        port: int = 0,
        api_key: str | None = None,
        endpoint_id: str = "localendpoint",
        options: Mapping[str, object] | None = None,
    ) -> None:
        self.api_key = api_key or f"rpa_{secrets.token_hex(16)}"
        self.endpoint_id = endpoint_id
        self.url = ""
        self.faults = Faults()
        self._port = port
        self._data_dir = data_dir
        self._storage = storage
        self._worker_count = workers
        self._options = Options().changed(options or {})
        self._skipped_seconds = 0.0

    @property
    def endpoint_url(self) -> str:
        """Return the endpoint's base URL, with /v2/{endpoint_id}."""
        return f"{self.url}/v2/{self.endpoint_id}"

    @property
    def runs(self) -> list[Run]:
        """Return all accepted runs, in order."""
        return list(self.cloud.runs.values())

    async def start(self) -> None:
        """Listen, then start the workers."""
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self.condition = Condition()
        self._log = FileRunLog(self._data_dir / "runs.jsonl")
        self.cloud = Cloud(clock=self._clock, run_log=self._log, options=self._options)
        self._webhooks = Webhooks(self.cloud, self.condition)
        self._simulation = Simulation(
            cloud=self.cloud, condition=self.condition, video_url=self._simulated_video
        )
        self._worker_api = WorkerApi(cloud=self.cloud, condition=self.condition)
        self._server = AppServer(FaultMiddleware(self._app(), self.faults), port=self._port)
        self.url = self._server.url
        await self._server.start()
        self._workers = Workers(
            endpoint_url=self.endpoint_url,
            storage=self._storage,
            data_dir=self._data_dir,
            on_gone=self.cloud.worker_gone,
        )
        self.cloud.on_change = self.condition.notify
        self.cloud.on_end = self._webhooks.ended
        self.cloud.on_accept = self._webhooks.accepted
        self.cloud.on_stop = self._workers.stop
        self._ticking = asyncio.get_running_loop().create_task(self._tick_for_ever())
        self._workers.start(self._worker_count)

    async def stop(self) -> None:
        """Kill the workers, drop unfinished webhooks, close the server."""
        await self._workers.close()
        self._ticking.cancel()
        await asyncio.gather(self._ticking, return_exceptions=True)
        await self._simulation.close()
        await self._webhooks.close()
        self.faults.clear()
        self._worker_api.close()
        await self._server.stop()
        self._log.close()

    async def __aenter__(self) -> "RunPodStandIn":
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    def _app(self) -> Starlette:
        limits = Limits(time.monotonic)
        client_api = ClientApi(
            cloud=self.cloud,
            condition=self.condition,
            limits=limits,
            api_key=self.api_key,
            endpoint_id=self.endpoint_id,
        )
        control = Control(
            cloud=self.cloud, condition=self.condition, limits=limits, advance=self._advance
        )
        routes = client_api.routes() + self._worker_api.routes() + control.routes()
        return Starlette(routes=routes + self.faults.routes())

    async def _tick_for_ever(self) -> None:
        while True:
            self.cloud.settle()
            self._simulation.tick()
            # Without live runs nothing can be due, so an idle stand-in uses no CPU.
            await self.condition.wait(TICK_SECONDS if self.cloud.live else 5.0)

    def _clock(self) -> float:
        return time.monotonic() + self._skipped_seconds

    def _advance(self, seconds: float) -> None:
        self._skipped_seconds += seconds
        for slot in self.cloud.slots.values():
            # Skipped time does not count as silence: no worker could ping in it.
            slot.heard_at += seconds

    def _simulated_video(self, run: Run) -> str:
        base = self._storage.url if self._storage is not None else self.url
        bucket = self._storage.bucket if self._storage is not None else "results"
        return f"{base}/storage/v1/object/public/{bucket}/{run.id}_00001-audio.mp4"
