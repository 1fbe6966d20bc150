"""`frames`, `plan` and `request` need no account and are exact."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest

from tests.commands.conftest import Answer
from tests.workflow.comfy import findings, object_info

Run = Callable[..., Answer]
REQUEST = (
    "request", "--image-url", "https://cdn.example/face.png",
    "--audio-url", "https://cdn.example/speech.mp3", "--audio-seconds",
)  # fmt: skip


def test_frames_of_21_seconds(run: Run) -> None:
    """The guide's own example."""
    answer = run("frames", "21", "--json")
    assert answer.code == 0
    assert answer.json == {
        "frames": 513,
        "windows": 7,
        "sampled_windows": 9,
        "video_duration": 20.52,
        "seconds_cut": 0.48,
        "seconds_padded": 0.0,
        "audio_duration": 21.0,
    }


@pytest.mark.parametrize(
    ("seconds", "frames"),
    [("37.8", 945), ("37.80", 945), ("378e-1", 945), ("37.799999999999999999", 873), ("3.24", 81)],
)
def test_seconds_are_read_as_exact_decimals(run: Run, seconds: str, frames: int) -> None:
    """A float would give 873 instead of 945."""
    assert run("frames", seconds, "--json").json["frames"] == frames


@pytest.mark.parametrize(
    ("seconds", "code"),
    [("3.2399999", "audio_too_short"), ("0", "audio_too_short"), ("60.000001", "audio_too_long"),
     ("1e99", "audio_too_long")],
)  # fmt: skip
def test_a_refusal_is_json_and_exits_2(run: Run, seconds: str, code: str) -> None:
    """The code is the one that a row would get."""
    answer = run("frames", seconds, "--json")
    assert answer.code == 2
    assert answer.json["error_code"] == code
    assert answer.json["error_message"]
    plain = run("frames", seconds)
    assert (plain.code, plain.out) == (2, "")
    assert plain.err.startswith(f"{code}: ")


@pytest.mark.parametrize(
    "seconds", ["", "abc", "nan", "inf", "1e999", "1_0", "٣", "1" * 200, "21s"]
)
def test_text_that_is_not_a_number_is_wrong_usage(run: Run, seconds: str) -> None:
    """It never reaches the arithmetic."""
    answer = run("frames", seconds, "--json")
    assert (answer.code, answer.out) == (2, "")
    assert "Invalid value" in answer.err


def test_frames_for_people(run: Run) -> None:
    """One sentence."""
    assert "513 frames (20.52 s)" in run("frames", "21").out


def test_the_operators_settings_are_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans use the worker's settings; keys and URLs are not needed."""
    monkeypatch.setenv("FRAME_ALIGNMENT", "template")
    monkeypatch.setenv("RUNPOD_ENDPOINT_URL", "nonsense")
    assert run("frames", "21", "--json").json["frames"] == 473
    monkeypatch.setenv("MAX_FRAMES", "many")
    answer = run("frames", "21", "--json")
    assert (answer.code, answer.json["error_code"]) == (2, "settings_invalid")
    assert "MAX_FRAMES" in answer.json["error_message"]


def test_a_plan_for_files(run: Run, speech: Path, landscape: Path) -> None:
    """The files are decoded."""
    answer = run("plan", str(speech), "--image", str(landscape), "--quality", "fullhd", "--json")
    assert answer.code == 0
    plan = answer.json
    assert (plan["frames"], plan["windows"], plan["sampled_windows"]) == (153, 2, 3)
    assert (plan["audio_duration"], plan["video_duration"], plan["seconds_cut"]) == (
        7.0,
        6.12,
        0.88,
    )
    assert (plan["render_width"], plan["render_height"]) == (1280, 720)
    assert (plan["model"], plan["lora"], plan["steps"]) == ("Q5_0", "rank256", 6)
    assert 1 <= plan["seed_used"] <= 999_999
    assert plan["estimated_cost_usd"] is None
    assert {notice["code"] for notice in plan["warnings"]} == {"audio_trimmed", "speech_cut"}


