"""Whatever RunPod sends is read the same way, and an ended run says why it holds no video."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.jobs.errors import CODES
from worker.jobs.failures import classify_failure
from worker.jobs.run import RunBodyInvalid, RunState, RunUpdate, parse_run
from worker.jobs.text import one_line, redact, safe_prompt

SHAPES = json.loads(
    (Path(__file__).parents[1] / "data" / "runpod" / "production_shapes.json").read_text()
)
VIDEO = "https://pub-x.r2.dev/6d1e_infinitetalk_00001-audio.mp4"


def body(status: str, **fields: Any) -> dict[str, Any]:
    """A job object."""
    return {"id": "run-1", "status": status, **fields}


def failed(error: object, **fields: Any) -> RunUpdate:
    """A failed run with this error."""
    return parse_run(body("FAILED", error=error, **fields))


@pytest.mark.parametrize(
    ("shape", "state"),
    [
        ("run_200", RunState.QUEUED),
        ("status_in_queue", RunState.QUEUED),
        ("status_in_progress_with_progress", RunState.RUNNING),
        ("status_stuck_in_progress_after_late_progress", RunState.RUNNING),
        ("status_completed", RunState.COMPLETED),
        ("status_failed_platform_worker_lost", RunState.FAILED),
        ("webhook_completed_cloud", RunState.COMPLETED),
        ("cancel_200", RunState.CANCELLED),
        ("retry_200", RunState.QUEUED),
    ],
)
def test_real_bodies_are_read(shape: str, state: RunState) -> None:
    """As the service has sent them."""
    found = SHAPES[shape]["body"]
    update = parse_run(found)
    assert update.state is state
    assert update.run_id == found["id"]
    assert update.delay_ms == found.get("delayTime")
    assert update.execution_ms == found.get("executionTime")


@pytest.mark.parametrize(
    "shape", ["purge_queue_200", "health_200_observed", "error_4xx", "stream_200"]
)
def test_bodies_of_other_calls_are_no_runs(shape: str) -> None:
    """They name no run."""
    with pytest.raises(RunBodyInvalid):
        parse_run(SHAPES[shape]["body"])


@pytest.mark.parametrize("value", [None, [], "x", 3, True, {}, {"id": "a"}, {"status": "FAILED"},
                                   {"id": "a/b", "status": "FAILED"}, {"id": "", "status": "X"},
                                   {"id": "a", "status": " "}, {"id": "a" * 201, "status": "X"},
                                   {"error": "endpoint not found"}])  # fmt: skip
def test_what_is_no_job_object_is_told_so(value: object) -> None:
    """Another look may show one: the error is transient."""
    with pytest.raises(RunBodyInvalid):
        parse_run(value)


def test_a_body_about_another_run_is_not_taken() -> None:
    """One that names none is."""
    assert parse_run({"status": "IN_QUEUE"}, run_id="run-1").run_id == "run-1"
    with pytest.raises(RunBodyInvalid, match="another run"):
        parse_run(body("COMPLETED"), run_id="run-2")


@pytest.mark.parametrize(
    ("word", "state"),
    [("RUNNING", RunState.RUNNING), ("in_queue", RunState.QUEUED), ("TIMED_OUT",
     RunState.TIMED_OUT), ("PAUSED", RunState.UNKNOWN)],
)  # fmt: skip
def test_words_are_read_in_any_case_and_new_ones_end_nothing(word: str, state: RunState) -> None:
    """An unknown word keeps the run open."""
    assert parse_run(body(word)).state is state
    assert not RunState.UNKNOWN.terminal


@pytest.mark.parametrize(
    "output",
    [{"video": [VIDEO]}, {"video": VIDEO}, {"video_url": VIDEO}, {"video": ["", None, VIDEO]}],
)
def test_the_videos_address_is_found(output: object) -> None:
    """In every form that handlers use."""
    assert parse_run(body("COMPLETED", output=output)).video_url == VIDEO


@pytest.mark.parametrize(
    "video",
    ["", " ", "ftp://a/b", "a.mp4", "https://", "https://a b/c", "https://[::1", "https://u:p@h/x",
     "javascript:alert(1)", "https://h:99999/x", "https://h/\x00", "https://h/" + "x" * 2000,
     3, None, {}, [], [3], [[VIDEO]], {"a": VIDEO}],
)  # fmt: skip
def test_what_is_no_web_address_is_no_video(video: object) -> None:
    """It would stand as a link in somebody's page."""
    assert parse_run(body("COMPLETED", output={"video": video})).video_url is None


