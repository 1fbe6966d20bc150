"""`submit` inserts a job, uploads files where that is needed, and follows it to its end."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commands.stand import ROOT, Done, Stand, fault
from worker.supabase.jobs_table import JobsTable

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
    assert done.err.splitlines()[-1] == "failed: audio_too_short"


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


async def test_the_same_idempotency_key_leads_to_the_row_that_is_there(stand: Stand) -> None:
    key = ("--idempotency-key", "k")
    first = await stand.here("submit", *ADDRESSES, "--no-follow", *key, "--json")
    done = await followed(stand, *key, status="completed", video_url="https://e.com/v.mp4")
    assert done.code == 0
    assert f"job     {first.json['id']}" in done.out
    assert "no new job was made" in done.err
    again = await stand.here("submit", *ADDRESSES, *key, "--json")
    assert (again.code, again.json["id"], again.json["status"]) == (
        0, first.json["id"], "completed",
    )  # fmt: skip
    assert len(stand.sql("select id from public.video_jobs")) == 1


async def test_the_same_key_of_another_user_is_another_job(stand: Stand) -> None:
    ids = set()
    for user in ("1", "2"):
        whose = ("--user-id", f"0000000{user}-0000-4000-8000-000000000000")
        done = await stand.here(
            "submit", *ADDRESSES, "--no-follow", "--json", "--idempotency-key", "k", *whose
        )
        ids.add(done.json["id"])
    assert len(ids) == 2


async def test_a_key_that_is_used_again_uploads_nothing(stand: Stand, tmp_path: Path) -> None:
    image = tmp_path / "i.png"
    image.write_bytes(b"picture")
    files = ("submit", "--image", str(image), "--audio", AUDIO, "--no-follow", "--json",
             "--idempotency-key", "k")  # fmt: skip
    count = "select count(*) as n from storage.objects"
    await stand.here(*files)
    before = stand.sql(count)
    await stand.here(*files)
    assert stand.sql(count) == before


async def test_a_row_that_comes_between_look_and_insert_is_followed_too(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await stand.here("submit", *ADDRESSES, "--no-follow", "--json", "--idempotency-key=k")
    looked = JobsTable.by_key
    answers = iter([None])

    async def late(table: JobsTable, user: str | None, key: str) -> Any:
        return next(answers, "look") and await looked(table, user, key)

    monkeypatch.setattr(JobsTable, "by_key", late)
    again = await stand.here("submit", *ADDRESSES, "--no-follow", "--json", "--idempotency-key=k")
    assert (again.code, again.json["id"]) == (0, first.json["id"])


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (("--width", "481", "--height", "480"), "width must be even and between 480 and 1920."),
        (("--width", "480"), "give both width and height or neither."),
        (("--idempotency-key", "k" * 201), "idempotency_key must have 1 to 200 characters."),
        (("--negative-prompt", "n" * 1001), "negative_prompt is longer than 1000 characters."),
        (("--seed", "99999999999"), "the number 99999999999 is too large."),
    ],
)
async def test_a_wish_that_the_table_refuses_is_told_as_a_sentence(
    stand: Stand, wishes: tuple[str, ...], said: str
) -> None:
    done = await stand.here("submit", *ADDRESSES, "--no-follow", *wishes, "--json")
    assert (done.code, done.json["error_code"]) == (2, "store_refused")
    assert done.json["error_message"] == f"The table refuses this job: {said}"


async def test_an_outage_of_supabase_is_waited_out(stand: Stand) -> None:
    with fault(stand.stack.gateway, path="^/rest/v1/video_jobs", method="GET", action="status",
               status=503, times=5):  # fmt: skip
        done = await followed(stand, status="completed", video_url="https://e.com/v.mp4")
    assert (done.code, "status  completed" in done.out) == (0, True)


async def test_an_outage_that_stays_says_how_to_find_the_job(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.commands.submit.PATIENCE_SECONDS", 0.1)
    with fault(stand.stack.gateway, path="^/rest/v1/video_jobs", method="GET", action="status",
               status=503):  # fmt: skip
        done = await stand.here("submit", *ADDRESSES)
    job = str(stand.sql("select id from public.video_jobs")[0]["id"])
    assert done.code == 1
    assert f"job     {job}" in done.out
    assert f"The job goes on; `python -m worker jobs show {job}`" in done.err
    assert "doctor --only supabase" in done.err


async def test_ctrl_c_says_that_the_job_goes_on(stand: Stand) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "submit", *ADDRESSES, cwd=ROOT,
        env={"PATH": os.environ["PATH"], **stand.env},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    assert b"queued: in line" in await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    job = str(stand.sql("select id from public.video_jobs")[0]["id"])
    assert process.returncode == 130
    assert out.decode() == f"job     {job}\n"
    assert f"jobs cancel {job}` ends it." in err.decode()
    assert "Traceback" not in err.decode()


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


async def test_a_file_that_is_not_there_is_refused_before_the_other_is_uploaded(
    stand: Stand, tmp_path: Path
) -> None:
    image = tmp_path / "i.png"
    image.write_bytes(b"picture")
    count = "select count(*) as n from storage.objects"
    before = stand.sql(count)
    done = await stand.here("submit", "--image", str(image), "--audio", str(tmp_path / "no.mp3"))
    assert (done.code, done.err) == (2, f"no_such_file: {tmp_path}/no.mp3: no such file.\n")
    assert stand.sql("select id from public.video_jobs") == []
    assert stand.sql(count) == before
