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

from tests.commands.stand import ROOT, Done, Stand, fault

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("jobs")]
USER = "11111111-1111-4111-8111-111111111111"


def failed(stand: Stand, code: str, **columns: object) -> str:
    job = stand.insert(**columns)
    stand.force(job, status="failed", phase="done", error_code=code, error_message="It failed.")
    return job


@pytest.fixture(autouse=True)
def _empty(stand: Stand) -> None:
    for table in ("video_jobs", "video_job_attempts", "video_job_events"):
        stand.sql(f"delete from public.{table}")


async def on_terminal(stand: Stand, *arguments: str, columns: int = 120) -> Done:
    """Run a command whose output is a terminal."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", *arguments, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL,
        stdout=theirs, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "COLUMNS": str(columns), "TERM": "xterm", **stand.env},
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


async def test_the_list_is_json_with_the_columns_names_when_it_is_piped(stand: Stand) -> None:
    first, second = stand.insert(), stand.insert(user_id=USER)
    done = await stand.here("jobs", "list")
    assert (done.code, done.err) == (0, "")
    assert [row["id"] for row in done.json] == [second, first]
    assert done.json[0]["user_id"] == USER
    assert done.json[0]["status"] == "queued"


async def test_no_jobs_are_an_empty_list(stand: Stand) -> None:
    assert (await stand.here("jobs", "list", "--json")).json == []


async def test_the_list_can_be_narrowed(stand: Stand) -> None:
    waiting = stand.insert(user_id=USER)
    lost = failed(stand, "run_lost")
    late = failed(stand, "queue_timeout", user_id=USER)

    async def ids(*arguments: str) -> set[str]:
        return {row["id"] for row in (await stand.here("jobs", "list", *arguments)).json}

    assert await ids("--status", "failed") == {lost, late}
    assert await ids("--status", "failed", "--status", "queued") == {lost, late, waiting}
    assert await ids("--code", "run_lost") == {lost}
    assert await ids("--user", USER) == {waiting, late}
    assert await ids("--limit", "1") == {late}


async def test_only_supabase_needs_to_be_set(stand: Stand) -> None:
    done = await stand.here("jobs", "list", RUNPOD_API_KEY="", RUNPOD_ENDPOINT_URL="")
    assert (done.code, done.json) == (0, [])
    unset = await stand.here("jobs", "list", SUPABASE_URL="")
    assert unset.code == 2
    assert "SUPABASE_URL" in unset.err


async def test_a_status_that_does_not_exist_is_refused(stand: Stand) -> None:
    done = await stand.here("jobs", "list", "--status", "flying")
    assert done.code == 2
    assert "completed" in done.err


async def test_people_see_a_table_with_whole_ids(stand: Stand) -> None:
    job = failed(stand, "image_unreadable")
    done = await on_terminal(stand, "jobs", "list")
    assert done.code == 0
    assert job in done.out
    assert "image_unreadable" in done.out
    narrow = await on_terminal(stand, "jobs", "list", columns=60)
    assert job in narrow.out
    empty = await on_terminal(stand, "jobs", "list", "--status", "running")
    assert "No job fits." in empty.out


@pytest.mark.parametrize("columns", [80, 100, 120])
async def test_states_and_error_codes_are_whole_on_any_terminal(stand: Stand, columns: int) -> None:
    failed(stand, "model_not_on_endpoint")
    running = stand.insert()
    stand.force(running, status="preparing", attempt=1, phase="checking_media", progress=5)
    done = await on_terminal(stand, "jobs", "list", columns=columns)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in done.out.splitlines()]
    assert any(re.search(r" failed +model_not_on_endpoint *$", line) for line in lines)
    assert any(re.search(rf"^{running} .* preparing +checking", line) for line in lines)
    assert max(map(len, lines)) <= columns


async def test_addresses_and_ids_are_never_broken(stand: Stand) -> None:
    job = _ran(stand)
    address = f"https://cdn.example.com/{'long/' * 40}v.mp4"
    stand.force(job, video_url=address)
    shown = (await on_terminal(stand, "jobs", "show", job, columns=40)).out
    for whole in (job, address, "run-1"):
        assert whole in shown


async def test_json_can_be_had_on_a_terminal_too(stand: Stand) -> None:
    job = stand.insert()
    done = await on_terminal(stand, "jobs", "list", "--json")
    assert json.loads(done.out)[0]["id"] == job


async def test_watching_prints_a_line_for_each_change(stand: Stand) -> None:
    job = stand.insert()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "jobs", "list", "--watch", cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"], **stand.env},
    )  # fmt: skip
    assert process.stdout is not None
    first = json.loads(await process.stdout.readline())
    stand.sql("update public.video_jobs set cancel_requested = true where id = %s", job)
    second = json.loads(await process.stdout.readline())
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    assert [(one["id"], one["status"]) for one in (first, second)] == [
        (job, "queued"),
        (job, "cancelled"),
    ]


async def test_watching_goes_on_after_an_outage(stand: Stand) -> None:
    job = stand.insert()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "jobs", "list", "--watch", cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"], **stand.env},
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()
    with fault(stand.stack.gateway, path="^/rest/v1/video_jobs", action="status", status=503,
               times=4):  # fmt: skip
        stand.sql("update public.video_jobs set cancel_requested = true where id = %s", job)
        assert json.loads(await process.stdout.readline())["status"] == "cancelled"
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0


async def test_a_job_is_shown_with_all_that_happened_to_it(stand: Stand) -> None:
    job = _ran(stand)
    done = await stand.here("jobs", "show", job)
    assert done.code == 0
    assert done.json["job"]["id"] == job
    assert done.json["gpu_seconds"] == 90.5
    assert done.json["cost_usd"] == pytest.approx(0.031)
    assert [one["runpod_job_id"] for one in done.json["submissions"]] == ["run-1", "run-2"]
    assert done.json["submissions"][1]["plan"]["frames"] == 81
    assert [one["event"] for one in done.json["events"]][:2] == ["inserted", "claimed"]


async def test_people_see_timeline_submissions_plan_seconds_and_cost(stand: Stand) -> None:
    job = _ran(stand)
    shown = (await on_terminal(stand, "jobs", "show", job)).out
    for part in (job, "frames 81", "run-1", "run-2", "run_failed", "90.5 s, $0.031",
                 "inserted", "claimed", "completed"):  # fmt: skip
        assert part in shown, part
    assert "token=" not in shown


async def test_a_deleted_job_still_shows_what_is_left(stand: Stand) -> None:
    job = _ran(stand)
    stand.sql("delete from public.video_jobs where id = %s", job)
    done = await stand.here("jobs", "show", job)
    assert done.json["job"] is None
    assert len(done.json["submissions"]) == 2
    assert "was deleted" in (await on_terminal(stand, "jobs", "show", job)).out


async def test_a_job_that_never_was_is_told(stand: Stand) -> None:
    nobody = str(uuid.uuid4())
    done = await stand.here("jobs", "show", nobody)
    assert (done.code, done.json["error_code"]) == (1, "job_missing")
    assert (await stand.here("jobs", "show", "not-an-id")).code == 2


async def test_jobs_are_cancelled_and_what_is_over_stays(stand: Stand) -> None:
    waiting, over, nobody = stand.insert(), _ran(stand), str(uuid.uuid4())
    done = await stand.here("jobs", "cancel", waiting, over)
    assert done.code == 0
    assert [row["status"] for row in done.json] == ["cancelled", "completed"]
    missing = await stand.here("jobs", "cancel", nobody)
    assert (missing.code, missing.json[0]["refused"]) == (1, "There is no such job.")
    assert (await stand.here("jobs", "cancel")).code == 2


async def test_a_failed_job_is_tried_again_and_others_are_refused_with_the_reason(
    stand: Stand,
) -> None:
    lost, waiting = failed(stand, "run_lost"), stand.insert()
    done = await stand.here("jobs", "retry", waiting, lost)
    assert done.code == 1
    assert "Only a failed or cancelled job can be tried again" in done.json[0]["refused"]
    assert (done.json[1]["status"], done.json[1]["try_number"]) == ("queued", 2)


async def test_all_that_failed_with_a_code_are_tried_again_after_a_yes(stand: Stand) -> None:
    lost = {failed(stand, "run_lost") for _ in range(3)}
    other = failed(stand, "image_unreadable")
    unasked = await stand.here("jobs", "retry", "--failed", "--code", "run_lost")
    assert unasked.code == 2
    assert "3 jobs would be tried again, which costs money: add --yes." in unasked.err
    done = await stand.here("jobs", "retry", "--failed", "--code", "run_lost", "--yes")
    assert (done.code, {row["id"] for row in done.json}) == (0, lost)
    rows = stand.sql("select id, status from public.video_jobs where status = 'failed'")
    assert [str(row["id"]) for row in rows] == [other]
    nothing = await stand.here("jobs", "retry", "--failed", "--code", "run_lost", "--yes")
    assert (nothing.code, nothing.json) == (0, [])


@pytest.mark.parametrize(
    "arguments", [(), ("--failed", str(uuid.uuid4())), (str(uuid.uuid4()), "--code", "run_lost")]
)
async def test_a_retry_says_which_jobs(stand: Stand, arguments: tuple[str, ...]) -> None:
    done = await stand.here("jobs", "retry", *arguments)
    assert (done.code, "name jobs, or use --failed" in done.err) == (2, True)


async def test_supabase_that_is_away_is_told_without_a_traceback(stand: Stand) -> None:
    done = await stand.here("jobs", "list", "--json", SUPABASE_URL="http://127.0.0.1:9")
    assert done.code == 1
    assert "does not answer" in done.json["error_message"]
    assert "Traceback" not in done.err


def _ran(stand: Stand) -> str:
    """A job whose first run failed and whose second brought the video."""
    job = stand.insert(image_url="https://example.com/i.png?token=abc")
    stand.force(job, status="preparing", attempt=1)
    for attempt, state, code, milliseconds, cost in (
        (1, "failed", "run_failed", 30_500, 0.011),
        (2, "completed", None, 60_000, 0.02),
    ):
        stand.sql(
            "insert into public.video_job_attempts (job_id, attempt, try_number, endpoint_id,"
            " runpod_job_id, state, plan, delay_ms, execution_ms, cost_usd, error_code, expires_at)"
            " values (%s, %s, 1, 'e', %s, %s, '{\"frames\": 81}', 5000, %s, %s, %s, now())",
            job, attempt, f"run-{attempt}", state, milliseconds, cost, code,
        )  # fmt: skip
    stand.force(job, status="completed", phase="done", progress=100, attempt=2,
                video_url="https://example.com/v.mp4")  # fmt: skip
    return job
