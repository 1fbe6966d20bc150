"""The threads that decode media: few, cancellable, and not on the event loop."""

import asyncio
import io
import threading

import pytest

from worker.jobs.errors import JobFailed
from worker.media.threads import MediaThreads, WorkStopped, refuse_text


@pytest.fixture
def threads():
    made = MediaThreads(2)
    yield made
    made.close()


async def test_work_runs_on_media_threads(threads):
    name = await threads.run(lambda stopped: threading.current_thread().name)
    assert name.startswith("media")


async def test_an_error_of_the_work_reaches_the_caller(threads):
    def failing(stopped):
        raise JobFailed("audio_unreadable", "No.")

    with pytest.raises(JobFailed):
        await threads.run(failing)


async def test_a_cancelled_caller_stops_the_work_and_waits_for_it(threads):
    started, ended = threading.Event(), threading.Event()

    def long_work(stopped):
        started.set()
        while not stopped():
            ended.wait(0.005)
        ended.set()
        raise WorkStopped

    task = asyncio.ensure_future(threads.run(long_work))
    await asyncio.to_thread(started.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_work_that_has_not_begun_never_begins_after_a_cancel(threads):
    release, begun = threading.Event(), []
    blocking = [asyncio.ensure_future(threads.run(lambda stopped: release.wait(5))) for _ in "12"]
    waiting = asyncio.ensure_future(threads.run(lambda stopped: begun.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
    await asyncio.gather(*blocking)
    assert begun == []


async def test_never_two_images_at_once_but_sound_beside_one(threads):
    inside, most = 0, 0
    lock, both = threading.Lock(), threading.Barrier(2)

    def image(stopped):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        if stopped():
            raise WorkStopped
        with lock:
            inside -= 1

    await asyncio.gather(*(threads.run_image(image) for _ in range(8)))
    assert most == 1
    await asyncio.gather(
        threads.run_image(lambda stopped: both.wait(5)), threads.run(lambda stopped: both.wait(5))
    )


@pytest.mark.parametrize("kind", ["image", "audio"])
@pytest.mark.parametrize(
    "data", [b"", b"<!DOCTYPE HTML>", b" \n<html>", b'{"error": 1}', b"#EXTM3U"]
)
def test_text_instead_of_media_is_refused(kind, data):
    with pytest.raises(JobFailed) as failed:
        refuse_text(io.BytesIO(data), kind=kind)
    assert failed.value.code == f"{kind}_unreadable"


def test_the_first_look_leaves_the_file_at_its_start():
    file = io.BytesIO(b"\xff\xfb\x90 sound")
    file.read()
    refuse_text(file, kind="audio")
    assert file.tell() == 0