@pytest.mark.parametrize("status", ["IN_QUEUE", "IN_PROGRESS", "FAILED", "CANCELLED", "TIMED_OUT"])
def test_only_a_completed_run_has_a_video(status: str) -> None:
    """Progress stands in the same place."""
    assert parse_run(body(status, output={"video": [VIDEO]})).video_url is None


@pytest.mark.parametrize(
    ("reported", "progress"),
    [(40, 40.0), (0, 0.0), (100.0, 100.0), ("4/10", 40.0), ("45%", 45.0), (" 12.5 ", 12.5),
     (101, None), (-1, None), (float("nan"), None), (float("inf"), None), (True, None),
     ("x", None), ("1/0", None), ("20/10", None), (None, None), (10**400, None), ("9" * 50, None)],
)  # fmt: skip
def test_progress_is_taken_only_as_reported(reported: object, progress: float | None) -> None:
    """0 to 100, else nothing."""
    update = parse_run(body("IN_PROGRESS", output={"progress": reported}))
    assert update.progress == progress
    assert parse_run(body("COMPLETED", output={"progress": reported})).progress is None


def test_a_phase_is_taken_only_if_it_is_one_of_ours() -> None:
    """The endpoint's handler reports none; ours may."""
    assert parse_run(body("IN_PROGRESS", output={"phase": "saving"})).phase == "saving"
    assert parse_run(body("IN_PROGRESS", output={"phase": "done"})).phase is None
    assert parse_run(body("IN_PROGRESS", output={"phase": []})).phase is None


@pytest.mark.parametrize("value", [-1, "3", True, None, 10**20, float("nan"), float("inf"), []])
def test_odd_times_are_left_out(value: object) -> None:
    """They would not fit their column."""
    assert parse_run(body("COMPLETED", executionTime=value)).execution_ms is None


def test_an_sdk_error_keeps_its_message_and_loses_its_host() -> None:
    """The SDK puts JSON text into the error."""
    update = parse_run(SHAPES["status_failed_handler_raised"]["body"] | {"id": "run-1"})
    assert update.error is not None
    assert json.loads(update.error)["error_message"] == "boom"
    assert "hostname" not in update.error


def test_errors_lose_their_secrets_and_are_not_endless() -> None:
    """They are kept, and shown to operators."""
    update = failed(f"boom https://u:p@h/x?token=abc sb_secret_abc {'x' * 5000}")
    assert update.error is not None
    assert len(update.error) <= 2000
    assert "abc" not in update.error
    assert "u:p" not in update.error
    long = json.dumps({"error_message": '\\"\n' * 5000, "error_traceback": "\x01" * 5000})
    kept = failed(long).error
    assert kept is not None
    assert len(kept) <= 2000
    assert json.loads(kept)["error_message"]


@pytest.mark.parametrize("value", [{"a": 1}, [1], 3, {"deep": [[[[]]]]}])
def test_an_error_that_is_no_text_is_kept_as_json(value: object) -> None:
    """RunPod passes through what a handler returns."""
    assert failed(value).error == json.dumps(value)


def test_an_error_inside_the_output_counts_too() -> None:
    """Handlers nest it, and the run then completes."""
    assert parse_run(body("COMPLETED", output={"error": "CUDA out of memory"})).error
    assert parse_run(body("COMPLETED", error="")).error is None


