"""The demo: starts all parts, inserts a job, shows its progress, checks the MP4."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Final

import av
import httpx

from devstack.demo_check import VideoFacts, differences, facts_of
from devstack.demo_daemon import Daemon, DaemonFailed
from devstack.demo_job import Job, JobFailed, Row
from devstack.demo_screen import Screen
from devstack.launch import PostgresMissing
from devstack.stack import Stack

SAMPLES: Final = Path(__file__).with_name("samples")
# Ignored by git; the videos are kept there.
OUTPUT: Final = Path("demo")
# A preview renders very fast: slow it down, so that the progress is visible.
RENDERING: Final = {"run_seconds_max": 5.0}
GOOD, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


class NoVideo(Exception):
    """The demo has no valid video; the message says why."""


def main(*, image: Path | None = None, audio: Path | None = None) -> int:
    """Run the demo with the samples or the user's own files; return the exit code."""
    files = (image or SAMPLES / "portrait.jpg", audio or SAMPLES / "speech.mp3")
    screen = Screen()
    for path in files:
        if not path.is_file():
            screen.failure(f"{path} is not a file.", [])
            return REFUSED
    data = Path(tempfile.mkdtemp(prefix="talking-head-demo-"))
    # The database may run as another user, who must be able to enter.
    data.chmod(0o755)
    # Logs of the stand-ins must not break the progress line.
    logging.basicConfig(filename=data / "stack.log", level=logging.WARNING, force=True)
    try:
        return asyncio.run(_interruptible(screen, *files, data))
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        shutil.rmtree(data, ignore_errors=True)


async def _interruptible(screen: Screen, image: Path, audio: Path, data: Path) -> int:
    """Run the demo; the first SIGINT or SIGTERM stops it cleanly, further ones are ignored."""
    work = asyncio.ensure_future(_demo(screen, image, audio, data))
    loop = asyncio.get_running_loop()
    asked = False

    def interrupt() -> None:
        nonlocal asked
        if not asked:
            asked = True
            screen.console.print("\nStopping ...")
            work.cancel()

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, interrupt)
    try:
        return await work
    except asyncio.CancelledError:
        return INTERRUPTED


async def _demo(screen: Screen, image: Path, audio: Path, data: Path) -> int:
    log = data / "worker.log"
    try:
        with screen:
            row, path = await _make_video(screen, image, audio, data, log)
            facts = await _check(screen, row, path)
    except (PostgresMissing, RuntimeError, OSError, DaemonFailed, JobFailed, NoVideo) as failed:
        screen.failure(str(failed), Daemon({}, log).last_lines())
        return FAILED
    screen.summary(row, path, facts)
    return GOOD


async def _make_video(
    screen: Screen, image: Path, audio: Path, data: Path, log: Path
) -> tuple[Row, Path]:
    screen.step("starting Postgres, the Supabase gateway and the RunPod stand-in")
    async with Stack(data=data / "stack") as stack:
        if stack.runpod is not None:
            stack.runpod.cloud.options = stack.runpod.cloud.options.changed(RENDERING)
        screen.step("starting the worker")
        daemon = Daemon(stack.env, log)
        job = Job(stack.url, stack.env["SUPABASE_ANON_KEY"])
        try:
            await daemon.start()
            screen.step(f"signing in, uploading {image.name} and {audio.name}, inserting the row")
            row = await job.insert(image, audio)
            row = await job.follow(row["id"], screen.row)
            if row["status"] != "completed":
                raise NoVideo(f"{row['error_code'] or row['status']}: {row['error_message']}")
            path = await _fetch(row, OUTPUT)
            screen.step("stopping everything")
        finally:
            await job.close()
            await daemon.stop()
    return row, path


async def _fetch(row: Row, folder: Path) -> Path:
    """Download the video to `folder`."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.get(row["video_url"])
    if answer.status_code != 200:
        raise NoVideo(f"the video's URL answered HTTP {answer.status_code}")
    return _save(answer.content, folder / f"{row['id']}.mp4")


def _save(content: bytes, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path.resolve()


async def _check(screen: Screen, row: Row, path: Path) -> VideoFacts:
    screen.step("checking the video frame by frame")
    try:
        facts = await asyncio.to_thread(facts_of, path)
    except (av.FFmpegError, IndexError) as broken:
        raise NoVideo(f"{path} is not a playable video: {broken}") from broken
    wrong = differences(facts, row)
    if wrong:
        raise NoVideo(f"{path} differs from the row: {'; '.join(wrong)}")
    return facts
