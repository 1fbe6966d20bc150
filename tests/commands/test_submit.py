"""`submit` inserts a job, uploads files if needed, and waits for its end."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commands.backend import ROOT, Backend, Done, fault
from worker.supabase.jobs_table import JobsTable

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("submit")]
IMAGE, AUDIO = "https://example.com/i.png", "https://example.com/a.mp3"
URLS = ("--image", IMAGE, "--audio", AUDIO)


@pytest.fixture(autouse=True)
def _fast(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.commands.submit.POLL_SECONDS", 0.05)
    backend.sql("delete from public.video_jobs")


async def until_inserted(backend: Backend) -> str:
    """Wait for the job and return its id."""
    while not (rows := backend.sql("select id from public.video_jobs")):
        await asyncio.sleep(0.02)
    return str(rows[0]["id"])


async def followed(backend: Backend, *arguments: str, **end: Any) -> Done:
    """Run the command and end its job in the meantime."""
    running = asyncio.ensure_future(backend.here("submit", *URLS, *arguments))
    job = await until_inserted(backend)
    backend.force(job, status="preparing", attempt=1)
    backend.force(job, phase="done", **end)
    return await running


async def test_a_job_is_followed_to_its_video(backend: Backend) -> None:
    done = await followed(backend, status="completed", video_url="https://cdn.example.com/v.mp4")
    assert done.code == 0
    assert "status  completed" in done.out
    assert "video   https://cdn.example.com/v.mp4" in done.out


async def test_with_json_the_answer_is_the_row_and_nothing_else(backend: Backend) -> None:
    done = await followed(backend, "--json", status="completed", video_url="https://e.com/v.mp4")
    assert (done.code, done.err) == (0, "")
    assert (done.json["status"], done.json["video_url"]) == ("completed", "https://e.com/v.mp4")


async def test_a_failed_job_exits_with_1_and_its_reason(backend: Backend) -> None:
    done = await followed(
        backend, status="failed", error_code="audio_too_short", error_message="Too short."
    )
    assert done.code == 1
    assert "error   audio_too_short: Too short." in done.out
    assert done.err.splitlines()[-1] == "failed: audio_too_short"


async def test_a_job_that_is_deleted_meanwhile_ends_the_waiting(backend: Backend) -> None:
    running = asyncio.ensure_future(backend.here("submit", *URLS, "--json"))
    job = await until_inserted(backend)
    backend.sql("delete from public.video_jobs where id = %s", job)
    done = await running
    assert (done.code, done.json["status"]) == (1, "cancelled")


async def test_all_options_reach_the_row(backend: Backend) -> None:
    user = "11111111-1111-4111-8111-111111111111"
    done = await backend.here(
        "submit", *URLS, "--no-follow", "--json", "--width", "832", "--height", "480",
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


async def test_the_same_idempotency_key_finds_the_existing_row(backend: Backend) -> None:
    key = ("--idempotency-key", "k")
    first = await backend.here("submit", *URLS, "--no-follow", *key, "--json")
    done = await followed(backend, *key, status="completed", video_url="https://e.com/v.mp4")
    assert done.code == 0
    assert f"job     {first.json['id']}" in done.out
    assert "no new job was created" in done.err
    again = await backend.here("submit", *URLS, *key, "--json")
    assert (again.code, again.json["id"], again.json["status"]) == (
        0, first.json["id"], "completed",
    )  # fmt: skip
    assert len(backend.sql("select id from public.video_jobs")) == 1


async def test_the_same_key_of_another_user_is_another_job(backend: Backend) -> None:
    ids = set()
    for user in ("1", "2"):
        whose = ("--user-id", f"0000000{user}-0000-4000-8000-000000000000")
        done = await backend.here(
            "submit", *URLS, "--no-follow", "--json", "--idempotency-key", "k", *whose
        )
        ids.add(done.json["id"])
    assert len(ids) == 2


async def test_a_key_that_is_used_again_uploads_nothing(backend: Backend, tmp_path: Path) -> None:
    image = tmp_path / "i.png"
    image.write_bytes(b"picture")
    files = ("submit", "--image", str(image), "--audio", AUDIO, "--no-follow", "--json",
             "--idempotency-key", "k")  # fmt: skip
    count = "select count(*) as n from storage.objects"
    await backend.here(*files)
    before = backend.sql(count)
    await backend.here(*files)
    assert backend.sql(count) == before


async def test_a_row_inserted_between_query_and_insert_is_followed_too(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await backend.here("submit", *URLS, "--no-follow", "--json", "--idempotency-key=k")
    original = JobsTable.by_key
    answers = iter([None])

    async def late(table: JobsTable, user: str | None, key: str) -> Any:
        return next(answers, "query") and await original(table, user, key)

    monkeypatch.setattr(JobsTable, "by_key", late)
    again = await backend.here("submit", *URLS, "--no-follow", "--json", "--idempotency-key=k")
    assert (again.code, again.json["id"]) == (0, first.json["id"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--width", "481", "--height", "480"), "width must be even and between 480 and 1920."),
        (("--width", "480"), "give both width and height or neither."),
        (("--idempotency-key", "k" * 201), "idempotency_key must have 1 to 200 characters."),
        (("--negative-prompt", "n" * 1001), "negative_prompt is longer than 1000 characters."),
        (("--seed", "99999999999"), "the number 99999999999 is too large."),
    ],
)
async def test_an_option_that_the_table_refuses_is_told_as_a_sentence(
    backend: Backend, options: tuple[str, ...], message: str
) -> None:
    done = await backend.here("submit", *URLS, "--no-follow", *options, "--json")
    assert (done.code, done.json["error_code"]) == (2, "store_refused")
    assert done.json["error_message"] == f"The table refuses this job: {message}"


async def test_a_short_outage_of_supabase_is_survived(backend: Backend) -> None:
    with fault(backend.stack.gateway, path="^/rest/v1/video_jobs", method="GET", action="status",
               status=503, times=5):  # fmt: skip
        done = await followed(backend, status="completed", video_url="https://e.com/v.mp4")
    assert (done.code, "status  completed" in done.out) == (0, True)


async def test_a_long_outage_tells_how_to_find_the_job(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.commands.submit.OUTAGE_SECONDS", 0.1)
    with fault(backend.stack.gateway, path="^/rest/v1/video_jobs", method="GET", action="status",
               status=503):  # fmt: skip
        done = await backend.here("submit", *URLS)
    job = str(backend.sql("select id from public.video_jobs")[0]["id"])
    assert done.code == 1
    assert f"job     {job}" in done.out
    assert f"The job keeps running; see `python -m worker jobs show {job}`." in done.err
    assert "doctor --only supabase" in done.err


async def test_ctrl_c_tells_how_to_cancel_the_job(backend: Backend) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "submit", *URLS, cwd=ROOT,
        env={"PATH": os.environ["PATH"], **backend.env},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    assert b"queued: in line" in await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    job = str(backend.sql("select id from public.video_jobs")[0]["id"])
    assert process.returncode == 130
    assert out.decode() == f"job     {job}\n"
    assert (
        f"The job keeps running; cancel it with `python -m worker jobs cancel {job}`."
        in err.decode()
    )
    assert "Traceback" not in err.decode()


async def test_files_are_uploaded_into_the_first_input_bucket(
    backend: Backend, tmp_path: Path
) -> None:
    image, audio = tmp_path / "Me & you.PNG", tmp_path / "ä.mp3"
    image.write_bytes(b"picture")
    audio.write_bytes(b"sound")
    user = "11111111-1111-4111-8111-111111111111"
    done = await backend.here(
        "submit", "--image", str(image), "--audio", str(audio), "--user-id", user,
        "--no-follow", "--json",
    )  # fmt: skip
    assert done.code == 0
    for column, data, suffix in (("image_url", b"picture", "png"), ("audio_url", b"sound", "mp3")):
        url = done.json[column]
        assert url.startswith(f"storage://inputs/{user}/")
        assert url.endswith(f"/{column[:5]}.{suffix}")
        async with httpx.AsyncClient(trust_env=False) as http:
            got = await http.get(
                f"{backend.stack.url}/storage/v1/object/{url.removeprefix('storage://')}",
                headers={"apikey": backend.stack.keys.service_role},
            )
        assert got.content == data


async def test_a_file_without_a_bucket_is_refused(backend: Backend, tmp_path: Path) -> None:
    image = tmp_path / "i.png"
    image.write_bytes(b"picture")
    arguments = ("submit", "--image", str(image), "--audio", AUDIO, "--json")
    done = await backend.here(*arguments, INPUT_BUCKETS="none")
    assert (done.code, done.json["error_code"]) == (2, "input_forbidden")
    assert "INPUT_BUCKETS" in done.json["error_message"]


async def test_a_missing_file_is_refused_before_the_other_is_uploaded(
    backend: Backend, tmp_path: Path
) -> None:
    image = tmp_path / "i.png"
    image.write_bytes(b"picture")
    count = "select count(*) as n from storage.objects"
    before = backend.sql(count)
    done = await backend.here("submit", "--image", str(image), "--audio", str(tmp_path / "no.mp3"))
    assert (done.code, done.err) == (2, f"no_such_file: {tmp_path}/no.mp3: no such file.\n")
    assert backend.sql("select id from public.video_jobs") == []
    assert backend.sql(count) == before
