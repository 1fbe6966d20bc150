"""The demo shows a whole job, refuses bad files and leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from devstack import media
from devstack.demo_check import VideoFacts, differences, facts_of
from devstack.demo_screen import Screen
from tests.devstack.runpod_kit import SAMPLES

REPOSITORY = Path(__file__).parents[2]

# Adopts every orphan of the demo, and prints after its end which of them still run.
GUARD = """
import ctypes, json, os, pathlib, signal, subprocess, sys, time

ctypes.CDLL(None).prctl(36, 1)
demo = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGINT, lambda *_: demo.send_signal(signal.SIGINT))
signal.signal(signal.SIGUSR1, lambda *_: demo.kill())
code = demo.wait()

def children():
    found = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = entry.read_text().partition(" (")[2].rpartition(") ")
        except OSError:
            continue
        if rest.split()[1] == str(os.getpid()) and rest.split()[0] != "Z":
            found[entry.parent.name] = name
    return found

deadline = time.monotonic() + 10
while children() and time.monotonic() < deadline:
    time.sleep(0.05)
print(json.dumps({"code": code, "left": children()}), flush=True)
"""


@contextmanager
def demo(tmp_path: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the demo under the guard, in its own directory and temporary directory."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # If root runs the database as another user, that user must be able to enter.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == scratch.owner() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    process = subprocess.Popen(
        [sys.executable, "-c", GUARD, sys.executable, "-m", "devstack", "demo", *arguments],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(scratch),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with process:
            yield process
    finally:
        if process.poll() is None:
            process.kill()


def reach(process: "subprocess.Popen[str]", moment: str) -> None:
    """Read until the demo reaches this moment."""
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or not re.search(moment, lines[-1]):
        lines.append(process.stdout.readline())
        assert lines[-1], "the demo ended before:\n" + "".join(lines)


def ending(process: "subprocess.Popen[str]") -> tuple[list[str], dict[str, Any]]:
    """Return the remaining output of the demo, and the result of the guard."""
    assert process.stdout is not None
    *lines, last = process.stdout.read().splitlines()
    return lines, json.loads(last)


@pytest.mark.e2e
def test_it_ends_with_the_path_of_a_valid_video_and_leaves_no_process(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        lines, end = ending(process)
    assert end == {"code": 0, "left": {}}, "\n".join(lines)
    video = Path(lines[-1])
    assert video.parent == tmp_path / "demo"
    facts = facts_of(video)
    assert (facts.width, facts.height, facts.frames) == (720, 1280, 225)
    assert any("rendering" in line for line in lines)
    steps = [line.partition(" s  ")[2] for line in lines if re.match(r" *\d+\.\d s  ", line)]
    assert steps
    assert len(steps) == len(set(steps)), "a step is printed twice"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_names_with_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.step("uploading [me].jpg")
    screen.failure("[me].jpg is not a file.", [])
    printed = capsys.readouterr().out
    assert "uploading [me].jpg" in printed
    assert "No video: [me].jpg is not a file." in printed


@pytest.mark.e2e
def test_it_says_why_a_file_cannot_be_used(tmp_path: Path) -> None:
    voice = tmp_path / "voice.mp3"
    voice.write_bytes((SAMPLES / "README.md").read_bytes())
    with demo(tmp_path, "--audio", str(voice)) as process:
        lines, end = ending(process)
    assert end == {"code": 1, "left": {}}
    assert "No video: audio_unreadable" in lines[-1]
    assert any("worker" in line for line in lines)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_it_refuses_a_missing_file(tmp_path: Path) -> None:
    with demo(tmp_path, "--image", "nowhere.png") as process:
        lines, end = ending(process)
    assert end == {"code": 2, "left": {}}
    assert lines[-1] == "No video: nowhere.png is not a file."


@pytest.mark.e2e
@pytest.mark.parametrize(
    "moment",
    ["starting Postgres", "starting the worker", "inserting the row", "job (submitted|running)"],
)
def test_an_interrupt_at_any_moment_leaves_no_process_and_no_files(
    tmp_path: Path, moment: str
) -> None:
    with demo(tmp_path) as process:
        reach(process, moment)
        process.send_signal(signal.SIGINT)
        lines, end = ending(process)
    assert end == {"code": 130, "left": {}}, "\n".join(lines)
    assert "Traceback" not in "\n".join(lines)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.e2e
def test_killing_it_leaves_no_process(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        reach(process, "job (submitted|running)")
        process.send_signal(signal.SIGUSR1)
        _, end = ending(process)
    assert end == {"code": -signal.SIGKILL, "left": {}}


def test_a_video_is_compared_with_its_row_point_by_point(tmp_path: Path) -> None:
    media.render(
        image=SAMPLES / "portrait.jpg",
        audio=SAMPLES / "speech.mp3",
        target=tmp_path / "video.mp4",
        width=480,
        height=832,
        frames=81,
    )
    facts = facts_of(tmp_path / "video.mp4")
    row = {"render_width": 480, "render_height": 832, "frames": 81}
    assert differences(facts, row) == []
    assert differences(facts, {**row, "frames": 82}) == ["frames: expected 82, got 81"]


def test_every_kind_of_difference_is_named() -> None:
    facts = VideoFacts(
        codec="vp9",
        pixels="yuv444p",
        width=1,
        height=2,
        rate=Fraction(24),
        frames=50,
        sound=None,
        sound_seconds=0.0,
    )
    found = differences(facts, {"render_width": 2, "render_height": 1, "frames": 81})
    assert len(found) == 8