@pytest.mark.parametrize(
    ("error", "code", "resend"),
    [
        ("executionTimeout exceeded", "run_timed_out", False),
        ("job timed out after 1 retries", "run_lost", True),
        ("无法从指定的URL下载图片: https://h/a.png?token=secret", "input_download_failed", True),
        ("无法从指定的URL下载音频: https://h/a.mp3", "input_download_failed", True),
        ("输入错误: 'workflow' 键是必需的，且其值必须是一个有效的JSON对象。", "run_failed", False),
        ("提供了 'image_url' 但在工作流中找不到 'LoadImage' 节点。", "run_failed", False),
        ("工作流中必须包含一个 'VHS_VideoCombine' 节点作为输出。", "run_failed", False),
        ("执行超时或工作流未生成任何视频输出。", "run_failed", False),
        ("处理过程中发生未知错误: HTTP Error 400: Bad Request", "run_failed", False),
        ("Value not in list: model: 'x.gguf' not in ['y.gguf']", "model_not_on_endpoint", False),
        ("Cannot execute because node FancyNode does not exist.", "model_not_on_endpoint", False),
        ("No module named 'sageattention'", "model_not_on_endpoint", False),
        ("torch.OutOfMemoryError: CUDA out of memory.", "run_failed", True),
        ("Allocation on device 0 would exceed allowed memory", "run_failed", True),
        ("RuntimeError: CUDA error: device-side assert triggered", "run_failed", True),
        ("Worker was preempted", "run_failed", True),
        ("处理过程中发生未知错误: <urlopen error [Errno 111] Connection refused>",
         "run_failed", True),
        ("处理过程中发生未知错误: An error occurred (NoSuchBucket) when calling the PutObject "
         "operation", "output_upload_failed", False),
        ("处理过程中发生未知错误: Parameter validation failed:\nInvalid type for parameter Bucket",
         "output_upload_failed", False),
        ("something new", "run_failed", False),
        ("", "run_failed", False),
        (None, "run_failed", False),
    ],
)  # fmt: skip
def test_a_failed_run_says_why(error: object, code: str, resend: bool) -> None:
    """The platform's texts, the handler's Chinese ones, ComfyUI's and the GPU's."""
    failure = classify_failure(failed(error))
    assert (failure.code, failure.resend) == (code, resend)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('Traceback (most recent call last):\n  File "/h.py"\nValueError: odd\n', "odd"),
        ('boom\nTraceback (most recent call last):\n  File "/h.py", line', "boom"),
        ('Traceback (most recent call last):\\n File "/h.py"', "no reason"),
    ],
    ids=["whole", "cut", "escaped"],
)  # fmt: skip
def test_a_bare_traceback_never_reaches_people(text: str, words: str) -> None:
    update = parse_run({"id": "a-u1", "status": "FAILED", "error": text})
    message = classify_failure(update).message
    assert words in message
    assert "Traceback" not in message
    assert "/h.py" not in message


def test_an_sdk_error_is_shown_without_its_traceback() -> None:
    """Only the message is for people."""
    text = json.dumps(
        {"error_type": "<class 'ValueError'>", "error_message": "bad width", "error_traceback": "T"}
    )
    failure = classify_failure(failed(text))
    assert failure.code == "run_failed"
    assert "bad width" in failure.message
    assert "traceback" not in failure.message
    assert "ValueError" not in failure.message
    raw = RunUpdate(run_id="a", state=RunState.FAILED, error=text)
    assert classify_failure(raw).message == failure.message


def test_a_run_that_ran_out_of_time_goes_again_only_if_it_never_started() -> None:
    """What has run was paid."""
    waited = classify_failure(parse_run(body("TIMED_OUT", delayTime=60_000)))
    assert (waited.code, waited.resend) == ("run_timed_out", True)
    ran = classify_failure(parse_run(body("TIMED_OUT", executionTime=9)))
    assert (ran.code, ran.resend) == ("run_timed_out", False)


