"""Attacks by hosts and by rows: tar-pits, hosts with two faces, and floods of statements."""

from __future__ import annotations

import asyncio
import itertools
import json
from uuid import uuid4

import httpx

from tests.attack.hosts import TAR_PITS, two_faces
from tests.attack.scene import Scene

# One less than there are places in preparation, and more.
SOME_USERS, TOO_MANY_USERS, FEW_USERS = 31, 64, 10
ROWS_OF_A_USER, MOST_ROWS = 200, 12_000
FAILING_ROWS = 150


async def tar_pits(scene: Scene, users: int = SOME_USERS) -> None:
    """Users whose files are on hosts that answer as slowly as is permitted, or more slowly."""
    scene.answers |= TAR_PITS
    urls = [f"{scene.host}{path}" for path in TAR_PITS]
    await scene.keep_up(
        lambda number: {
            "image_url": urls[number % len(urls)],
            "audio_url": urls[number // len(urls) % len(urls)],
        },
        users,
    )


async def more_tar_pits_than_places(scene: Scene) -> None:
    """The same by more users than there are places."""
    await tar_pits(scene, TOO_MANY_USERS)


async def hosts_with_two_faces(scene: Scene) -> None:
    """A host serves a good file to the worker and something else to everybody else."""
    world = scene.world
    async with httpx.AsyncClient(trust_env=False) as http:
        good = [(await http.get(url)).content for url in (world.image_url, world.audio_url)]
    scene.answers |= {"/i": two_faces(good[0], b"other"), "/a": two_faces(good[1], b"other")}
    urls = {"image_url": f"{scene.host}/i", "audio_url": f"{scene.host}/a"}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.keep_up(lambda number: urls, FEW_USERS))
        tasks.create_task(_watch_inputs(scene))


async def _watch_inputs(scene: Scene) -> None:
    """Note every run whose GPU worker would ask the hostile host itself."""
    seen: set[str] = set()
    while True:
        for run in scene.world.runpod.runs:
            if run.id not in seen:
                seen.add(run.id)
                if scene.host in json.dumps(run.request.input):
                    scene.broken.append(f"run {run.id} fetches from the hostile host")
                scene.noted["runs looked at"] += 1
        await asyncio.sleep(0.5)


async def cancelled_inserts(scene: Scene) -> None:
    """12,000 rows that are cancelled when they are inserted: one user's, then of many users."""
    one = str(uuid4())
    insert = (
        "insert into public.video_jobs (image_url, audio_url, cancel_requested) "
        "select 'https://a.example/i', 'https://a.example/a', true from generate_series(1, %s)"
    )
    await scene.as_browser(one, insert, MOST_ROWS)
    while True:
        made = await scene.as_browser(str(uuid4()), insert, ROWS_OF_A_USER)
        scene.noted["rows inserted"] += max(made, 0)
        if scene.noted["rows inserted"] >= MOST_ROWS:
            await asyncio.sleep(0.5)


async def retry_cycles(scene: Scene) -> None:
    """Updates that change nothing, and a job that is cancelled and retried for ever."""
    users = [str(uuid4()) for _ in range(4)]
    jobs = [await scene.insert_hostile(user) for user in users]
    cancel = "update public.video_jobs set cancel_requested = true where id = %s"
    same = "update public.video_jobs set cancel_requested = cancel_requested where id = %s"
    retry = "select status from public.retry_video_job_v1(%s)"
    for number in itertools.count():
        user, job = users[number % 4], jobs[number % 4]
        for statement in (cancel, same, same, retry):
            await scene.as_browser(user, statement, job)
        scene.noted["cycles"] += 1
        await asyncio.sleep(0.02)


async def failing_rows(scene: Scene) -> None:
    """150 rows of one user, none of which can be fetched."""
    missing = f"{scene.world.image_url}.missing"
    user = str(uuid4())
    for _ in range(FAILING_ROWS):
        await scene.insert_hostile(user, image_url=missing, audio_url=missing)
    await asyncio.Event().wait()
