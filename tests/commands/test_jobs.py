"""`jobs` lists, shows, cancels and retries, for people and for programs."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
import uuid

import pytest

from tests.commands.backend import ROOT, Backend, Done, fault

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("jobs")]
USER = "11111111-1111-4111-8111-111111111111"


def failed(backend: Backend, code: str, **columns: object) -> str:
    job = backend.insert(**columns)
    backend.force(job, status="failed", phase="done", error_code=code, error_message="It failed.")
    return job


@pytest.fixture(autouse=True)
def _empty(backend: Backend) -> None:
    for table in ("video_jobs", "video_job_attempts", "video_job_events"):
        backend.sql(f"delete from public.{table}")


async def on_terminal(backend: Backend, *arguments: str, columns: int = 120) -> Done:
    """Run a command whose output is a terminal."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", *arguments, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "COLUMNS": str(columns), "TERM": "xterm", **backend.env},
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 65_536):
                shown.extend(chunk)
        except OSError:
            return

    await asyncio.to_thread(read)
    _, err = await process.communicate()
    os.close(ours)
    return Done(process.returncode or 0, shown.decode(), err.decode())


async def test_the_list_is_json_with_the_columns_names_when_it_is_piped(backend: Backend) -> None:
    first, second = backend.insert(), backend.insert(user_id=USER)
    done = await backend.here("jobs", "list")
    assert (done.code, done.err) == (0, "")
    assert [row["id"] for row in done.json] == [second, first]
    assert done.json[0]["user_id"] == USER
    assert done.json[0]["status"] == "queued"


async def test_no_jobs_are_an_empty_list(backend: Backend) -> None:
    assert (await backend.here("jobs", "list", "--json")).json == []


async def test_the_list_can_be_filtered(backend: Backend) -> None:
    waiting = backend.insert(user_id=USER)
    lost = failed(backend, "run_lost")
    late = failed(backend, "queue_timeout", user_id=USER)

    async def ids(*arguments: str) -> set[str]:
        return {row["id"] for row in (await backend.here("jobs", "list", *arguments)).json}

    assert await ids("--status", "failed") == {lost, late}
    assert await ids("--status", "failed", "--status", "queued") == {lost, late, waiting}
    assert await ids("--code", "run_lost") == {lost}
    assert await ids("--user", USER) == {waiting, late}
    assert await ids("--limit", "1") == {late}


async def test_only_supabase_needs_to_be_set(backend: Backend) -> None:
    done = await backend.here("jobs", "list", RUNPOD_API_KEY="", RUNPOD_ENDPOINT_URL="")
    assert (done.code, done.json) == (0, [])
    unset = await backend.here("jobs", "list", SUPABASE_URL="")
    assert unset.code == 2
    assert "SUPABASE_URL" in unset.err


async def test_a_status_that_does_not_exist_is_refused(backend: Backend) -> None:
    done = await backend.here("jobs", "list", "--status", "flying")
    assert done.code == 2
    assert "completed" in done.err


async def test_people_see_a_table_with_whole_ids(backend: Backend) -> None:
    job = failed(backend, "image_unreadable")
    done = await on_terminal(backend, "jobs", "list")
    assert done.code == 0
    assert job in done.out
    assert "image_unreadable" in done.out
    narrow = await on_terminal(backend, "jobs", "list", columns=60)
    assert job in narrow.out
    empty = await on_terminal(backend, "jobs", "list", "--status", "running")
    assert "No matching jobs." in empty.out


@pytest.mark.parametrize("columns", [80, 100, 120])
async def test_states_and_error_codes_are_whole_on_any_terminal(
    backend: Backend, columns: int
) -> None:
    failed(backend, "model_not_on_endpoint")
    running = backend.insert()
    backend.force(running, status="preparing", attempt=1, phase="checking_media", progress=5)
    done = await on_terminal(backend, "jobs", "list", columns=columns)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in done.out.splitlines()]
    assert any(re.search(r" failed +model_not_on_endpoint *$", line) for line in lines)
    assert any(re.search(rf"^{running} .* preparing +checking", line) for line in lines)
    assert max(map(len, lines)) <= columns


