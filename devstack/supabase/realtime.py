"""Realtime: connections, delivery of changes, and controls that cause faults."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.websockets import WebSocket

from devstack.supabase.bindings import Binding, check_binding
from devstack.supabase.changes import ChangeReader
from devstack.supabase.channel import Channel
from devstack.supabase.feed import Change, Feed
from devstack.supabase.frames import Frame
from devstack.supabase.pool import Pool
from devstack.supabase.socket import Socket
from devstack.supabase.tokens import KeyRefused, Keys, TokenInvalid

# The real server closes a connection after this time without a message of the client.
IDLE_SECONDS = 66.0


class Realtime:
    """All connections; the attributes are the controls of `PUT /_control/realtime`."""

    def __init__(self, url: str, keys: Keys) -> None:
        self.keys = keys
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.mute = False
        self.lossy = 0.0
        self.refuse_joins: str | None = None
        self.system_delay = 0.0
        self.error_delay = 0.0
        self.idle_seconds = IDLE_SECONDS
        self.delivered = 0
        self.lost = 0
        self._random = random.Random(0)
        self._pool = Pool(url, size=4)
        self._reader = ChangeReader(self._pool)
        self._transactions: asyncio.Queue[list[Change]] = asyncio.Queue()
        self.feed = Feed(url, self._transactions.put_nowait)
        self.sockets: set[Socket] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the database inside the context."""
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(self.feed.run()), tasks.create_task(self._deliver())]
            try:
                yield
            finally:
                self.flowing.set()
                for task in background:
                    task.cancel()
        await self._pool.close()

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one client's connection, from the upgrade to its end."""
        try:
            token = self._connection_token(websocket)
        except (KeyRefused, TokenInvalid) as error:
            await asyncio.sleep(self.error_delay)
            message = str(error) or "Missing or unknown API key"
            await websocket.send_denial_response(JSONResponse({"error": message}, status_code=401))
            return
        await websocket.accept()
        version = websocket.query_params.get("vsn", "1.0.0")
        socket = Socket(self, websocket, token, version)
        self.sockets.add(socket)
        try:
            await socket.run()
        finally:
            self.sockets.discard(socket)

    async def subscribe(self, bindings: tuple[Binding, ...], role: str) -> None:
        """Return once changes flow for these bindings; raise BindingInvalid if they cannot."""
        await self.feed.ready.wait()
        async with self._pool.as_admin() as connection:
            # A token may name any role; Postgres checks that it exists.
            await connection.execute("select has_schema_privilege(%s, 'public', 'usage')", [role])
            for binding in bindings:
                await check_binding(connection, binding, role)

    def broadcast(self, sender: Socket, channel: Channel, payload: dict[str, object]) -> None:
        """Send a client's message to all clients that joined the same topic."""
        for socket in self.sockets:
            other = socket.channels.get(channel.topic)
            if other is not None and (other is not channel or channel.hears_itself):
                socket.send(Frame(topic=channel.topic, event="broadcast", payload=payload))

    def control_routes(self) -> list[Route]:
        return [Route("/_control/realtime", self._control, methods=["GET", "PUT"])]

    def apply(self, controls: dict[str, object]) -> None:
        """Set controls; raise ValueError for an unknown name or an invalid value."""
        kinds: dict[str, type | tuple[type, ...]] = {
            "freeze": bool, "mute": bool, "lossy": (int, float), "seed": int,
            "refuse_joins": (str, type(None)), "system_delay": (int, float),
            "error_delay": (int, float), "idle_seconds": (int, float),
            "silence_after_restart": (int, float),
        }  # fmt: skip
        for name, value in controls.items():
            if name not in kinds or not isinstance(value, kinds[name]):
                raise ValueError(f"unknown control, or invalid value: {name}={value!r}")
            if name == "freeze":
                (self.flowing.clear if value else self.flowing.set)()
            elif name == "seed":
                self._random = random.Random(int(str(value)))
            elif name == "silence_after_restart":
                self.feed.silence_seconds = float(str(value))
            else:
                setattr(self, name, value)

    async def drop(self, code: int | None = None) -> int:
        """End all connections now: with a close code, or cut them if there is none."""
        sockets = list(self.sockets)
        for socket in sockets:
            if code is None:
                socket.abort()
            else:
                await socket.close(code)
        return len(sockets)

    def system_error(self, message: str, *, fatal: bool) -> None:
        """Send an error to every joined channel; a fatal error closes it."""
        for socket in self.sockets:
            for channel in list(socket.channels.values()):
                (socket.fail if fatal else socket.report)(channel, message)

    def state(self) -> dict[str, object]:
        channels = [channel for socket in self.sockets for channel in socket.channels.values()]
        return {
            "sockets": len(self.sockets),
            "channels": len(channels),
            "subscribed": sum(1 for channel in channels if channel.bindings),
            "feed_ready": self.feed.ready.is_set(),
            "feed_connections": self.feed.connections,
            "delivered": self.delivered,
            "lost": self.lost,
            "freeze": not self.flowing.is_set(),
            "mute": self.mute,
            "lossy": self.lossy,
            "refuse_joins": self.refuse_joins,
            "system_delay": self.system_delay,
            "error_delay": self.error_delay,
            "idle_seconds": self.idle_seconds,
            "silence_after_restart": self.feed.silence_seconds,
        }

    async def _control(self, request: Request) -> Response:
        if request.method == "PUT":
            try:
                controls = dict(json.loads(await request.body()))
                drop, error = controls.pop("drop", None), controls.pop("system_error", None)
                fatal = controls.pop("fatal", False)
                self.apply(controls)
            except (ValueError, TypeError) as problem:
                return JSONResponse({"error": str(problem)}, status_code=400)
            if drop:
                # True cuts, a number closes with that code.
                await self.drop(None if drop is True else int(drop))
            if error:
                self.system_error(str(error), fatal=bool(fatal))
        return JSONResponse(self.state())

    def _connection_token(self, websocket: WebSocket) -> str:
        key = websocket.headers.get("x-api-key") or websocket.query_params.get("apikey")
        if key is None:
            raise KeyRefused
        try:
            return self.keys.token_of_key(key)
        except KeyRefused:
            # The real server accepts any token of the project, also a user's.
            self.keys.verify(key)
            return key

    async def _deliver(self) -> None:
        while True:
            for change in await self._transactions.get():
                await self._deliver_change(change)

    async def _deliver_change(self, change: Change) -> None:
        owners = {
            channel: socket
            for socket in self.sockets
            for channel in socket.channels.values()
            if channel.bindings
        }
        try:
            events = await self._reader.events(change, list(owners))
        except psycopg.Error:
            # The database stopped in between: the change is lost, as with the real server.
            self.lost += 1
            return
        for event in events:
            if self.mute or (self.lossy and self._random.random() < self.lossy):
                self.lost += 1
                continue
            channel = event.subscriber
            assert isinstance(channel, Channel)
            self.delivered += 1
            owners[channel].send(
                Frame(topic=channel.topic, event="postgres_changes", raw=event.payload)
            )
