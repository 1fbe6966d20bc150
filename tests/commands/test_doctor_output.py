"""How `doctor` reports: each line when it is there, dependents at once, one line for the unmade."""

import asyncio
import contextlib
import socket

import httpx
import pytest

from tests.commands.backend import ROOT, Backend, unused_url
from worker.doctor.context import Context
from worker.doctor.examine import Check, examine
from worker.doctor.result import Result, fail, ok
from worker.settings import load_valid_settings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("doctor")]


async def _ok(_context: Context) -> Result:
    return ok("fast", "Good.")


async def _fails(_context: Context) -> Result:
    return fail("first", "Bad.", "Mend it.")


async def test_a_result_is_reported_while_others_are_still_at_work() -> None:
    settings, problems = load_valid_settings({})
    reported: list[str] = []
    done = asyncio.Event()

    async def slow(_context: Context) -> Result:
        await done.wait()
        return ok("slow", "Good.")

    def report(result: Result) -> None:
        reported.append(result.name)
        if result.name == "fast":
            done.set()  # the slow one ends only after the fast one was reported

    checks = [Check(name="slow", run=slow, seconds=20), Check(name="fast", run=_ok)]
    async with httpx.AsyncClient() as http:
        context = Context(settings=settings, problems=problems, http=http)
        results = await examine(context, checks, settings=False, report=report)
    assert reported == ["fast", "slow"]
    assert [result.name for result in results] == ["slow", "fast"]


async def test_what_comes_after_a_failed_check_is_not_even_started() -> None:
    settings, problems = load_valid_settings({})
    started: list[str] = []

    async def notes(_context: Context) -> Result:
        started.append("second")
        return ok("second", "Good.")

    checks = [
        Check(name="third", run=notes, after=("second",)),
        Check(name="second", run=notes, after=("first", "unchosen")),
        Check(name="first", run=_fails),
    ]
    async with httpx.AsyncClient() as http:
        context = Context(settings=settings, problems=problems, http=http)
        third, second, _first = await examine(context, checks, settings=False)
    assert started == []
    assert [(result.skipped, result.fix) for result in (third, second)] == [
        (True, "Fix first first."),
        (True, "Fix first first."),
    ]


async def test_checks_that_were_not_made_share_one_line(backend: Backend) -> None:
    done = await backend.command("doctor", SUPABASE_URL=unused_url())
    assert done.code == 1
    lines = done.out.splitlines()
    (folded,) = [line for line in lines if line.startswith("warn  not checked ")]
    assert folded.endswith(": fix supabase.reachable first.")
    for name in ("supabase.rls", "supabase.realtime", "storage.inputs", "storage.policies"):
        assert name in folded
    assert len([line for line in lines if "supabase." in line]) == 3
    assert lines[-1].endswith(" not checked")


async def test_the_line_of_a_fast_check_is_printed_before_a_slow_one_ends(backend: Backend) -> None:
    """RunPod hangs; the template's line is there nevertheless."""
    silent = socket.create_server(("127.0.0.1", 0))  # nobody accepts, so nothing is answered
    port = silent.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *backend.words("doctor", "--only", "template", "--only", "runpod"),
        env=backend.environment(RUNPOD_ENDPOINT_URL=f"http://127.0.0.1:{port}/v2/x"),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line.startswith(b"ok    template ")
        assert process.returncode is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        silent.close()


async def test_a_check_alone_names_the_cause_itself(backend: Backend) -> None:
    found = await backend.examine("supabase.tables", SUPABASE_URL=unused_url())
    result = found["supabase.tables"]
    assert (result.level, "does not answer: the connection is refused" in result.message) == (
        "fail",
        True,
    )


async def test_realtime_does_not_wait_for_events_of_an_unpublished_table(backend: Backend) -> None:
    backend.sql("alter publication supabase_realtime drop table public.video_jobs")
    try:
        found = await backend.examine("supabase.reach", "supabase.publi", "supabase.realtime")
    finally:
        backend.sql("alter publication supabase_realtime add table public.video_jobs")
    assert found["supabase.publication"].level == "fail"
    assert found["supabase.realtime"].waits_for == "supabase.publication"


async def test_a_missing_table_is_no_table_without_row_level_security(backend: Backend) -> None:
    backend.sql("alter table public.video_job_events rename to elsewhere")
    try:
        found = await backend.examine("supabase")
    finally:
        backend.sql("alter table public.elsewhere rename to video_job_events")
    assert found["supabase.tables"].message == "The table video_job_events is missing."
    for name in ("supabase.rls", "supabase.triggers", "supabase.constraints"):
        assert found[name].waits_for == "supabase.tables"


@pytest.mark.parametrize(
    ("limit", "level", "says"),
    [
        (1000, "fail", "refuses files above 1000 bytes; an image may have 10 MiB"),
        (5 * 1024 * 1024, "warn", "refuses files above 5 MiB; an image may have 10 MiB"),
        (10 * 1024 * 1024, "ok", "found, private"),
    ],
)
async def test_a_buckets_own_limit_is_judged(
    backend: Backend, limit: int, level: str, says: str
) -> None:
    backend.sql("update storage.buckets set file_size_limit = %s where id = 'inputs'", limit)
    try:
        found = await backend.examine("storage.inputs", "storage.prepared", MEDIA_BUCKET="inputs")
    finally:
        backend.sql("update storage.buckets set file_size_limit = 52428800 where id = 'inputs'")
    result = found["storage.inputs"]
    assert (result.level, says in result.message) == (level, True)
    assert (found["storage.prepared"].level == "fail") == (limit == 1000)


@pytest.mark.parametrize(
    ("types", "level", "says"),
    [
        ("{application/pdf}", "fail", "permit no upload of images and recordings"),
        ("{image/*}", "fail", "permit no upload of recordings"),
        ("{image/png,audio/wav}", None, ""),
        ("{*/*}", None, ""),
        (None, None, ""),
    ],
)
async def test_a_bucket_that_takes_no_media_is_reported(
    backend: Backend, types: str | None, level: str | None, says: str
) -> None:
    backend.sql("update storage.buckets set allowed_mime_types = %s where id = 'inputs'", types)
    try:
        found = (await backend.examine("storage.inputs"))["storage.inputs"]
    finally:
        backend.sql("update storage.buckets set allowed_mime_types = null where id = 'inputs'")
    assert (found.level, says in found.message) == (level or "ok", True)


async def test_spaces_and_line_ends_of_a_function_do_not_count(backend: Backend) -> None:
    """As a file pasted from Windows into the SQL editor has them."""
    (row,) = backend.sql("select pg_get_functiondef('public.video_job_pick_v1'::regproc) as text")
    text = str(row["text"])
    head, mark, body = text.partition("AS $function$")
    backend.sql(head + mark + body.replace("\n", "\r\n\r\n   "))
    assert (await backend.examine("supabase.functions"))["supabase.functions"].level == "ok"
    backend.sql(text)
