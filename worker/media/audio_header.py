"""Reads the length that an audio file states, which shows later whether a part is missing."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from typing import BinaryIO, Literal

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

# Recorders that cannot go back to the header write a number close to 2 or 4 GiB, or -1.
_UNKNOWN_WAV_SIZE = 0x7FFF_0000
_UNKNOWN_SIZE = 1 << 62
_GUESSED = ("aac", "amr", "amrnb", "amrwb", "ac3", "eac3", "mpeg")
_MOST_CHUNKS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How the chunks of a format begin: a name and a size, of so many bytes each."""

    first: int
    name: int
    size: int
    order: Literal["little", "big"]
    counts_itself: bool
    align: int


_WAV = _Layout(first=12, name=4, size=4, order="little", counts_itself=False, align=2)
_W64 = _Layout(first=40, name=16, size=8, order="little", counts_itself=True, align=8)
_CAF = _Layout(first=8, name=4, size=8, order="big", counts_itself=False, align=1)
_ASF = _Layout(first=30, name=16, size=8, order="little", counts_itself=True, align=1)
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def claimed_seconds(
    file: BinaryIO, container: InputContainer, stream: AudioStream
) -> Fraction | None:
    """Return the stated length in seconds; None if FFmpeg only guesses it from the bit rate."""
    name = container.format.name
    if name in _GUESSED or (name == "mp3" and not _mp3_states_its_length(file)):
        return None
    if name in _OWN_CLAIMS:
        claim = _OWN_CLAIMS[name](file)
        # For compressed sound in CAF FFmpeg reads the table of packets, as it is.
        if claim is not None or name != "caf":
            return claim
    claims = []
    if stream.duration is not None and stream.time_base is not None:
        claims.append(stream.duration * stream.time_base)
    if container.duration is not None and not container.streams.video:
        claims.append(Fraction(container.duration, av.time_base))
    return min(claims, default=None)


def _riff_claim(file: BinaryIO, layout: _Layout) -> Fraction | None:
    bytes_per_second = 0
    for name, size in _chunks(file, layout):
        if name[:4] == b"data":
            known = 0 < size < _UNKNOWN_WAV_SIZE and bytes_per_second > 0
            return Fraction(size, bytes_per_second) if known else None
        if name[:4] == b"fmt " and len(body := file.read(16)) == 16:
            bytes_per_second = int.from_bytes(body[8:12], "little")
    return None


def _wav_claim(file: BinaryIO) -> Fraction | None:
    file.seek(0)
    return _riff_claim(file, _WAV) if file.read(4) == b"RIFF" else None


def _w64_claim(file: BinaryIO) -> Fraction | None:
    return _riff_claim(file, _W64)


def _caf_claim(file: BinaryIO) -> Fraction | None:
    """Return the length of uncompressed sound; None for other sound."""
    seconds_per_byte = Fraction(0)
    for name, size in _chunks(file, _CAF):
        # The data begin with four bytes that count edits.
        if name == b"data":
            known = seconds_per_byte and 4 < size < _UNKNOWN_SIZE
            return (size - 4) * seconds_per_byte if known else None
        if name == b"desc" and len(body := file.read(24)) == 24:
            rate, _, _, packet_bytes, packet_frames = struct.unpack(">d4sIII", body)
            if packet_bytes and packet_frames and isfinite(rate) and rate > 0:
                seconds_per_byte = packet_frames / (packet_bytes * Fraction(rate))
    return None


def caf_is_cut(file: BinaryIO) -> bool:
    """Return whether this is a CAF whose sound should be longer than the file."""
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(4) != b"caff":
        return False
    return any(
        name == b"data" and size < _UNKNOWN_SIZE and file.tell() + size > length
        for name, size in _chunks(file, _CAF)
    )


def _asf_claim(file: BinaryIO) -> Fraction | None:
    """Return the length of the file's properties; None for a broadcast."""
    for name, _ in _chunks(file, _ASF):
        if name == _ASF_FILE_PROPERTIES and len(body := file.read(68)) == 68:
            play, _, preroll, flags = struct.unpack_from("<QQQI", body, 40)
            seconds = Fraction(play, 10_000_000) - Fraction(preroll, 1000)
            return seconds if seconds > 0 and not flags & 1 else None
    return None


_OWN_CLAIMS: dict[str, Callable[[BinaryIO], Fraction | None]] = {
    "wav": _wav_claim,
    "w64": _w64_claim,
    "caf": _caf_claim,
    "asf": _asf_claim,
}
"""Formats whose length FFmpeg takes from the size of what is left of a file."""


def _chunks(file: BinaryIO, layout: _Layout) -> Iterator[tuple[bytes, int]]:
    """Yield the name of each chunk and the bytes of its body, with the file at the body."""
    length = file.seek(0, io.SEEK_END)
    start = layout.first
    head_bytes = layout.name + layout.size
    for _ in range(_MOST_CHUNKS):
        # A stated size may be larger than any place in a file.
        if start >= length:
            return
        file.seek(start)
        head = file.read(head_bytes)
        if len(head) < head_bytes:
            return
        size = int.from_bytes(head[layout.name :], layout.order)
        size -= head_bytes if layout.counts_itself else 0
        if not 0 <= size < _UNKNOWN_SIZE:
            size = _UNKNOWN_SIZE
        yield head[: layout.name], size
        if size == _UNKNOWN_SIZE:
            return
        start += head_bytes + size + -size % layout.align


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