async def test_urls_and_ids_are_never_wrapped(backend: Backend) -> None:
    job = _ran(backend)
    url = f"https://cdn.example.com/{'long/' * 40}v.mp4"
    backend.force(job, video_url=url)
    shown = (await on_terminal(backend, "jobs", "show", job, columns=40)).out
    for whole in (job, url, "run-1"):
        assert whole in shown


async def test_json_on_a_terminal(backend: Backend) -> None:
    job = backend.insert()
    done = await on_terminal(backend, "jobs", "list", "--json")
    assert json.loads(done.out)[0]["id"] == job


async def test_watching_prints_a_line_for_each_change(backend: Backend) -> None:
    job = backend.insert()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "jobs", "list", "--watch", cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"], **backend.env},
    )  # fmt: skip
    assert process.stdout is not None
    first = json.loads(await process.stdout.readline())
    backend.sql("update public.video_jobs set cancel_requested = true where id = %s", job)
    second = json.loads(await process.stdout.readline())
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    assert [(row["id"], row["status"]) for row in (first, second)] == [
        (job, "queued"),
        (job, "cancelled"),
    ]


async def test_watching_continues_after_an_outage(backend: Backend) -> None:
    job = backend.insert()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "jobs", "list", "--watch", cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"], **backend.env},
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()
    with fault(backend.stack.gateway, path="^/rest/v1/video_jobs", action="status", status=503,
               times=4):  # fmt: skip
        backend.sql("update public.video_jobs set cancel_requested = true where id = %s", job)
        assert json.loads(await process.stdout.readline())["status"] == "cancelled"
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0


async def test_a_job_is_shown_with_its_whole_history(backend: Backend) -> None:
    job = _ran(backend)
    done = await backend.here("jobs", "show", job)
    assert done.code == 0
    assert done.json["job"]["id"] == job
    assert done.json["gpu_seconds"] == 90.5
    assert done.json["cost_usd"] == pytest.approx(0.031)
    assert [row["runpod_job_id"] for row in done.json["submissions"]] == ["run-1", "run-2"]
    assert done.json["submissions"][1]["plan"]["frames"] == 81
    assert [row["event"] for row in done.json["events"]][:2] == ["inserted", "claimed"]


async def test_people_see_timeline_submissions_plan_seconds_and_cost(backend: Backend) -> None:
    job = _ran(backend)
    shown = (await on_terminal(backend, "jobs", "show", job)).out
    for part in (job, "frames 81", "run-1", "run-2", "run_failed", "90.5 s, $0.031",
                 "inserted", "claimed", "completed"):  # fmt: skip
        assert part in shown, part
    assert "token=" not in shown


async def test_a_deleted_job_still_shows_its_history(backend: Backend) -> None:
    job = _ran(backend)
    backend.sql("delete from public.video_jobs where id = %s", job)
    done = await backend.here("jobs", "show", job)
    assert done.json["job"] is None
    assert len(done.json["submissions"]) == 2
    assert "was deleted" in (await on_terminal(backend, "jobs", "show", job)).out


async def test_a_job_that_never_was_is_reported(backend: Backend) -> None:
    nobody = str(uuid.uuid4())
    done = await backend.here("jobs", "show", nobody)
    assert (done.code, done.json["error_code"]) == (1, "job_missing")
    assert (await backend.here("jobs", "show", "not-an-id")).code == 2


async def test_jobs_are_cancelled_and_ended_jobs_stay(backend: Backend) -> None:
    waiting, over, nobody = backend.insert(), _ran(backend), str(uuid.uuid4())
    done = await backend.here("jobs", "cancel", waiting, over)
    assert done.code == 0
    assert [row["status"] for row in done.json] == ["cancelled", "completed"]
    missing = await backend.here("jobs", "cancel", nobody)
    assert (missing.code, missing.json[0]["refused"]) == (1, "There is no such job.")
    assert (await backend.here("jobs", "cancel")).code == 2


async def test_a_failed_job_is_retried_and_others_are_refused_with_the_reason(
    backend: Backend,
) -> None:
    lost, waiting = failed(backend, "run_lost"), backend.insert()
    done = await backend.here("jobs", "retry", waiting, lost)
    assert done.code == 1
    assert "Only a failed or cancelled job can be tried again" in done.json[0]["refused"]
    assert (done.json[1]["status"], done.json[1]["try_number"]) == ("queued", 2)


