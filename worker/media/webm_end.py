"""Walks through the elements of a WebM or Matroska file: does it end within one?"""

from __future__ import annotations

import io
from typing import BinaryIO

# Ten minutes in blocks of 20 ms are 30,000.
_MOST_ELEMENTS = 200_000
_ENTERED = frozenset({bytes.fromhex("18538067"), bytes.fromhex("1f43b675")})
"""Segment and Cluster: a recorder that cannot go back leaves their sizes open."""


def webm_is_cut(file: BinaryIO) -> bool:
    """Return whether the last element should be longer than the file; what is odd is not cut."""
    length = file.seek(0, io.SEEK_END)
    start = 0
    for _ in range(_MOST_ELEMENTS):
        if start >= length:
            return start > length
        file.seek(start)
        head = file.read(12)
        name = head[: _width(head[:1])]
        size = head[len(name) : len(name) + _width(head[len(name) : len(name) + 1])]
        if not 1 <= len(name) <= 4:
            return False
        if not size:
            return start + len(head) >= length
        start += len(name) + len(size)
        if name not in _ENTERED:
            start += int.from_bytes(size, "big") & ((1 << 7 * len(size)) - 1)
    return False


def _width(first: bytes) -> int:
    """Return how many bytes a number has, by its first one; 9 if there is no such number."""
    return 9 - first[0].bit_length() if first else 0
