"""Shared by the tests of the RunPod stand-in: a client, a server for files and uploads."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from devstack.runpod import RunPodStandIn

SAMPLES = Path(__file__).parents[2] / "devstack" / "samples"


@dataclass(slots=True)
class Client:
    """Talks to one stand-in with its key."""

    standin: RunPodStandIn
    http: httpx.AsyncClient

    async def run(self, **body: Any) -> str:
        """Submit a run and return its id."""
        answer = await self.http.post(
            f"{self.standin.endpoint_url}/run", json={"input": {"prompt": "x"}, **body}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(f"{self.standin.endpoint_url}{path}")

    async def post(self, path: str, body: object = None) -> httpx.Response:
        return await self.http.post(f"{self.standin.endpoint_url}{path}", json=body)

    async def control(self, method: str, path: str, body: object = None) -> httpx.Response:
        return await self.http.request(method, f"{self.standin.url}/_control{path}", json=body)

    async def reaches(self, run_id: str, state: str, seconds: float = 30) -> dict[str, Any]:
        """Wait until a run is in a state; return its record."""
        answer = await self.control("GET", f"/runs/{run_id}?state={state}&timeout={seconds}")
        assert answer.status_code == 200, answer.text
        record: dict[str, Any] = answer.json()
        return record

    async def skip(self, seconds: float) -> None:
        """Move the stand-in's clock forward."""
        await self.control("POST", "/advance", {"seconds": seconds})


@contextlib.asynccontextmanager
async def standin(path: Path, *, workers: int = 0, **settings: Any) -> AsyncIterator[Client]:
    """A running stand-in and a client for it; options not named here are given as keywords."""
    storage = settings.pop("storage", None)
    part = RunPodStandIn(data_dir=path, workers=workers, storage=storage, options=settings)
    async with part, httpx.AsyncClient(timeout=60, trust_env=False) as http:
        http.headers["Authorization"] = f"Bearer {part.api_key}"
        yield Client(part, http)


@dataclass(slots=True)
class Hub:
    """An HTTP server that serves the samples, accepts uploads and receives webhooks."""

    url: str = ""
    uploads: dict[str, bytes] = field(default_factory=dict)
    webhooks: list[tuple[str, bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    rang: asyncio.Event = field(default_factory=asyncio.Event)

    async def sample(self, request: Request) -> Response:
        path = SAMPLES / request.path_params["name"]
        if not path.is_file():
            return Response(status_code=404)
        return Response(path.read_bytes())

    async def upload(self, request: Request) -> Response:
        self.uploads[request.path_params["path"]] = await request.body()
        return Response("{}", status_code=200)

    async def webhook(self, request: Request) -> Response:
        self.webhooks.append((request.url.path, await request.body()))
        self.rang.set()
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    async def heard(self, count: int) -> list[tuple[str, bytes]]:
        """Wait until `count` webhooks have arrived."""
        async with asyncio.timeout(20):
            while len(self.webhooks) < count:
                self.rang.clear()
                await self.rang.wait()
        return self.webhooks


class QuietServer(uvicorn.Server):
    """A server that leaves the signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield


@contextlib.asynccontextmanager
async def hub() -> AsyncIterator[Hub]:
    """A running Hub."""
    part = Hub()
    app = Starlette(
        routes=[
            Route("/samples/{name}", part.sample),
            Route("/storage/v1/object/{path:path}", part.upload, methods=["POST"]),
            Route("/hook/{path:path}", part.webhook, methods=["POST"]),
        ]
    )
    listener = socket.create_server(("127.0.0.1", 0))
    part.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = QuietServer(uvicorn.Config(app, log_config=None, lifespan="off"))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[listener]))
        try:
            yield part
        finally:
            server.should_exit = True
