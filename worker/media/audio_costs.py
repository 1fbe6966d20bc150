"""Refuses, from an audio file's headers alone, what would cost too much to open or decode."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import BinaryIO

from worker.jobs.errors import JobFailed
from worker.media.mp4_end import is_mp4
from worker.media.mp4_tables import claims_too_much
from worker.plan.frames import in_seconds
from worker.plan.media_facts import ENCODER_PADDING

MOST_SAMPLES = 600 * 192_000 * 2
"""Samples of all channels together: ten minutes of stereo at the highest rate of studios."""

_RATES = range(4000, 384_001)
_MOST_CHANNELS = 16
_MOST_CHUNKS = 100
_UNKNOWN_SIZE = 0x7FFF_0000


def refuse_costly_audio(file: BinaryIO, *, max_seconds: Fraction) -> None:
    """Raise JobFailed for a file that is too long or costs too much; rewind the file.

    What is not understood passes: a decoder says what is wrong with it.
    """
    file.seek(0)
    head = file.read(64)
    if head[:4] == b"fLaC":
        _refuse_stream(*flac_stream(head), max_seconds)
    elif head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        _refuse_stream(*wav_stream(file), max_seconds)
    elif is_mp4(head) and claims_too_much(file):
        raise JobFailed(
            "audio_too_complex",
            "The audio file's index states more samples than the file has bytes: it is damaged. "
            "Export the recording again.",
        )
    file.seek(0)


def refuse_shape(rate: int, channels: int) -> None:
    """Raise JobFailed for a sample rate or a number of channels that nobody listens to."""
    if rate not in _RATES or not 1 <= channels <= _MOST_CHANNELS:
        raise JobFailed(
            "audio_unreadable",
            f"The audio states {rate} samples a second in {channels} channels: "
            "it is damaged, protected or not meant for listening.",
        )


def refuse_length(seconds: Fraction, *, max_seconds: Fraction) -> None:
    """Raise JobFailed for audio that is longer than `max_seconds`, and what encoders add to it."""
    if seconds > max_seconds + ENCODER_PADDING:
        raise JobFailed(
            "audio_too_long",
            f"The audio is longer than {in_seconds(max_seconds)} s, the maximum. Shorten it or "
            "split it into several jobs.",
        )


def refuse_samples(samples: int) -> None:
    """Raise JobFailed for more samples, of all channels together, than are worth decoding."""
    if samples > MOST_SAMPLES:
        raise JobFailed(
            "audio_too_complex",
            f"The audio has more than {MOST_SAMPLES:,} samples in all its channels: "
            "save it again in 48 kHz stereo.",
        )


def flac_stream(head: bytes) -> tuple[int, int, int]:
    """Return rate, channels and samples per channel from a FLAC's first 64 bytes; 0 if unknown."""
    if len(head) < 26 or head[4] & 0x7F != 0:
        return 0, 0, 0
    packed = int.from_bytes(head[18:26], "big")
    return packed >> 44, (packed >> 41 & 0b111) + 1, packed & 0xF_FFFF_FFFF


def wav_stream(file: BinaryIO) -> tuple[int, int, int]:
    """Return rate, channels and samples per channel of a WAV file; 0 if unknown."""
    length = file.seek(0, io.SEEK_END)
    file.seek(12)
    rate = channels = block = 0
    for _ in range(_MOST_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            break
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"data":
            known = 0 < size < _UNKNOWN_SIZE and block > 0
            present = min(size, max(length - file.tell(), 0))
            return rate, channels, present // block if known else 0
        start = file.tell()
        if name == b"fmt ":
            body = file.read(16)
            if len(body) == 16:
                channels = int.from_bytes(body[2:4], "little")
                rate = int.from_bytes(body[4:8], "little")
                block = int.from_bytes(body[12:14], "little")
        file.seek(start + size + size % 2)
    return rate, channels, 0


def _refuse_stream(rate: int, channels: int, samples: int, max_seconds: Fraction) -> None:
    if rate:
        refuse_shape(rate, channels)
        refuse_length(Fraction(samples, rate), max_seconds=max_seconds)
        refuse_samples(samples * channels)
