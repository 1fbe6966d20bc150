"""A row becomes a video, inserted with SQL, supabase-py or supabase-js, all unmodified."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import httpx
import psycopg
import pytest
import pytest_asyncio
from realtime import RealtimePostgresChangesListenEvent
from supabase import AsyncClient, AsyncClientOptions, PostgrestAPIError, acreate_client

from devstack.postgres import Postgres
from tests.devstack.test_gateway_js import JS, install, node_is_missing
from tests.e2e.kit import TERMINAL, world_on
from tests.world import World, running

# The first test installs supabase-js, so all of them run in one process.
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(115),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("node"),
]

RANK = {"queued": 0, "preparing": 1, "submitted": 2, "running": 3, "completed": 4}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: Postgres) -> AsyncIterator[World]:
    """Real SDK workers, which render."""
    async with world_on(postgres, options={"render": "mp4"}, workers=1) as world, running(world):
        yield world


async def test_a_plain_sql_insert_becomes_a_playable_mp4(world: World, tmp_path: Path) -> None:
    """The row by psycopg, the run by the official SDK's worker loop, the file checked by PyAV."""
    async with await psycopg.AsyncConnection.connect(world.stack.database_url) as connection:
        cursor = await connection.execute(
            "insert into public.video_jobs (image_url, audio_url, width, height) "
            "values (%s, %s, 480, 832) returning id::text",
            (world.image_url, world.audio_url),
        )
        found = await cursor.fetchone()
    assert found is not None
    row = await world.until(found[0], *TERMINAL, seconds=60)
    assert row["status"] == "completed", row
    assert (row["progress"], row["phase"], row["frames"]) == (100, "done", 81)
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(row["video_url"])
    assert answer.status_code == 200
    file = tmp_path / "video.mp4"
    file.write_bytes(answer.content)
    with av.open(str(file)) as video:
        picture, sound = video.streams.video[0], video.streams.audio[0]
        assert (picture.codec.name, picture.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (picture.width, picture.height) == (480, 832)
        assert (picture.width, picture.height) == (row["render_width"], row["render_height"])
        assert picture.average_rate == Fraction(25)
        assert sound.codec.name == "aac"
        assert sum(1 for _ in video.decode(picture)) == row["frames"]
    with av.open(str(file)) as video:
        sound = video.streams.audio[0]
        samples = sum(frame.samples for frame in video.decode(sound))
        assert samples / sound.rate == pytest.approx(81 / 25, abs=0.1)
    assert len(world.runs_of(found[0])) == 1


@contextlib.asynccontextmanager
async def _signed_in(world: World) -> AsyncIterator[tuple[AsyncClient, str]]:
    async with httpx.AsyncClient(trust_env=False) as http:
        options = AsyncClientOptions(httpx_client=http)
        client = await acreate_client(world.stack.url, world.stack.keys.publishable, options)
        session = await client.auth.sign_in_anonymously()
        assert session.user is not None
        yield client, session.user.id
        await client.remove_all_channels()
        await client.realtime.close()
        await client.auth.sign_out({"scope": "local"})


async def _listen(client: AsyncClient, user_id: str, heard: asyncio.Queue[dict[str, Any]]) -> None:
    flowing = asyncio.Event()
    channel = client.channel("my-jobs")
    channel.on_postgres_changes(
        RealtimePostgresChangesListenEvent.Update,
        schema="public",
        table="video_jobs",
        filter=f"user_id=eq.{user_id}",
        callback=lambda payload: heard.put_nowait(payload["data"]["record"] or {}),
    )
    channel.on_system(lambda _: flowing.set())
    await channel.subscribe()
    await asyncio.wait_for(flowing.wait(), 10)


async def test_a_signed_in_user_follows_an_own_row_by_realtime(world: World) -> None:
    """With unmodified supabase-py and realtime-py; no value they receive goes backwards."""
    async with _signed_in(world) as (client, user_id), _signed_in(world) as (stranger, _):
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        await _listen(client, user_id, heard)
        wish = {"image_url": world.image_url, "audio_url": world.audio_url, "width": 480}
        answer = await client.table("video_jobs").insert({**wish, "height": 832}).execute()
        row = cast("dict[str, Any]", answer.data[0])
        assert (row["status"], row["user_id"]) == ("queued", user_id)
        updates: list[dict[str, Any]] = []
        async with asyncio.timeout(60):
            while not updates or updates[-1]["status"] not in TERMINAL:
                updates.append(await heard.get())
        ranks = [RANK[update["status"]] for update in updates]
        assert ranks == sorted(ranks)
        assert [update["progress"] for update in updates] == sorted(
            update["progress"] for update in updates
        )
        assert updates[-1]["status"] == "completed"
        assert updates[-1]["video_url"]
        mine = await client.table("video_jobs").select("id,video_url").execute()
        assert [found["id"] for found in cast("list[dict[str, Any]]", mine.data)] == [row["id"]]
        assert (await stranger.table("video_jobs").select("id").execute()).data == []
        with pytest.raises(PostgrestAPIError):
            await (
                client.table("video_jobs")
                .update({"status": "completed"})
                .eq("id", row["id"])
                .execute()
            )


@pytest.mark.node
async def test_supabase_js_inserts_and_follows_an_own_row(world: World) -> None:
    if reason := node_is_missing():
        pytest.skip(reason)
    await asyncio.to_thread(install)
    process = await asyncio.create_subprocess_exec(
        "node", "insert.mjs",
        cwd=JS,
        env=os.environ | world.stack.env
        | {"IMAGE_URL": world.image_url, "AUDIO_URL": world.audio_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    said = json.loads(out.decode().splitlines()[-1])
    assert said["inserted"]["status"] == "queued"
    assert said["row"]["id"] == said["inserted"]["id"]
    assert (said["row"]["status"], said["row"]["progress"]) == ("completed", 100)
    ranks = [RANK[status] for status in said["heard"]]
    assert ranks == sorted(ranks)
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(said["row"]["video_url"])).content[4:8] == b"ftyp"
