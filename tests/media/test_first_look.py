"""The first check of a file's bytes, and two pieces of work at the same time."""

import asyncio
import io

import pytest

from worker.jobs.errors import InputUnavailable, JobFailed
from worker.media.first_look import refuse_text
from worker.media.together import both


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


async def test_an_error_that_ends_the_job_is_raised_before_one_that_may_pass():
    async def failing(error: Exception) -> None:
        await asyncio.sleep(0)
        raise error

    passing = InputUnavailable("image_unreachable", "503")
    with pytest.raises(JobFailed):
        await both(failing(passing), failing(JobFailed("audio_unreadable", "No.")))