async def test_all_jobs_that_failed_with_a_code_are_retried_with_yes(backend: Backend) -> None:
    lost = {failed(backend, "run_lost") for _ in range(3)}
    other = failed(backend, "image_unreadable")
    unasked = await backend.here("jobs", "retry", "--failed", "--code", "run_lost")
    assert unasked.code == 2
    assert (
        "Retry 3 jobs? Each is a paid GPU run. To run without a question, add --yes." in unasked.err
    )
    done = await backend.here("jobs", "retry", "--failed", "--code", "run_lost", "--yes")
    assert (done.code, {row["id"] for row in done.json}) == (0, lost)
    rows = backend.sql("select id, status from public.video_jobs where status = 'failed'")
    assert [str(row["id"]) for row in rows] == [other]
    nothing = await backend.here("jobs", "retry", "--failed", "--code", "run_lost", "--yes")
    assert (nothing.code, nothing.json) == (0, [])


@pytest.mark.parametrize(
    "arguments", [(), ("--failed", str(uuid.uuid4())), (str(uuid.uuid4()), "--code", "run_lost")]
)
async def test_a_retry_needs_ids_or_failed(backend: Backend, arguments: tuple[str, ...]) -> None:
    done = await backend.here("jobs", "retry", *arguments)
    assert (done.code, "give job ids, or use --failed" in done.err) == (2, True)


async def test_an_outage_of_supabase_is_reported_without_a_traceback(backend: Backend) -> None:
    done = await backend.here("jobs", "list", "--json", SUPABASE_URL="http://127.0.0.1:9")
    assert done.code == 1
    assert "does not answer" in done.json["error_message"]
    assert "Traceback" not in done.err


def _ran(backend: Backend) -> str:
    """Insert a job whose first run failed and whose second run made the video."""
    job = backend.insert(image_url="https://example.com/i.png?token=abc")
    backend.force(job, status="preparing", attempt=1)
    for attempt, state, code, milliseconds, cost in (
        (1, "failed", "run_failed", 30_500, 0.011),
        (2, "completed", None, 60_000, 0.02),
    ):
        backend.sql(
            "insert into public.video_job_attempts (job_id, attempt, try_number, endpoint_id,"
            " runpod_job_id, state, plan, delay_ms, execution_ms, cost_usd, error_code, expires_at)"
            " values (%s, %s, 1, 'e', %s, %s, '{\"frames\": 81}', 5000, %s, %s, %s, now())",
            job, attempt, f"run-{attempt}", state, milliseconds, cost, code,
        )  # fmt: skip
    backend.force(job, status="completed", phase="done", progress=100, attempt=2,
                video_url="https://example.com/v.mp4")  # fmt: skip
    return job


async def test_texts_of_rows_cannot_steer_the_terminal(backend: Backend) -> None:
    """A row holds people's and RunPod's texts, also those that other programs wrote."""
    evil = "\x1b]0;owned\x07\x1b[2Jgone\u202e"
    job = backend.insert(prompt="x", image_url=f"https://a.example/{evil}.png", user_id=USER)
    backend.force(job, status="failed", phase="done", error_code="run_lost", error_message=evil)
    waiting = backend.insert()
    backend.force(waiting, phase_detail=evil)
    backend.sql(
        "insert into public.video_job_attempts (job_id, attempt, try_number, endpoint_id, state,"
        " expires_at, plan, error_code, raw_error) values (%s, 1, 1, 'e', 'failed', now(), '{}',"
        " 'run_failed', %s)", job, f"line\nbreak {evil}",
    )  # fmt: skip
    for arguments in (("show", job), ("list",), ("show", waiting)):
        shown = (await on_terminal(backend, "jobs", *arguments)).out
        assert "gone" in shown
        assert "owned" not in shown
        assert "\x1b[2J" not in shown
        assert "\u202e" not in shown
    assert (await backend.here("jobs", "list", "--json")).json[0]["phase_detail"] == evil