def test_a_plan_for_people(run: Run, speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table, and the warnings below it."""
    monkeypatch.setenv("GPU_PRICE_PER_SECOND", "0.001")
    answer = run("plan", str(speech), "--width", "1080", "--height", "1920", "--seed", "7")
    assert answer.code == 0
    for text in (
        "7.00 s",
        "153 frames",
        "1072x1920",
        "Q5_0, rank64, 4 steps",
        "$",
        "\nwarning  size_adjusted: ",
    ):
        assert text in answer.out


def test_a_plan_without_a_price_says_what_to_set_and_no_line_is_wrapped_or_padded(
    run: Run, speech: Path
) -> None:
    out = run("plan", str(speech)).out
    assert "Cost     unknown: set GPU_PRICE_PER_SECOND\n" in out
    assert not [line for line in out.splitlines() if line != line.rstrip()]
    assert [line for line in out.splitlines() if len(line) > 80 and line.startswith("warning  ")]


def test_a_missing_file_is_reported_in_plain_words(run: Run, tmp_path: Path) -> None:
    for given, message in (("no.mp3", "no.mp3: no such file."), (str(tmp_path), "is a folder"),
                        ("ftp://e.com/a.mp3", "neither a file nor an https://")):  # fmt: skip
        answer = run("plan", given)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith("no_such_file: ")
        assert message in answer.err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--width", "100", "--height", "720"], "size_invalid"),
        (["--width", "720"], "size_invalid"),
        (["--quality", "best"], "quality_invalid"),
        (["--seed", "1000000"], "seed_invalid"),
        (["--steps", "9"], "steps_invalid"),
        (["--image", "nowhere.png"], "no_such_file"),
    ],
)
def test_an_invalid_plan_is_refused(run: Run, speech: Path, options: list[str], code: str) -> None:
    """As the row would be refused."""
    answer = run("plan", str(speech), *options, "--json")
    assert (answer.code, answer.json["error_code"]) == (2, code)


def test_a_file_that_is_not_audio_is_refused(run: Run, landscape: Path, tmp_path: Path) -> None:
    """A picture, an empty file, nothing at all, a folder."""
    empty = tmp_path / "empty.mp3"
    empty.touch()
    for path, code in ((landscape, "audio_unreadable"), (empty, "audio_unreadable"),
                       (tmp_path / "none.mp3", "no_such_file"),
                       (tmp_path, "no_such_file")):  # fmt: skip
        answer = run("plan", str(path), "--json")
        assert (answer.code, answer.json["error_code"]) == (2, code)


def test_a_file_beyond_the_limit_is_refused(
    run: Run, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is the same as for uploads."""
    monkeypatch.setenv("MAX_AUDIO_BYTES", str(speech.stat().st_size))
    assert run("plan", str(speech), "--json").json["error_code"] == "audio_too_large"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.mp3", "storage://inputs/a.mp3"])
def test_urls_that_a_row_may_not_use_are_refused_here_too(run: Run, url: str) -> None:
    """The command fetches only what the worker would."""
    answer = run("plan", url, "--json")
    assert (answer.code, answer.json["error_code"]) == (2, "input_forbidden")


@pytest.fixture
def served(speech: Path, landscape: Path) -> Iterator[str]:
    """The base URL of a server that has the speech and the picture."""
    files = {"/speech": speech.read_bytes(), "/picture": landscape.read_bytes()}

    class Files(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path, b"")
            self.send_response(200 if body else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_plan_for_urls(run: Run, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched as the worker does, with the same result as for files."""
    monkeypatch.setenv("INPUT_ALLOW_PRIVATE_HOSTS", served.removeprefix("http://"))
    answer = run("plan", f"{served}/speech", "--image", f"{served}/picture", "--json")
    assert (answer.code, answer.json["frames"], answer.json["render_width"]) == (0, 153, 1280)
    down = run("plan", f"{served}/down", "--json")
    assert (down.code, down.json["error_code"]) == (1, "audio_unreachable")


def test_the_request_is_the_body_of_run(run: Run) -> None:
    """For a job with the nil UUID, without a webhook."""
    answer = run(*REQUEST, "21", "--seed", "7", "--quality", "sd", "--json")
    assert answer.code == 0
    body = answer.json
    assert body.keys() == {"input", "policy"}
    graph = body["input"].pop("workflow")
    assert body["input"] == {
        "image_url": "https://cdn.example/face.png",
        "audio_url": "https://cdn.example/speech.mp3",
        "width": 720,
        "height": 1280,
    }
    assert graph["18"]["inputs"]["num_frames"] == 513
    assert graph["16"]["inputs"]["seed"] == 7
    assert "Q4_0" in graph["5"]["inputs"]["model"]
    assert str(UUID(int=0)) in graph["23"]["inputs"]["filename_prefix"]
    assert body["policy"] == {"executionTimeout": 2_706_000, "ttl": 8_106_000}
    for state in ("nov2025", "feb2026"):
        assert findings(graph, object_info(state)) == []


def test_the_request_for_people_is_the_same(run: Run) -> None:
    """It is meant for a pipe or a diff."""
    with_json = run(*REQUEST, "21", "--seed", "7", "--json")
    assert json.loads(run(*REQUEST, "21", "--seed", "7").out) == with_json.json


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((*REQUEST, "2"), "audio_too_short"),
        ((*REQUEST, "21", "--height", "99"), "size_invalid"),
        ((*REQUEST, "9", "--image-url", "face.png"), "image_unreachable"),
    ],
)  # fmt: skip
def test_an_invalid_request_is_refused(run: Run, arguments: tuple[str, ...], code: str) -> None:
    """Before anything is printed."""
    answer = run(*arguments, "--json")
    assert (answer.code, answer.json["error_code"]) == (2, code)
