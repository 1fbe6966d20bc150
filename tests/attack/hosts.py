"""Hosts that hold a fetch for as long as they can, or that show each visitor another file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tests.data.media.hosts import Answer, reply

# A worker that follows the limits ends these connections long before.
HOLD_SECONDS = 600
STEP_SECONDS = 4


async def trickled_head(head: str, writer: asyncio.StreamWriter) -> None:
    """Send a head a byte at a time, which is never complete."""
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(0, HOLD_SECONDS, STEP_SECONDS):
        writer.write(b"y")
        await writer.drain()
        await asyncio.sleep(STEP_SECONDS)


async def late_busy(head: str, writer: asyncio.StreamWriter) -> None:
    """Answer as late as permitted that the caller should come again."""
    await asyncio.sleep(18)
    await reply(status="503 Busy", headers={"Retry-After": "2"})(head, writer)


async def trickled_bytes(head: str, writer: asyncio.StreamWriter) -> None:
    """Send a body a little faster than the least permitted pace."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6000000\r\n\r\n")
    for _ in range(HOLD_SECONDS):
        writer.write(bytes(9 * 1024))
        await writer.drain()
        await asyncio.sleep(1)


TAR_PITS: Mapping[str, Answer] = {
    "/head": trickled_head,
    "/busy": late_busy,
    "/bytes": trickled_bytes,
}


def two_faces(good: bytes, bad: bytes) -> Answer:
    """Serve `good` to the worker, by the User-Agent in the host's log, and `bad` to all others."""

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        checked = "user-agent: talking-head-worker" in head.lower()
        await reply(good if checked else bad)(head, writer)

    return answer
