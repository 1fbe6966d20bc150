"""Checks without network: the settings, the template, the media libraries."""

from __future__ import annotations

import asyncio
import io
import math
import struct
import wave
from collections.abc import Mapping
from tempfile import TemporaryFile
from typing import BinaryIO

from worker.doctor.context import Context
from worker.doctor.result import Result, fail, ok, warn
from worker.jobs.errors import DecoderUnavailable, JobFailed, WorkflowInvalid
from worker.media.decoders import Decoders
from worker.policies import decoder_limits, read_template

RATE = 16_000
_REINSTALL = "Reinstall the pinned packages: pip install -r requirements.lock."


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


async def check_media(context: Context) -> Result:
    """Check that decoders start, and decode audio and HEIC images."""
    decoders = Decoders(decoder_limits(context.settings))
    try:
        return await _decode(decoders)
    except DecoderUnavailable as error:
        cause = str(error.__cause__ or error.message)
        return fail("media", f"No decoder can be started: {cause}.", _REINSTALL)
    finally:
        decoders.close()


async def _decode(decoders: Decoders) -> Result:
    with TemporaryFile() as file:
        file.write(sound(1.0))
        file.flush()
        try:
            heard = await decoders.probe_audio(file)
        except JobFailed as error:
            return fail(
                "media", f"One second of audio cannot be decoded: {error.message}", _REINSTALL
            )
    if heard.seconds != 1:
        return fail(
            "media", f"One second of audio was decoded as {float(heard.seconds)} s.", _REINSTALL
        )
    try:
        with TemporaryFile() as file:
            await asyncio.to_thread(_write_heic, file)
            await decoders.probe_image(file, max_pixels=64 * 64)
    except (JobFailed, OSError, RuntimeError, ValueError) as error:
        reason = type(error).__name__
        return fail("media", f"HEIC, the format of iPhones, cannot be read ({reason}).", _REINSTALL)
    if decoders.lacking:
        return warn(
            "media",
            f"Audio and HEIC images are decoded, but this kernel lacks {_names(decoders.lacking)}: "
            "decoders are less confined.",
            "Use a Linux kernel with Landlock and seccomp; see docs/security.md.",
        )
    return ok("media", "Audio and HEIC images are decoded, in confined processes.")


def _names(layers: tuple[str, ...]) -> str:
    return " and ".join(layer.capitalize() for layer in layers)


def _write_heic(file: BinaryIO) -> None:
    import pillow_heif  # not above: the daemon must not load it
    from PIL import Image

    pillow_heif.from_pillow(Image.new("RGB", (64, 64), "grey")).save(file)
    file.flush()


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
