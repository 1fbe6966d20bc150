"""Looks at the outermost boxes of an MP4, M4A or MOV file: is its index there, is its end?"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

_MOST_BOXES = 20_000
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"pnot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mp4End:
    """What is known of a file: `index` if it has one, `fragments` if its length is in pieces.

    `cut`: its last box should be longer than the file.
    """

    index: bool
    fragments: bool
    cut: bool


def is_mp4(head: bytes) -> bool:
    """Return whether these first bytes, at least 8, begin a file of this family."""
    return head[4:8] in _FIRST_BOXES


def mp4_end(file: BinaryIO) -> Mp4End:
    """Return what the outermost boxes tell; the size of the file is all they are compared with."""
    length = file.seek(0, io.SEEK_END)
    names: set[bytes] = set()
    start = 0
    for _ in range(_MOST_BOXES):
        # A stated size may be larger than any place in a file.
        if start >= length:
            break
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            break
        size, body = int.from_bytes(head[:4], "big"), 8
        if size == 1 and len(head) == 16:
            size, body = int.from_bytes(head[8:], "big"), 16
        names.add(head[4:8])
        # 0: the box lasts to the end, however long that is.
        start = length if size == 0 else start + size
        if size and size < body:
            break
    return Mp4End(index=b"moov" in names, fragments=b"moof" in names, cut=start > length)
