"""An ASGI app served on a local port, inside a running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp


class Server(uvicorn.Server):
    """A uvicorn server inside a running event loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not handle signals: the program does."""
        yield


class AppServer:
    """An ASGI app on a port of 127.0.0.1."""

    def __init__(self, app: ASGIApp, *, port: int = 0) -> None:
        # With an explicit protocol asyncio sets TCP_NODELAY; without it answers take up to 40 ms.
        self._listener = sockets.socket(proto=sockets.IPPROTO_TCP)
        self._listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ws="websockets-sansio",
            ws_max_size=5 * 1024 * 1024,
            ws_ping_interval=None,
            proxy_headers=False,
            server_header=False,
            # Real services keep idle connections for a minute or more. With uvicorn's default of
            # 5 s, a client that sends at that moment loses its request.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            lifespan="on",
        )
        self._server = Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start serving; return when requests are answered."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise RuntimeError("the server stopped during its start")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._listener.close()
