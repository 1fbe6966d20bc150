"""Bad input ends in the right terminal row, with a code for programs and a sentence for people."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from devstack.postgres import Postgres
from devstack.runpod.runs import MISSING, State
from tests.e2e.kit import assert_readable, attempts, calm, until_true, world_on
from tests.world import World, running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(90),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("e2e-bad-input"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """One bad row and its expected end; {…} is replaced by a URL of the world."""

    name: str
    column: str
    url: str
    code: str
    words: str


FILES = [
    Bad(name="audio-404", column="audio_url", url="{samples}/none.mp3",
        code="audio_unreachable", words="answered"),
    Bad(name="image-404", column="image_url", url="{samples}/none.jpg",
        code="image_unreachable", words="answered"),
    Bad(name="audio-no-such-host", column="audio_url", url="https://nowhere.invalid/a.mp3",
        code="audio_unreachable", words="nowhere.invalid"),
    Bad(name="image-no-such-host", column="image_url", url="https://nowhere.invalid/i.jpg",
        code="image_unreachable", words="nowhere.invalid"),
    Bad(name="audio-private-host", column="audio_url", url="https://127.0.0.1:4443/a.mp3",
        code="input_forbidden", words="private network"),
    Bad(name="image-metadata-host", column="image_url", url="http://169.254.169.254/latest",
        code="input_forbidden", words="https"),
    Bad(name="audio-is-html", column="audio_url", url="{samples}/page.mp3",
        code="audio_unreadable", words="audio"),
    Bad(name="image-is-html", column="image_url", url="{samples}/page.jpg",
        code="image_unreadable", words="image"),
    Bad(name="audio-too-short", column="audio_url", url="{samples}/short.wav",
        code="audio_too_short", words="3.24"),
    Bad(name="audio-too-long", column="audio_url", url="{samples}/long.wav",
        code="audio_too_long", words="60"),
]  # fmt: skip


def tone(seconds: float) -> bytes:
    """Return a WAV file with a tone."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        period = b"".join(
            ((i % 80) * 300 - 12000).to_bytes(2, "little", signed=True) for i in range(80)
        )
        file.writeframes(period * round(seconds * 100))
    return out.getvalue()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(postgres: Postgres) -> AsyncIterator[World]:
    settings = {"MAX_IN_FLIGHT": "50", "MAX_QUEUED_RUNS": "50"}
    async with world_on(postgres, settings=settings) as world, running(world):
        page = b"<!doctype html><title>Sign in</title><h1>Please sign in</h1>"
        await world.upload("page.mp3", page)
        await world.upload("page.jpg", page)
        await world.upload("short.wav", tone(2.0))
        await world.upload("long.wav", tone(61.0))
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> AsyncIterator[World]:
    yield shared
    await calm(shared)
    shared.runpod.cloud.options = shared.runpod.cloud.options.changed(
        {"fail_text": None, "hang": 0.0}
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rows(shared: World) -> dict[str, str]:
    """Insert all bad rows together, since some need several attempts with pauses."""
    samples = shared.image_url.rpartition("/")[0]
    return {
        bad.name: await shared.insert(**{bad.column: bad.url.format(samples=samples)})
        for bad in FILES
    }


@pytest.mark.parametrize("bad", FILES, ids=lambda bad: bad.name)
async def test_media_that_cannot_be_used_fail_the_job_without_a_run(
    world: World, rows: dict[str, str], bad: Bad
) -> None:
    row = await world.until(rows[bad.name], "failed", "completed", "cancelled")
    assert (row["status"], row["error_code"]) == ("failed", bad.code)
    assert bad.words in row["error_message"]
    assert_readable(row)
    assert (row["phase"], row["submissions"], row["video_url"]) == ("done", 0, None)
    assert row["completed_at"] is not None
    assert world.runs_of(rows[bad.name]) == []


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_runpod_refuses_fails_at_once(world: World, status: int) -> None:
    """The refusal is recorded, is not counted as a submission and delays no other job."""
    body = {"error": "input.workflow is not what this endpoint takes"}
    world.runpod.faults.add(
        {"path": "/run$", "action": "status", "status": status, "body": body, "times": 1}
    )
    job_id = await world.insert()
    row = await world.until(job_id, "failed", "completed")
    assert (row["status"], row["error_code"], row["submissions"]) == ("failed", "run_refused", 0)
    assert str(status) in row["error_message"]
    assert "input.workflow is not" in row["error_message"]
    assert_readable(row)
    assert [row["state"] for row in await attempts(world, job_id)] == ["refused"]
    assert (await world.until(await world.insert(), "completed", "failed"))["status"] == "completed"


async def test_a_run_that_completes_without_a_video_is_looked_at_again_then_fails(
    world: World,
) -> None:
    world.runpod.cloud.options = world.runpod.cloud.options.changed({"hang": 1.0})
    job_id = await world.insert()
    await world.until(job_id, "running")
    looks = world.runpod.faults.add({"path": "/status/", "action": "delay"})
    (run,) = world.runs_of(job_id)
    run.output = MISSING
    world.runpod.cloud.end(run, State.COMPLETED)
    row = await world.until(job_id, "failed", "completed")
    assert (row["status"], row["error_code"]) == ("failed", "result_missing")
    assert row["video_url"] is None
    assert_readable(row)
    assert looks.hits >= 2, "asked again at least once, however slow this machine is"
    assert len(world.runs_of(job_id)) == 1


async def test_a_video_that_shows_up_late_is_taken(world: World) -> None:
    """COMPLETED arrives first without output, as sometimes at RunPod."""
    world.runpod.cloud.options = world.runpod.cloud.options.changed({"hang": 1.0})
    job_id = await world.insert()
    await world.until(job_id, "running")
    looks = world.runpod.faults.add({"path": "/status/", "action": "delay"})
    (run,) = world.runs_of(job_id)
    run.output = MISSING
    world.runpod.cloud.end(run, State.COMPLETED)
    assert await world.runpod.faults.wait_hit(looks.id, count=1)
    run.output = {"video": [f"{world.stack.url}/storage/v1/object/public/results/late.mp4"]}
    row = await world.until(job_id, "failed", "completed")
    assert (row["status"], row["progress"]) == ("completed", 100)
    assert row["video_url"].endswith("/late.mp4")


FAILURES = {
    "plain": ("RuntimeError: shapes do not fit", "run_failed", "shapes do not fit"),
    "sdk-json": (
        json.dumps({
            "error_type": "<class 'KeyError'>",
            "error_message": "'workflow'",
            "error_traceback": "Traceback (most recent call last):\n  File \"/handler.py\", line 9",
        }),
        "run_failed",
        "GPU worker",
    ),
    "chinese": ("发生未知错误: HTTP Error 400: Bad Request", "run_failed", "ComfyUI refused"),
    "chinese-without-a-clue": ("工作流执行失败: 节点 12 崩溃", "run_failed", "operator"),
    "model-missing": ("Value not in list: model_name: 'x' not in []", "model_not_on_endpoint", ""),
    "traceback": (
        'Traceback (most recent call last):\n  File "/handler.py", line 1, in <module>\nValueError',
        "run_failed",
        "GPU worker",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failed_run_says_why_and_keeps_the_raw_text(world: World, name: str) -> None:
    text, code, words = FAILURES[name]
    world.runpod.cloud.options = world.runpod.cloud.options.changed({"fail_text": text})
    job_id = await world.insert()
    row = await world.until(job_id, "failed", "completed")
    assert (row["status"], row["error_code"]) == ("failed", code)
    assert words in row["error_message"]
    assert row["error_message"].isascii()
    assert_readable(row)
    (attempt,) = await attempts(world, job_id)
    assert attempt["raw_error"]
    assert len(world.runs_of(job_id)) == 1


async def test_what_can_never_be_right_is_refused_at_insert_by_a_named_constraint(
    world: World,
) -> None:
    wrong = {
        "width": 481, "height": 4000, "quality": "4k", "seed": -1, "steps": 99,
        "prompt": "x" * 20_000, "negative_prompt": "x" * 20_000,
        "image_url": "x" * 5000, "audio_url": "x" * 5000,
    }  # fmt: skip
    for column, value in wrong.items():
        with pytest.raises(Exception, match=column.removesuffix("_url")) as refused:
            await world.insert(**{column: value})
        assert refused.type.__name__ == "CheckViolation"


async def test_no_traceback_was_logged_for_bad_input(world: World, rows: dict[str, str]) -> None:
    async def all_ended() -> bool:
        found = await world.sql(
            "select count(*) as n from public.video_jobs where status not in "
            "('completed', 'failed', 'cancelled')"
        )
        return not found[0]["n"]

    await until_true(all_ended, "every bad row has ended")
    assert "Traceback" not in world.daemons[0].words()
