"""`submit` inserts a job, uploads files where that is needed, and follows it to its end."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commands.stand import Done, Stand

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("submit")]
IMAGE, AUDIO = "https://example.com/i.png", "https://example.com/a.mp3"
ADDRESSES = ("--image", IMAGE, "--audio", AUDIO)


@pytest.fixture(autouse=True)
def _fast(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.commands.submit.LOOK_SECONDS", 0.05)
    stand.sql("delete from public.video_jobs")


async def until_inserted(stand: Stand) -> str:
    """The id of the one job, once it is there."""
    while not (rows := stand.sql("select id from public.video_jobs")):
        await asyncio.sleep(0.02)
    return str(rows[0]["id"])


async def followed(stand: Stand, *arguments: str, **end: Any) -> Done:
    """Run the command and end its job meanwhile."""
    running = asyncio.ensure_future(stand.here("submit", *ADDRESSES, *arguments))
    job = await until_inserted(stand)
    stand.force(job, status="preparing", attempt=1)
    stand.force(job, phase="done", **end)
    return await running


async def test_a_job_is_followed_to_its_video(stand: Stand) -> None:
    done = await followed(stand, status="completed", video_url="https://cdn.example.com/v.mp4")
    assert done.code == 0
    assert "status  completed" in done.out
    assert "video   https://cdn.example.com/v.mp4" in done.out


async def test_with_json_the_answer_is_the_row_and_nothing_else(stand: Stand) -> None:
    done = await followed(stand, "--json", status="completed", video_url="https://e.com/v.mp4")
    assert (done.code, done.err) == (0, "")
    assert (done.json["status"], done.json["video_url"]) == ("completed", "https://e.com/v.mp4")


async def test_a_failed_job_exits_with_1_and_its_reason(stand: Stand) -> None:
    done = await followed(
        stand, status="failed", error_code="audio_too_short", error_message="Too short."
    )
    assert done.code == 1
    assert "error   audio_too_short: Too short." in done.out


async def test_a_job_that_is_deleted_meanwhile_ends_the_waiting(stand: Stand) -> None:
    running = asyncio.ensure_future(stand.here("submit", *ADDRESSES, "--json"))
    job = await until_inserted(stand)
    stand.sql("delete from public.video_jobs where id = %s", job)
    done = await running
    assert (done.code, done.json["status"]) == (1, "cancelled")


async def test_all_wishes_reach_the_row(stand: Stand) -> None:
    user = "11111111-1111-4111-8111-111111111111"
    done = await stand.here(
        "submit", *ADDRESSES, "--no-follow", "--json", "--width", "832", "--height", "480",
        "--quality", "sd", "--prompt", "a person", "--negative-prompt", "a hat", "--seed", "7",
        "--steps", "5", "--user-id", user, "--idempotency-key", "mine",
    )  # fmt: skip
    assert done.code == 0
    wanted = {
        "image_url": IMAGE, "audio_url": AUDIO, "width": 832, "height": 480, "quality": "sd",
        "prompt": "a person", "negative_prompt": "a hat", "seed": 7, "steps": 5, "user_id": user,
        "idempotency_key": "mine", "status": "queued",
    }  # fmt: skip
    assert {name: done.json[name] for name in wanted} == wanted


async def test_the_same_idempotency_key_makes_no_second_row(stand: Stand) -> None:
    first = await stand.here("submit", *ADDRESSES, "--no-follow", "--idempotency-key", "k")
    again = await stand.here(
        "submit", *ADDRESSES, "--no-follow", "--idempotency-key", "k", "--json"
    )
    assert (first.code, again.code) == (0, 1)
    assert "one_row_per_idempotency_key" in again.json["error_message"]
    assert len(stand.sql("select id from public.video_jobs")) == 1


async def test_a_wish_that_the_table_refuses_is_told_in_its_words(stand: Stand) -> None:
    done = await stand.here(
        "submit", *ADDRESSES, "--no-follow", "--width", "481", "--height", "480", "--json"
    )
    assert done.code == 1
    assert "width_must_be_even_and_between_480_and_1920" in done.json["error_message"]


async def test_files_are_uploaded_into_the_first_input_bucket(stand: Stand, tmp_path: Path) -> None:
    image, audio = tmp_path / "Me & you.PNG", tmp_path / "ä.mp3"
    image.write_bytes(b"picture")
    audio.write_bytes(b"sound")
    user = "11111111-1111-4111-8111-111111111111"
    done = await stand.here(
        "submit", "--image", str(image), "--audio", str(audio), "--user-id", user,
        "--no-follow", "--json",
    )  # fmt: skip
    assert done.code == 0
    for column, data, suffix in (("image_url", b"picture", "png"), ("audio_url", b"sound", "mp3")):
        address = done.json[column]
        assert address.startswith(f"storage://inputs/{user}/")
        assert address.endswith(f"/{column[:5]}.{suffix}")
        async with httpx.AsyncClient(trust_env=False) as http:
            got = await http.get(
                f"{stand.stack.url}/storage/v1/object/{address.removeprefix('storage://')}",
                headers={"apikey": stand.stack.keys.service_role},
            )
        assert got.content == data


async def test_a_file_without_a_bucket_is_refused(stand: Stand, tmp_path: Path) -> None:
    image = tmp_path / "i.png"
    image.write_bytes(b"picture")
    arguments = ("submit", "--image", str(image), "--audio", AUDIO, "--json")
    done = await stand.here(*arguments, INPUT_BUCKETS="")
    assert (done.code, done.json["error_code"]) == (2, "input_forbidden")
    assert "INPUT_BUCKETS" in done.json["error_message"]


async def test_a_file_that_is_not_there_is_refused(stand: Stand, tmp_path: Path) -> None:
    done = await stand.here(
        "submit", "--image", str(tmp_path / "no.png"), "--audio", AUDIO, "--json"
    )
    assert (done.code, done.json["error_code"]) == (2, "image_missing")
    assert stand.sql("select id from public.video_jobs") == []
