"""What the log shows, and what it must never show."""

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import structlog

from worker.runtime.logs import set_up_logs

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJlLXBhcnQ"
SIGNATURE = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
SECRETS = {
    "a service_role JWT": (JWT, "c2lnbmF0dXJl"),
    "a secret key": ("key sb_secret_AbC-123_xyzuvw is used", "sb_secret_AbC"),
    "a publishable key": ("sb_publishable_AbCdEf123456", "sb_publishable_AbC"),
    "a RunPod key": ("rpa_0123456789ABCDEFabcdef", "rpa_0123"),
    "an old RunPod key": ("A1B2C3D4E5" * 4, "A1B2C3D4E5A1"),
    "a bearer header": ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
    "a header of httpx": ("{'apikey': 'plainword-secret-9'}", "plainword"),
    "a signed Storage URL": ("https://a.supabase.co/storage/v1/object/sign/i/a.png?token=QQ", "QQ"),
    "a presigned R2 URL": (
        "https://x.r2.cloudflarestorage.com/b/v.mp4?X-Amz-Credential=AK&X-Amz-Signature=1f2e3d",
        "1f2e3d",
    ),
    "Realtime's address": ("wss://a.supabase.co/realtime/v1/websocket?apikey=wordkey", "wordkey"),
    "credentials in a URL": ("postgresql://postgres:hunter2@db.a.co:5432/postgres", "hunter2"),
    "a user alone in a URL": ("https://ghp_hunter2@example.com/x", "hunter2"),
    "a webhook's path": (f"POST /webhooks/runpod/0b5a/3/{SIGNATURE} 200", SIGNATURE[:12]),
    "a whole input": ("sending {'input': {'prompt': 'my aunt', 'image': 'x'}}", "my aunt"),
    "a secret known by value": ("it is correct-horse-battery", "correct-horse"),
}


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; afterwards all is as before."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def lines(stream: io.StringIO) -> Callable[[], list[dict[str, Any]]]:
    """The JSON lines so far."""
    set_up_logs(level="debug", style="json", stream=stream, secrets=["correct-horse-battery", ""])
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(text: str) -> None:
    raise RuntimeError(text)


@pytest.mark.parametrize("what", SECRETS)
@pytest.mark.parametrize("way", ["value", "nested", "message", "exception", "library", "chain"])
def test_no_secret_is_logged(lines: Any, stream: io.StringIO, what: str, way: str) -> None:
    text, secret = SECRETS[what]
    log, library = structlog.get_logger("worker.x"), logging.getLogger("some.library")
    if way == "value":
        log.info("thing.happened", reason=text)
    elif way == "nested":
        log.info("thing.happened", detail={"list": [{"deep": text}]})
    elif way == "message":
        library.warning("request %s failed", text)
    else:
        try:
            try:
                fail(text)
            except RuntimeError as error:
                if way == "chain":
                    raise ValueError("outer") from error
                raise
        except (RuntimeError, ValueError):
            if way == "library":
                library.exception("it failed")
            else:
                log.exception("thing.failed")
    assert len(lines()) == 1
    assert secret not in stream.getvalue()


@pytest.mark.parametrize(
    "name",
    ["api_key", "authorization", "webhook", "input", "body", "database_url"],
)
def test_fields_named_like_secrets_are_left_out(lines: Any, name: str) -> None:
    structlog.get_logger().info("thing.happened", **{name: {"anything": 1}})
    assert lines()[0][name] == "[left out]"


def test_harmless_values_stay_as_they_are(lines: Any) -> None:
    structlog.get_logger().info(
        "job.submitted", run_id="abc-123-e1", seconds=1.5, ok=True, none=None,
        url="https://cdn.example.com/video.mp4", idempotency_key="mine",
    )  # fmt: skip
    line = lines()[0]
    assert line["url"] == "https://cdn.example.com/video.mp4"
    assert (line["run_id"], line["seconds"], line["ok"], line["none"]) == (
        "abc-123-e1", 1.5, True, None,
    )  # fmt: skip
    assert line["idempotency_key"] == "mine"


