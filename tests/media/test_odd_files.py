"""Odd files are read or refused: any other exception is a defect of the decoders' code."""

import io
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from tempfile import TemporaryFile
from typing import BinaryIO

import pytest

from tests.media.odd_files import IMAGES, SOUNDS, altered
from worker.jobs.errors import JobFailed
from worker.media.audio import probe_audio
from worker.media.audio_render import render_audio
from worker.media.decoder.messages import facts_as_json, read_audio_facts
from worker.media.images import probe_image, render_image

SEEDS = range(12)


@contextmanager
def on_disk(data: bytes) -> Iterator[BinaryIO]:
    """A real file: unlike one in memory it has a last place that can be sought."""
    with TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file


def read_sound(data: bytes) -> str:
    """Do all that a decoder does with a recording; return the code it is refused with, or ''."""
    with on_disk(data) as file:
        return _read_sound(file)


def _read_sound(file: BinaryIO) -> str:
    try:
        facts = probe_audio(file, max_seconds=Fraction(60))
        assert read_audio_facts(facts_as_json(facts)) == facts
        render_audio(file, facts, seconds=Fraction(81, 25), into=io.BytesIO())
    except JobFailed as error:
        return error.code
    return ""


def read_image(data: bytes) -> str:
    """Do all that a decoder does with a picture; return the code it is refused with, or ''."""
    with on_disk(data) as file:
        return _read_image(file)


def _read_image(file: BinaryIO) -> str:
    try:
        facts = probe_image(file, max_pixels=1_000_000)
        assert min(facts.width, facts.height) > 0
        render_image(file, size=(480, 480), fit="blur", max_pixels=1_000_000)
    except JobFailed as error:
        cause = error.__cause__
        # An error in Pillow is the file's fault; one in our own lines is not.
        if cause is not None and _is_ours(cause):
            raise cause from None
        return error.code
    return ""


def _is_ours(error: BaseException) -> bool:
    return "/worker/" in traceback.extract_tb(error.__traceback__)[-1].filename


@pytest.mark.parametrize("name", SOUNDS)
def test_an_odd_recording_is_read_or_refused(name):
    data = SOUNDS[name]()
    for made in [data, *(altered(data, seed) for seed in SEEDS)]:
        assert read_sound(made) in {
            "",
            "audio_unreadable",
            "audio_truncated",
            "audio_too_long",
            "audio_too_complex",
        }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", IMAGES)
def test_an_odd_picture_is_read_or_refused(name):
    data = IMAGES[name]()
    for made in [data, *(altered(data, seed) for seed in SEEDS)]:
        assert read_image(made) in {
            "",
            "image_unreadable",
            "image_too_large",
            "image_too_complex",
        }
