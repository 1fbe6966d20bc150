"""Reads the length that an audio file states, which shows later whether a part is missing."""

from __future__ import annotations

from fractions import Fraction
from typing import BinaryIO

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

# Recorders that cannot go back to the header write a number close to 2 or 4 GiB.
_UNKNOWN_WAV_SIZE = 0x7FFF_0000
_GUESSED = ("aac", "amr", "amrnb", "amrwb", "ac3", "eac3", "mpeg")


def claimed_seconds(
    file: BinaryIO, container: InputContainer, stream: AudioStream
) -> Fraction | None:
    """Return the stated length in seconds; None if FFmpeg only guesses it from the bit rate."""
    if container.format.name in _GUESSED:
        return None
    if container.format.name == "mp3" and not _mp3_states_its_length(file):
        return None
    if container.format.name == "wav":
        return _wav_claim(file)
    claims = []
    if stream.duration is not None and stream.time_base is not None:
        claims.append(stream.duration * stream.time_base)
    if container.duration is not None and not container.streams.video:
        claims.append(Fraction(container.duration, av.time_base))
    return min(claims, default=None)


def _wav_claim(file: BinaryIO) -> Fraction | None:
    """Return the length of the RIFF header: for a cut file FFmpeg would take the file's size."""
    file.seek(0)
    head = file.read(12)
    bytes_per_second = 0
    while head[:4] == b"RIFF" and len(chunk := file.read(8)) == 8:
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"data":
            known = 0 < size < _UNKNOWN_WAV_SIZE and bytes_per_second > 0
            return Fraction(size, bytes_per_second) if known else None
        body = file.read(16) if name == b"fmt " else b""
        if len(body) == 16:
            bytes_per_second = int.from_bytes(body[8:12], "little")
        file.seek(size + size % 2 - len(body), 1)
    return None


def _mp3_states_its_length(file: BinaryIO) -> bool:
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte & 0x7F
        start = 10 + size
    file.seek(start)
    first_frames = file.read(4096)
    return any(tag in first_frames for tag in (b"Xing", b"Info", b"VBRI"))