def test_a_run_that_somebody_else_cancelled_is_not_sent_again() -> None:
    """Somebody meant it."""
    failure = classify_failure(parse_run(body("CANCELLED")))
    assert (failure.code, failure.resend) == ("run_cancelled", False)


def test_a_completed_run_without_a_video_is_no_success() -> None:
    """Its reason, if there is one, is told."""
    shape = "status_completed_without_output_because_worker_result_post_was_refused_400"
    assert classify_failure(parse_run(SHAPES[shape]["body"])).code == "result_missing"
    told = parse_run(body("COMPLETED", output={"error": "Value not in list"}))
    assert classify_failure(told).code == "model_not_on_endpoint"


def test_messages_are_for_people() -> None:
    """English, one line, without addresses' secrets."""
    failure = classify_failure(failed("oops\nat https://h/x?token=abc " + "y" * 900))
    assert "\n" not in failure.message
    assert "abc" not in failure.message
    assert len(failure.message) < 600
    foreign = classify_failure(failed("处理过程中发生未知错误: 出错了"))
    assert foreign.message.isascii()
    assert foreign.code in CODES


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("GET https://h/a/b?x=1#y now", "GET https://h/a/b now"),
        ("http://u:p@h:8/x", "http://h:8/x"),
        ("Authorization: Bearer abc.def", "Authorization: [hidden]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJpZCI6MX0.sig", "[hidden]"),
        ("api_key=abc, next", "[hidden], next"),
        ("/webhooks/runpod/id/1/hmac", "/webhooks/runpod/[hidden]"),
        ("rpa_ABC123", "[hidden]"),
        ("a\x00b\ud800", "ab?"),
    ],
)
def test_secrets_leave_texts(text: str, clean: str) -> None:
    """Before anything is stored or shown."""
    assert redact(text) == clean


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "piece", ["a-", "token", "eyJ", "https://", ":1 ", "(a:1", "=x ", "Bearer "]
)
def test_long_texts_take_no_long_time(piece: str) -> None:
    """Megabytes of what almost matches."""
    redact(piece * 500_000)
    failed(piece * 500_000)
    safe_prompt(piece * 300 + "x")


def test_one_line_is_one_line() -> None:
    """Of the length that was asked for."""
    assert one_line("a\n b\t\tc", limit=10) == "a b c"
    assert one_line("x" * 20, limit=10) == "x" * 9 + "…"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=15,
)
FIELDS = st.fixed_dictionaries(
    {"id": st.just("run-1") | JSON, "status": st.sampled_from(list("X")) | JSON},
    optional=dict.fromkeys(
        ("output", "error", "delayTime", "executionTime", "retries", "workerId"), JSON
    ),
)
STATUS = st.sampled_from(["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "TIMED_OUT", "ODD"])
OUTPUT = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("video", "progress", "phase", "error"), JSON)
)


@given(value=JSON | FIELDS)
def test_any_json_is_a_run_or_is_not(value: Any) -> None:
    """Nothing else is ever raised."""
    try:
        update = parse_run(value)
    except RunBodyInvalid:
        return
    _check(update)


@given(status=STATUS, output=OUTPUT | JSON, error=JSON)
def test_any_fields_of_a_run_are_read(status: str, output: Any, error: Any) -> None:
    """And an ended run can always be told why."""
    _check(parse_run(body(status, output=output, error=error)))


def _check(update: RunUpdate) -> None:
    assert update.progress is None or 0 <= update.progress <= 100
    assert update.error is None or len(update.error.encode()) >= len(update.error) >= 1
    assert update.error is None or len(update.error) <= 2000
    if update.state.terminal and update.video_url is None:
        failure = classify_failure(update)
        assert failure.code in CODES
        assert failure.message.encode()
        assert len(failure.message) <= 1000


def test_deeply_nested_json_does_no_harm() -> None:
    """Nesting is the oldest trick."""
    value: Any = []
    for _ in range(5000):
        value = [value]
    update = failed(value, output=value)
    assert update.error == "an error that is not text"
    assert failed("{" + '"a":{' * 50_000).state is RunState.FAILED