def test_a_line_says_when_where_what_and_for_which_job(lines: Any) -> None:
    with structlog.contextvars.bound_contextvars(job_id="j", attempt=2):
        structlog.get_logger("worker.dispatch").info("job.submitted", run_id="r")
        logging.getLogger("httpx.else").warning("odd")
    ours, theirs = lines()
    assert (ours["event"], ours["level"], ours["logger"]) == (
        "job.submitted", "info", "worker.dispatch",
    )  # fmt: skip
    assert (ours["job_id"], ours["attempt"], ours["run_id"]) == ("j", 2, "r")
    assert ours["timestamp"].endswith("Z")
    assert (theirs["job_id"], theirs["event"]) == ("j", "odd")


def test_a_long_traceback_keeps_the_error_at_its_end(lines: Any) -> None:
    try:
        fail("x " * 10_000 + "the very reason")
    except RuntimeError:
        structlog.get_logger().exception("thing.failed")
    text = lines()[0]["exception"]
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("the very reason")
    assert len(text) < 13_000


async def test_a_crash_of_several_loops_is_readable(lines: Any, stream: io.StringIO) -> None:
    """A TaskGroup's error names each loop's own error with file and line, on lines of its own."""

    async def loop(text: str) -> None:
        fail(text)

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(loop("first reason"))
            tasks.create_task(loop("second reason"))
    except* RuntimeError as group:
        structlog.get_logger().critical("app.crashed", exc_info=group)
    text = lines()[0]["exception"]
    assert "RuntimeError: first reason" in text
    assert "RuntimeError: second reason" in text
    assert "test_logs.py" in text
    assert "\n" in text


def test_the_console_shows_tracebacks_in_full(stream: io.StringIO) -> None:
    set_up_logs(level="info", style="console", stream=stream)
    try:
        fail("the reason")
    except RuntimeError:
        structlog.get_logger().exception("thing.failed", job_id="j")
    shown = stream.getvalue()
    assert "thing.failed" in shown
    assert "job_id=j" in shown
    assert "RuntimeError: the reason\n" in shown
    assert "\x1b" not in shown


async def test_requests_of_http_libraries_are_not_logged_one_by_one(lines: Any) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200))
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("https://a.supabase.co/rest/v1/video_jobs?apikey=secretword")
    assert lines() == []


@pytest.mark.parametrize("name", ["httpx", "httpcore", "websockets", "realtime", "uvicorn", "PIL"])
def test_chatty_libraries_are_heard_from_warnings_on(lines: Any, name: str) -> None:
    set_up_logger = logging.getLogger(f"{name}.part")
    set_up_logger.info("chat")
    assert lines() == []
    assert not set_up_logger.isEnabledFor(logging.INFO)


def test_what_lies_below_the_level_is_not_printed(stream: io.StringIO) -> None:
    set_up_logs(level="warning", style="json", stream=stream)
    structlog.get_logger().info("thing.happened")
    logging.getLogger("some.library").info("chat")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_foreign_text_begins_a_line_or_steers_the_terminal(
    stream: io.StringIO, style: str
) -> None:
    set_up_logs(level="info", style=style, stream=stream)
    evil = "x\n2026-01-01 [error] forged \x1b[2J\x9b1m\u202e\u2028"
    structlog.get_logger().info("thing.happened", reason=evil, detail={evil: [evil]})
    logging.getLogger("some.library").warning("it said %s", evil)
    shown = stream.getvalue()
    assert len(shown.splitlines()) == 2
    assert not set("\x1b\x9b\u202e\u2028") & set(shown)


def test_a_traceback_keeps_its_lines_but_no_escape_sequences(stream: io.StringIO) -> None:
    set_up_logs(level="info", style="console", stream=stream)
    try:
        fail("the \x1b[2Jreason")
    except RuntimeError:
        structlog.get_logger().exception("thing.failed")
    assert "RuntimeError: the reason\n" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
