"""A scripted Realtime server on a real socket: each connection behaves as the test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

RECORDINGS = Path(__file__).parent.parent / "data" / "realtime"
COLUMNS = [{"name": "id", "type": "uuid"}]


class Peer:
    """The server's side of one connection."""

    def __init__(self, connection: ServerConnection, behaviour: "Behaviour") -> None:
        self.connection = connection
        self.behaviour = behaviour
        self.topic = ""
        self.token: str | None = None
        self.private = False
        self.bindings: list[dict[str, Any]] = []
        self.heartbeats = 0
        self.ended = asyncio.Event()

    async def serve(self) -> None:
        """Answer frames until the connection ends."""
        try:
            async for text in self.connection:
                await self._handle(json.loads(text))
        except ConnectionClosed:
            pass
        finally:
            self.ended.set()

    async def _handle(self, frame: dict[str, Any]) -> None:
        if frame["event"] == "heartbeat":
            self.heartbeats += 1
            if self.behaviour.heartbeats:
                await self.send(
                    "phx_reply", {"status": "ok", "response": {}}, frame["ref"], "phoenix"
                )
        elif frame["event"] == "phx_join":
            self.topic = frame["topic"]
            self.token = frame["payload"].get("access_token")
            config = frame["payload"]["config"]
            self.private = config["private"]
            wanted = config["postgres_changes"]
            self.bindings = [{**item, "id": 1000 + n} for n, item in enumerate(wanted)]
            await self.behaviour.join(self, frame["ref"])

    async def send(
        self, event: str, payload: object, ref: str | None = None, topic: str | None = None
    ) -> None:
        """Send one frame in the form of protocol version 1.0.0."""
        frame = {"event": event, "payload": payload, "ref": ref, "topic": topic or self.topic}
        await self.connection.send(json.dumps(frame))

    async def joined(self, ref: str) -> None:
        """Accept the join, as the server does before it has subscribed to Postgres."""
        response = {"postgres_changes": self.bindings}
        await self.send("phx_reply", {"status": "ok", "response": response}, ref)

    async def system(self, status: str, message: str, extension: str = "postgres_changes") -> None:
        """Send a `system` message."""
        channel = self.topic.removeprefix("realtime:")
        text = {"channel": channel, "extension": extension, "message": message, "status": status}
        await self.send("system", text)

    async def change(self, kind: str, row: dict[str, Any], **more: object) -> None:
        """Send a changed row as the server does: to the bindings whose filter it passes."""
        data: dict[str, Any] = {
            "type": kind,
            "schema": "public",
            "table": "video_jobs",
            "commit_timestamp": "2026-11-22T23:47:50.612Z",
            "columns": COLUMNS,
            "errors": None,
            "old_record" if kind == "DELETE" else "record": row,
            **more,
        }
        await self.send("postgres_changes", {"ids": self.ids(kind, row), "data": data})

    def ids(self, kind: str, row: dict[str, Any]) -> list[int]:
        """Return the ids of the bindings that such a change goes to."""
        return [b["id"] for b in self.bindings if b["event"] in (kind, "*") and _passes(b, row)]

    def drop(self) -> None:
        """Cut the connection without a closing handshake."""
        self.connection.transport.abort()

    def freeze(self) -> None:
        """Read nothing more, so that neither pings nor heartbeats are answered."""
        self.connection.transport.pause_reading()


def _passes(binding: dict[str, Any], row: dict[str, Any]) -> bool:
    column, _, wanted = binding.get("filter", "").partition("=eq.")
    return not column or json.dumps(row.get(column)).strip('"') == wanted


async def accept(peer: Peer, ref: str) -> None:
    """Join and subscribe."""
    await peer.joined(ref)
    await peer.system("ok", "Subscribed to PostgreSQL")


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How the server treats one connection; `handshake`: answer this HTTP status, no upgrade."""

    join: Callable[[Peer, str], Awaitable[None]] = accept
    heartbeats: bool = True
    handshake: HTTPStatus | None = None


GOOD = Behaviour()


@dataclass
class Realtime:
    """The server: a behaviour for each of the next connections, then the good one for the rest."""

    next: list[Behaviour] = field(default_factory=list)
    port: int = 0
    peers: "asyncio.Queue[Peer]" = field(default_factory=asyncio.Queue)
    paths: list[str] = field(default_factory=list)
    refused: int = 0
    _server: Server | None = None

    @property
    def url(self) -> str:
        """Return what the client takes as the project's URL."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""

        def shake(connection: ServerConnection, request: Request) -> Response | None:
            self.paths.append(request.path)
            if self.next and (status := self.next[0].handshake) is not None:
                self.next.pop(0)
                self.refused += 1
                return connection.respond(status, '{"error":"no"}')
            return None

        async def handle(connection: ServerConnection) -> None:
            peer = Peer(connection, self.next.pop(0) if self.next else GOOD)
            self.peers.put_nowait(peer)
            await peer.serve()

        self._server = await serve(
            handle,
            "127.0.0.1",
            self.port,
            process_request=shake,
            ping_interval=None,
            close_timeout=0.2,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def peer(self) -> Peer:
        """Wait for the next connection that no test has taken yet."""
        async with asyncio.timeout(10):
            return await self.peers.get()


@asynccontextmanager
async def realtime(*behaviour: Behaviour) -> AsyncIterator[Realtime]:
    """Run a server; its first connections get the given behaviours."""
    server = Realtime(next=list(behaviour))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@dataclass(frozen=True)
class Recording:
    """What a real server sent on one connection, to be sent again to our client."""

    lines: list[dict[str, Any]]

    @staticmethod
    def load(name: str) -> "Recording":
        """Read a file of tests/data/realtime."""
        text = (RECORDINGS / f"{name}.jsonl").read_text()
        return Recording([json.loads(line) for line in text.splitlines()])

    def changes(self, kind: str) -> list[str]:
        """Return the ids of the rows whose changes of this kind were sent without errors."""
        found = []
        for line in self.lines:
            data = line.get("frame", {}).get("payload", {}).get("data")
            if data and data["type"] == kind and not data["errors"]:
                found.append(data["old_record" if kind == "DELETE" else "record"]["id"])
        return found

    async def play(self, peer: Peer, ref: str) -> None:
        """Answer a join with everything that the real server sent from then on."""
        for line in self.lines:
            if "closed" in line:
                if line["closed"] == 1006:
                    peer.drop()
                else:
                    await peer.connection.close(line["closed"])
            elif line["dir"] == "s->c":
                await self._send(peer, ref, line["frame"])

    async def _send(self, peer: Peer, ref: str, frame: dict[str, Any]) -> None:
        payload = frame["payload"]
        if frame["event"] == "phx_reply" and "postgres_changes" in payload["response"]:
            payload = {**payload, "response": {"postgres_changes": peer.bindings}}
        elif frame["event"] == "postgres_changes":
            data = payload["data"]
            row = data.get("record") or data.get("old_record") or {}
            payload = {**payload, "ids": peer.ids(data["type"], row)}
        await peer.send(frame["event"], payload, ref if frame["ref"] is not None else None)
