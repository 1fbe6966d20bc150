"""A client that reads and writes Realtime frames, and the recorded frames of the real server."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

KEYS = ("join_ref", "ref", "topic", "event", "payload")
RECORDED = Path(__file__).resolve().parents[1] / "data" / "realtime"
JOBS = {"event": "*", "schema": "public", "table": "video_jobs"}
NOTES = {"event": "*", "schema": "public", "table": "notes"}


class WireClient:
    """A client that reads and writes frames, version 1 or 2."""

    def __init__(self, socket: ClientConnection, version: str) -> None:
        self._socket = socket
        self._version = version
        self._refs = itertools.count(1)

    async def push(
        self, topic: str, event: str, payload: dict[str, Any], *, ref: str | None = None
    ) -> str:
        ref = ref or str(next(self._refs))
        if self._version == "2.0.0":
            frame: object = [ref, ref, topic, event, payload]
        else:
            frame = {
                "topic": topic,
                "event": event,
                "payload": payload,
                "ref": ref,
                "join_ref": ref,
            }
        await self._socket.send(json.dumps(frame))
        return ref

    async def join(
        self, *bindings: dict[str, Any], topic: str = "realtime:t", **payload: object
    ) -> str:
        config = {"broadcast": {"ack": False, "self": False}, "postgres_changes": list(bindings)}
        return await self.push(topic, "phx_join", {"config": config, **payload})

    async def frame(self, seconds: float = 5) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            message = json.loads(await self._socket.recv())
        if self._version == "2.0.0":
            assert len(message) == 5
            message = dict(zip(KEYS, message, strict=True))
        else:
            assert set(message) == {"event", "payload", "ref", "topic"}
        return message

    async def joined(self, *bindings: dict[str, Any], **more: Any) -> int:
        """Join and wait for changes to flow; return the first binding's id."""
        await self.join(*bindings, **more)
        reply = await self.frame()
        assert reply["payload"]["status"] == "ok"
        system = await self.frame()
        assert system["payload"]["message"] == "Subscribed to PostgreSQL", system
        return reply["payload"]["response"]["postgres_changes"][0]["id"]

    async def data(self) -> dict[str, Any]:
        frame = await self.frame()
        assert frame["event"] == "postgres_changes", frame
        assert frame["ref"] is None
        return frame["payload"]["data"]

    async def silence(self) -> None:
        """Check that nothing arrives, although the server has handled everything before."""
        ref = await self.push("phoenix", "heartbeat", {})
        frame = await self.frame()
        assert (frame["ref"], frame["topic"]) == (ref, "phoenix"), frame

    async def send(self, raw: str | bytes) -> None:
        await self._socket.send(raw)

    async def ended(self) -> int:
        try:
            async with asyncio.timeout(5):
                while True:
                    await self._socket.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006


def recorded(name: str) -> list[dict[str, Any]]:
    """The frames that the real server sent."""
    lines = (RECORDED / f"{name}.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry["frame"] for entry in entries if entry.get("dir") == "s->c"]


def shape(value: object) -> object:
    """Keys and kinds without the values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return (
        "number"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else type(value).__name__
    )
