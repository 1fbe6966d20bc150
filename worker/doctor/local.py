"""Checks without network: the settings, the template, the media libraries."""

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
    """Return one result for each invalid setting, or one if all are valid."""
    if not problems:
        return [ok("settings", "All settings are valid.")]
    return [_wrong(name, problem) for name, problem in problems.items()]


def _wrong(name: str, problem: str) -> Result:
    """Split a settings problem into what is wrong and what to do."""
    fault, _, rest = problem.partition(". ")
    between = " " if fault.startswith(("is ", "must ")) else " is invalid: "
    fix = rest or "Correct it in the worker's environment."
    if fault == "is missing" and not rest.startswith("Set it"):
        first = rest[:1] if rest[1:2].isupper() else rest[:1].lower()
        fix = f"Set it: {first}{rest[1:]}"
    return fail("settings", f"{name}{between}{fault.rstrip('.')}.", fix)


async def check_template(context: Context) -> Result:
    """Check the workflow template."""
    try:
        template = await asyncio.to_thread(read_template, context.settings)
    except WorkflowInvalid as error:
        return fail(
            "template",
            " ".join(error.problems),
            "Fix the file that WORKFLOW_PATH names, or leave WORKFLOW_PATH unset.",
        )
    number = len(template.notes)
    notes = f"; {number} note{'s' * (number > 1)} (`python -m worker workflow check`)"
    return ok("template", f"It is valid ({template.sha256[:12]}){notes if number else ''}.")


async def check_media(_context: Context) -> Result:
    """Check that this machine decodes audio and HEIC images."""
    return await asyncio.to_thread(_decode)


def _decode() -> Result:
    fix = "Reinstall the pinned packages: pip install -r requirements.lock."
    try:
        heard = probe_audio(io.BytesIO(sound(1.0)))
    except JobFailed as error:
        return fail("media", f"One second of audio cannot be decoded: {error.message}", fix)
    if heard.seconds != 1:
        return fail("media", f"One second of audio was decoded as {float(heard.seconds)} s.", fix)
    try:
        file = io.BytesIO()
        pillow_heif.from_pillow(Image.new("RGB", (64, 64), "grey")).save(file)
        file.seek(0)
        probe_image(file, max_pixels=64 * 64)
    except (JobFailed, OSError, RuntimeError, ValueError) as error:
        return fail(
            "media", f"HEIC, the format of iPhones, cannot be read ({type(error).__name__}).", fix
        )
    return ok("media", "Audio and HEIC images are decoded.")


def sound(seconds: float) -> bytes:
    """Return a WAV file with a voice-like sound: a tone whose volume changes 4 times a second."""
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
        out.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return file.getvalue()
