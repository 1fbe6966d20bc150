"""Attacks on what listens: the HTTP port, its webhooks, and the Realtime channel."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from uuid import uuid4

import httpx
import websockets

from tests.attack.scene import Scene

SILENT_CONNECTIONS = 1500
# A connection that was ended is made again after so long.
AGAIN_SECONDS = 5.0
FORGED_AT_ONCE = 20
# Broadcasts go through the stand-in, which shares a process with this: beyond this it is the slow
# part.
BROADCASTS_PER_SECOND = 400
TOPICS = ("video_jobs-worker", "video_jobs", "video_jobs-worker-", "*", "phoenix")


async def silent_connections(scene: Scene) -> None:
    """Keep 1,500 connections to the HTTP port, some with the beginning of a request."""

    async def connect(number: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", scene.http_port)
            except OSError:
                scene.noted["connections refused"] += 1
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            scene.noted["connections made"] += 1
            try:
                if number % 3 == 0:
                    writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Slow: ")
                await reader.read()
            except OSError:
                scene.noted["connections reset"] += 1
            finally:
                writer.close()
            await asyncio.sleep(AGAIN_SECONDS)

    async with asyncio.TaskGroup() as tasks:
        for number in range(SILENT_CONNECTIONS):
            tasks.create_task(connect(number))


async def forged_webhooks(scene: Scene) -> None:
    """Send webhooks with invalid signatures as fast as they are answered."""
    base = f"http://127.0.0.1:{scene.http_port}/webhooks/runpod"
    body = {"id": str(uuid4()), "status": "COMPLETED", "output": {"video": ["https://a.example/"]}}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:

        async def forge() -> None:
            while True:
                url = f"{base}/{uuid4()}/1/{secrets.token_hex(32)}"
                try:
                    answer = await http.post(url, json=body)
                except httpx.HTTPError as error:
                    scene.noted[f"webhook: {type(error).__name__}"] += 1
                    await asyncio.sleep(0.2)
                else:
                    scene.noted[f"webhook: {answer.status_code}"] += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(FORGED_AT_ONCE):
                tasks.create_task(forge())


async def forged_broadcasts(scene: Scene) -> None:
    """Join every topic that can be guessed and broadcast forged changes to it."""
    stack = scene.world.stack
    url = f"{stack.url.replace('http', 'ws', 1)}/realtime/v1/websocket?vsn=1.0.0"
    row = {"id": str(uuid4()), "status": "queued", "cancel_requested": True}
    forged = {"type": "broadcast", "event": "INSERT", "payload": {"record": row}}
    async with websockets.connect(f"{url}&apikey={stack.keys.anon}", proxy=None) as socket:
        for topic in TOPICS:
            await socket.send(_frame(topic, "phx_join", {"access_token": stack.keys.anon}))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_listen(socket, scene))
            while True:
                for topic in TOPICS:
                    for event in ("broadcast", "postgres_changes"):
                        await socket.send(_frame(topic, event, forged))
                        scene.noted["forged messages"] += 1
                await asyncio.sleep(2 * len(TOPICS) / BROADCASTS_PER_SECOND)


async def _listen(socket: websockets.ClientConnection, scene: Scene) -> None:
    async for _ in socket:
        scene.noted["answers of Realtime"] += 1


def _frame(topic: str, event: str, payload: Mapping[str, object]) -> str:
    frame = {"topic": f"realtime:{topic}", "event": event, "payload": payload}
    return json.dumps({**frame, "ref": "1", "join_ref": "1"})
