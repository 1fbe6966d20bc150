"""Refuses, from a picture's headers alone, what would cost too much to open or decode."""

from __future__ import annotations

import re
from typing import BinaryIO

from worker.jobs.errors import JobFailed

# Ordinary progressive files have 10 scans, unusual ones some 60. Each scan passes over the whole
# picture, however few bytes it has, so that very large pictures may have fewer.
MOST_SCANS, ALWAYS_ALLOWED_SCANS = 100, 20
MOST_SCANNED_PIXELS = 1_000_000_000
# To open a WebP, its library takes four pictures' memory: at 16 bytes a pixel, 576 MB.
MOST_WEBP_PIXELS = 36_000_000

_STEP = 64 * 1024
_MOST_SEGMENTS = 10_000
# In the data of a scan, FF is followed by 00 or by the number of a restart; elsewhere begins a
# segment. More than one FF may stand before its name.
_NEXT_SEGMENT = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_END, _SCAN = 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def refuse_costly_image(file: BinaryIO, *, max_pixels: int) -> None:
    """Raise JobFailed for a picture that costs too much; rewind the file.

    What is not understood passes: a decoder says what is wrong with it.
    """
    file.seek(0)
    head = file.read(32)
    if head[:2] == b"\xff\xd8":
        _refuse_scans(*jpeg_scans(file))
    width, height = webp_size(head)
    if width * height > min(MOST_WEBP_PIXELS, max_pixels):
        most = min(MOST_WEBP_PIXELS, max_pixels)
        raise JobFailed(
            "image_too_large",
            f"The image has {width}x{height} pixels; at most {most:,} are accepted as WebP.",
        )
    file.seek(0)


def jpeg_scans(file: BinaryIO) -> tuple[int, int]:
    """Return the number of scans of a JPEG and its pixels; counts no further than needed."""
    file.seek(2)
    scans = pixels = 0
    for _ in range(_MOST_SEGMENTS):
        name = _next_segment(file)
        if name is None or name == _END or scans > MOST_SCANS:
            return scans, pixels
        if name in _WITHOUT_LENGTH:
            continue
        start = file.tell()
        head = file.read(7)
        if name in _FRAMES:
            height, width = int.from_bytes(head[3:5], "big"), int.from_bytes(head[5:7], "big")
            pixels = max(pixels, width * height)
        scans += name == _SCAN
        file.seek(start + max(int.from_bytes(head[:2], "big"), 2))
    return MOST_SCANS + 1, pixels


def _refuse_scans(scans: int, pixels: int) -> None:
    allowed = max(MOST_SCANNED_PIXELS // max(pixels, 1), ALWAYS_ALLOWED_SCANS)
    allowed = min(allowed, MOST_SCANS)
    if scans > allowed:
        raise JobFailed(
            "image_too_complex",
            f"The JPEG has more than {allowed} scans: save it again as an ordinary JPEG.",
        )


def _next_segment(file: BinaryIO) -> int | None:
    """Return the name of the next segment, with the file after it; None at the end."""
    while piece := file.read(_STEP):
        match = _NEXT_SEGMENT.search(piece)
        if match is not None:
            file.seek(match.end() - len(piece), 1)
            return match[0][1]
        if len(piece) == 1:
            return None
        if piece.endswith(b"\xff"):
            file.seek(-1, 1)
    return None


def webp_size(head: bytes) -> tuple[int, int]:
    """Return width and height from the first 32 bytes of a WebP; 0 and 0 for other files."""
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return 0, 0
    if head[12:16] == b"VP8X":
        canvas = int.from_bytes(head[24:27], "little"), int.from_bytes(head[27:30], "little")
        return canvas[0] + 1, canvas[1] + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if head[12:16] == b"VP8 ":
        sides = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
        return sides[0] & 0x3FFF, sides[1] & 0x3FFF
    return 0, 0
