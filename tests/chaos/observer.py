"""An independent listener at Realtime: what people see must never go backwards."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import websockets

RANK = {"queued": 0, "preparing": 1, "submitted": 2, "running": 3}
TERMINAL = ("completed", "failed", "cancelled")


class Observer:
    """Keeps the last event of each job and notes every step back that is not allowed."""

    def __init__(self, url: str, key: str) -> None:
        self.events = 0
        self.broken: list[str] = []
        self._url = f"{url.replace('http', 'ws', 1)}/realtime/v1/websocket?apikey={key}&vsn=1.0.0"
        self._key = key
        self._last: dict[str, dict[str, Any]] = {}

    async def run(self) -> None:
        """Listen until cancelled; a lost connection is made again."""
        while True:
            try:
                async with websockets.connect(self._url, proxy=None) as socket:
                    await socket.send(self._join())
                    async for text in socket:
                        self._hear(json.loads(text))
            except (OSError, websockets.WebSocketException):
                await asyncio.sleep(0.3)

    def _join(self) -> str:
        changes = [{"event": "*", "schema": "public", "table": "video_jobs"}]
        config = {
            "broadcast": {"ack": False, "self": False},
            "presence": {"key": "", "enabled": False},
            "private": False,
            "postgres_changes": changes,
        }
        payload = {"config": config, "access_token": self._key}
        frame = {"topic": "realtime:observer", "event": "phx_join", "payload": payload}
        return json.dumps({**frame, "ref": "1", "join_ref": "1"})

    def _hear(self, frame: dict[str, Any]) -> None:
        if frame.get("event") != "postgres_changes":
            return
        row = frame["payload"]["data"].get("record")
        if row:
            self.events += 1
            self.check(row)

    def check(self, now: dict[str, Any]) -> None:
        """Compare an event with the one before it."""
        before = self._last.get(now["id"])
        self._last[now["id"]] = now
        if before is None or now["try_number"] > before["try_number"]:
            return
        said = f"{now['id']}: {_short(before)} -> {_short(now)}"
        if now["try_number"] < before["try_number"] or now["attempt"] < before["attempt"]:
            self.broken.append(f"went back to an older try or attempt: {said}")
        if now["progress"] < before["progress"]:
            self.broken.append(f"progress fell: {said}")
        if before["status"] in TERMINAL:
            if now["status"] != before["status"]:
                self.broken.append(f"left a terminal status: {said}")
        elif now["status"] in RANK and RANK[now["status"]] < RANK[before["status"]]:
            released = now["status"] == "queued" or now["attempt"] > before["attempt"]
            if not released:
                self.broken.append(f"went backwards: {said}")


def _short(row: dict[str, Any]) -> str:
    return f"{row['status']}/{row['progress']} try {row['try_number']} attempt {row['attempt']}"
