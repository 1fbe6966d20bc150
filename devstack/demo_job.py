"""One job as a user of an app starts it: sign in, upload, insert, follow the row."""

from __future__ import annotations

import asyncio
import mimetypes
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import httpx
from realtime import RealtimePostgresChangesListenEvent
from supabase import (
    AsyncClient,
    AuthError,
    PostgrestAPIError,
    StorageException,
    acreate_client,
)

TERMINAL = ("completed", "failed", "cancelled")
# Realtime may lose an event, so the row is also polled.
POLL_SECONDS = 2.0
MAX_SECONDS = 300.0

REFUSALS = (PostgrestAPIError, AuthError, StorageException, httpx.HTTPError)

Row = dict[str, Any]


class JobFailed(Exception):
    """The job could not be started or followed; the message is for people."""


class Job:
    """The user's side of one video job."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key
        self._client: AsyncClient | None = None

    async def close(self) -> None:
        """Leave Realtime and end the client's tasks."""
        if self._client is not None:
            await self._client.remove_all_channels()
            await self._client.realtime.close()
            await self._client.auth.sign_out({"scope": "local"})

    async def insert(self, image: Path, audio: Path) -> Row:
        """Upload both files to the user's folder and insert the row; raise JobFailed on errors."""
        try:
            return await self._insert(image, audio)
        except REFUSALS as refused:
            raise JobFailed(f"the local stack refused the job: {refused}") from refused

    async def _insert(self, image: Path, audio: Path) -> Row:
        self._client = await acreate_client(self._url, self._key)
        session = await self._client.auth.sign_in_anonymously()
        if session.user is None:
            raise RuntimeError("anonymous sign-in returned no user")
        wanted = {
            "image_url": await self._upload(session.user.id, image, "video-images"),
            "audio_url": await self._upload(session.user.id, audio, "video-audio"),
        }
        answer = await self._client.table("video_jobs").insert(wanted).execute()
        return cast("Row", answer.data[0])

    async def _upload(self, user_id: str, path: Path, bucket: str) -> str:
        assert self._client is not None
        object_path = f"{user_id}/{uuid.uuid4()}{path.suffix.lower()}"
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        content = await asyncio.to_thread(path.read_bytes)
        await self._client.storage.from_(bucket).upload(
            object_path, content, {"content-type": kind}
        )
        return f"storage://{bucket}/{object_path}"

    async def follow(self, job_id: str, show: Callable[[Mapping[str, Any]], None]) -> Row:
        """Show every change of the row until it is terminal; raise JobFailed on errors."""
        assert self._client is not None
        changed = asyncio.Event()
        channel = self._client.channel(f"job-{job_id}")
        channel.on_postgres_changes(
            RealtimePostgresChangesListenEvent.Update,
            schema="public",
            table="video_jobs",
            filter=f"id=eq.{job_id}",
            callback=lambda _: changed.set(),
        )
        await channel.subscribe()
        row: Row = {}
        try:
            async with asyncio.timeout(MAX_SECONDS):
                while True:
                    changed.clear()
                    row = await self._read(job_id)
                    show(row)
                    if row["status"] in TERMINAL:
                        return row
                    await _change_or_pause(changed)
        except TimeoutError:
            last = row.get("status")
            raise JobFailed(f"the job is still {last} after {MAX_SECONDS:.0f} s") from None
        except REFUSALS as refused:
            raise JobFailed(f"the job could not be followed: {refused}") from refused

    async def _read(self, job_id: str) -> Row:
        assert self._client is not None
        table = self._client.table("video_jobs")
        answer = await table.select("*").eq("id", job_id).single().execute()
        return cast("Row", answer.data)


async def _change_or_pause(changed: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(POLL_SECONDS):
            await changed.wait()
    except TimeoutError:
        # No event: read the row anyway.
        return
