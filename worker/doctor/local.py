"""Checks that need no network: the settings, the template, the media libraries."""

from __future__ import annotations

import asyncio
import io
import math
import struct
import wave
from collections.abc import Mapping

import pillow_heif
from PIL import Image

from worker.doctor.context import Context
from worker.doctor.result import Result, fail, ok
from worker.jobs.errors import JobFailed, WorkflowInvalid
from worker.media.audio import probe_audio
from worker.media.images import probe_image
from worker.policies import read_template

RATE = 16_000


def judge_settings(problems: Mapping[str, str]) -> list[Result]:
    """One result for each wrong setting, or one for all when they are right."""
    if not problems:
        return [ok("settings", "Every setting can be read.")]
    return [_wrong(name, said) for name, said in problems.items()]


def _wrong(name: str, said: str) -> Result:
    """The settings' sentences say what is wrong, and then what belongs there."""
    fault, _, rest = said.partition(". ")
    between = " " if fault.startswith(("is ", "must ")) else " is wrong: "
    mend = rest or "Correct it where the worker's environment is set."
    if fault == "is missing" and not rest.startswith("Set it"):
        first = rest[:1] if rest[1:2].isupper() else rest[:1].lower()
        mend = f"Set it: {first}{rest[1:]}"
    return fail("settings", f"{name}{between}{fault.rstrip('.')}.", mend)


async def check_template(context: Context) -> Result:
    """The workflow template against the guard."""
    try:
        template = await asyncio.to_thread(read_template, context.settings)
    except WorkflowInvalid as error:
        return fail(
            "template",
            " ".join(error.problems),
            "Mend the file that WORKFLOW_PATH names, or leave WORKFLOW_PATH unset.",
        )
    number = len(template.notes)
    notes = f"; {number} note{'s' * (number > 1)} (`python -m worker workflow check`)"
    return ok("template", f"It passes the guard ({template.sha256[:12]}){notes if number else ''}.")


async def check_media(_context: Context) -> Result:
    """Whether this machine decodes sound, and pictures of phones."""
    return await asyncio.to_thread(_decode)


def _decode() -> Result:
    mend = "Install the pinned packages anew: pip install -r requirements.lock."
    try:
        heard = probe_audio(io.BytesIO(sound(1.0)))
    except JobFailed as error:
        return fail("media", f"A second of sound cannot be decoded: {error.message}", mend)
    if heard.seconds != 1:
        return fail("media", f"A second of sound was decoded as {float(heard.seconds)} s.", mend)
    try:
        file = io.BytesIO()
        pillow_heif.from_pillow(Image.new("RGB", (64, 64), "grey")).save(file)
        file.seek(0)
        probe_image(file, max_pixels=64 * 64)
    except (JobFailed, OSError, RuntimeError, ValueError) as error:
        return fail(
            "media", f"HEIC, the format of iPhones, cannot be read ({type(error).__name__}).", mend
        )
    return ok("media", "Sound and HEIC pictures are decoded.")


def sound(seconds: float) -> bytes:
    """A WAV file with something like a voice: a buzz that swells four times a second."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        samples = (
            int(
                9000
                * (0.6 + 0.4 * math.sin(8 * math.pi * n / RATE))
                * (math.sin(280 * math.pi * n / RATE) + math.sin(840 * math.pi * n / RATE) / 2)
            )
            for n in range(int(seconds * RATE))
        )
        out.writeframes(b"".join(struct.pack("<h", one) for one in samples))
    return file.getvalue()
