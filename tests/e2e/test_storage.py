"""Private inputs: storage:// URLs of a user's folder, and prepared copies for each run."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from uuid import uuid4

import av
import httpx
import pytest
import pytest_asyncio
from PIL import Image

from devstack.postgres import Postgres
from devstack.runpod.runs import State
from tests.e2e.kit import assert_readable, attempts, until_ready, until_true, world_on
from tests.world import World, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(90),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("e2e-storage"),
]

BUCKET = "video-prepared"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["originals", "prepared"])
async def world(postgres: Postgres, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Once as it is, with prepared inputs, once with originals passed on as signed URLs."""
    settings = {"PASS_ORIGINALS": "true"} if request.param == "originals" else {}
    options = {"no_workers": True}
    async with world_on(postgres, settings=settings, options=options) as world, running(world):
        yield world


def passes_originals(world: World) -> bool:
    return "PASS_ORIGINALS" in world.daemons[0].env


async def own_files(world: World, user: str) -> dict[str, str]:
    """Upload both inputs to the user's folder of the private bucket, and insert the row."""
    async with httpx.AsyncClient(trust_env=False) as http:
        for name, url in (("me.jpg", world.image_url), ("me.wav", world.audio_url)):
            data = (await http.get(url)).content
            await world.upload(f"{user}/{name}", data, bucket="inputs")
    base = f"storage://inputs/{user}"
    return {"user_id": user, "image_url": f"{base}/me.jpg", "audio_url": f"{base}/me.wav"}


async def objects(world: World, job_id: str) -> list[str]:
    """Return the prepared inputs of a job in the bucket."""
    rows = await world.sql(
        "select name from storage.objects where bucket_id = %s and name like %s",
        BUCKET,
        f"%{job_id}%",
    )
    return sorted(str(row["name"]) for row in rows)


async def test_a_user_s_private_files_reach_the_run_by_signed_addresses(world: World) -> None:
    """Nothing in the bucket is public: RunPod gets signed URLs, which work without a key."""
    user = str(uuid4())
    job_id = await world.insert(**await own_files(world, user))
    await world.until(job_id, "submitted", "failed")
    (run,) = world.runs_of(job_id)
    given = run.request.input
    async with httpx.AsyncClient(trust_env=False) as http:
        image = await http.get(str(given["image_url"]))
        sound = await http.get(str(given["audio_url"]))
        row = await world.job(job_id)
        public = row["image_url"].replace(
            "storage://", f"{world.stack.url}/storage/v1/object/public/"
        )
        assert (await http.get(public)).status_code >= 400
    assert (image.status_code, sound.status_code) == (200, 200)
    with av.open(io.BytesIO(sound.content)) as opened:
        assert opened.streams.audio
    size = Image.open(io.BytesIO(image.content)).size
    prepared = await objects(world, job_id)
    assert bool(prepared) is (not passes_originals(world))
    if prepared:
        assert size == (row["render_width"], row["render_height"])
        assert len(prepared) == 2
    (attempt,) = await attempts(world, job_id)
    assert attempt["input_objects"] == [f"{BUCKET}/{name}" for name in reversed(prepared)]
    run.output = {"video": ["https://videos.example/own.mp4"]}
    world.runpod.cloud.end(run, State.COMPLETED)
    assert (await world.until(job_id, "completed", "failed"))["status"] == "completed"


async def test_another_user_s_folder_is_refused(world: World) -> None:
    files = await own_files(world, str(uuid4()))
    job_id = await world.insert(**{**files, "user_id": str(uuid4())})
    row = await world.until(job_id, "failed", "submitted")
    assert (row["status"], row["error_code"]) == ("failed", "input_forbidden")
    assert_readable(row)
    assert world.runs_of(job_id) == []


@pytest.mark.parametrize(
    "path",
    ["storage://secrets/a.jpg", "storage://inputs/{user}/../other/a.jpg", "storage://inputs/"],
)
async def test_what_is_no_file_of_an_open_bucket_is_refused(world: World, path: str) -> None:
    user = str(uuid4())
    files = await own_files(world, user)
    job_id = await world.insert(**{**files, "image_url": path.format(user=user)})
    row = await world.until(job_id, "failed", "submitted")
    assert (row["status"], row["error_code"]) == ("failed", "input_forbidden")
    assert_readable(row)


async def test_prepared_inputs_of_a_cancelled_job_are_removed(world: World) -> None:
    """They are kept while a run may read them: a late run would fail at its download."""
    job_id = await world.insert(**await own_files(world, str(uuid4())))
    await world.until(job_id, "submitted", "failed")
    prepared = not passes_originals(world)
    assert len(await objects(world, job_id)) == (2 if prepared else 0)
    await world.sql("update public.video_jobs set cancel_requested = true where id = %s", job_id)
    assert (await world.until(job_id, "cancelled", "failed"))["status"] == "cancelled"

    async def gone() -> bool:
        return not await objects(world, job_id)

    await until_true(gone, "the prepared inputs are removed")
    if prepared:
        (run,) = world.runs_of(job_id)
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(str(run.request.input["image_url"]))
        assert answer.status_code >= 400


async def test_without_its_bucket_jobs_wait_and_originals_are_never_passed_on(
    postgres: Postgres,
) -> None:
    """The row says that it waits, /readyz names the bucket; once it is there, jobs go on."""
    settings, options = {"MEDIA_BUCKET": "mine"}, {"no_workers": True}
    async with world_on(postgres, settings=settings, options=options) as world, running(world):
        (daemon,) = world.daemons
        first = await world.insert()
        (reason,) = await until_ready(daemon, "down")
        assert "bucket mine" in reason
        assert "run the migrations" in reason

        async def said() -> bool:
            return "storage must be repaired" in ((await world.job(first))["phase_detail"] or "")

        await until_true(said, "the row says why it waits")
        assert world.runpod.runs == []
        await world.stack.gateway.storage.create_bucket("mine", public=False)
        second = await world.insert()
        assert (await world.until(second, "submitted", "failed"))["status"] == "submitted"
        await until_ready(daemon, "ok")
        assert (await world.job(first))["status"] != "failed"
