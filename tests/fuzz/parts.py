"""Files as parts with names and sizes, in the words of each format: taken apart and put together.

`join` is the inverse of `split` for a file that is whole. A part may state another size than it
has: that is what the mutations are for.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

MOST_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Part:
    """A named piece; `children` follow its `body`, which is then only their prefix.

    `stated` is the size in its header if that is not the true one; `checked` whether its checksum
    is made anew.
    """

    name: bytes
    body: bytes
    children: tuple[Part, ...] = ()
    stated: int | None = None
    checked: bool = True


@dataclass(frozen=True, slots=True)
class Format:
    """How files of a kind are taken apart and put together."""

    split: Callable[[bytes], list[Part]]
    join: Callable[[list[Part]], bytes]


# ---- boxes: MP4, M4A, MOV, HEIF, AVIF ------------------------------------------------------------

# Bytes before the children of a box.
_PREFIXES = dict.fromkeys(
    (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta", b"moof", b"traf",
     b"mvex", b"iprp", b"ipco"), 0,
) | {b"meta": 4, b"stsd": 8, b"dref": 8, b"iinf": 6, b"mp4a": 28}  # fmt: skip


def split_boxes(data: bytes) -> list[Part]:
    """Return the outermost boxes; what is no box is one part without a name."""
    parts, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if len(data) - at < 8 or not 8 <= size <= len(data) - at:
            parts.append(Part(b"", data[at:]))
            break
        parts.append(_box(data[at + 4 : at + 8], data[at + 8 : at + size]))
        at += size
    return parts


def _box(name: bytes, body: bytes) -> Part:
    prefix = _PREFIXES.get(name)
    if prefix is None or len(body) < prefix + 8:
        return Part(name, body)
    children = split_boxes(body[prefix:])
    if not children[0].name:
        return Part(name, body)
    return Part(name, body[:prefix], tuple(children))


def join_boxes(parts: list[Part]) -> bytes:
    """Return the file; a size of 2^32 and more is written in its long form."""
    pieces = []
    for part in parts:
        body = part.body + join_boxes(list(part.children))
        size = len(body) + 8 if part.stated is None else part.stated
        if not part.name:
            pieces.append(body)
        elif size < 1 << 32:
            pieces.append(struct.pack(">I4s", size, part.name[:4]) + body)
        else:
            head = struct.pack(">I4sQ", 1, part.name[:4], size & (1 << 64) - 1)
            pieces.append(head + body)
    return b"".join(pieces)


# ---- chunks: WAV and WebP (RIFF), PNG -----------------------------------------------------------


def split_riff(data: bytes) -> list[Part]:
    """Return the head of 12 bytes, and then the chunks."""
    parts, at = [Part(b"", data[:12])], 12
    while len(data) - at >= 8:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        parts.append(Part(name, data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return parts


def join_riff(parts: list[Part]) -> bytes:
    """Return the file; the size in its head stays as it was."""
    pieces = []
    for part in parts:
        if part.name:
            size = len(part.body) if part.stated is None else part.stated
            pieces.append(part.name[:4] + (size & 0xFFFF_FFFF).to_bytes(4, "little"))
        pieces.append(part.body + (b"\0" if part.name and len(part.body) % 2 else b""))
    return b"".join(pieces)


def split_png(data: bytes) -> list[Part]:
    """Return the signature, and then the chunks."""
    parts, at = [Part(b"", data[:8])], 8
    while len(data) - at >= 12:
        size, name = struct.unpack_from(">I4s", data, at)
        parts.append(Part(name, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return parts


def join_png(parts: list[Part]) -> bytes:
    """Return the file, with true checksums for the parts that are `checked`."""
    pieces = []
    for part in parts:
        if not part.name:
            pieces.append(part.body)
            continue
        size = len(part.body) if part.stated is None else part.stated
        inside = part.name[:4] + part.body
        sum_ = zlib.crc32(inside) if part.checked else 0
        pieces.append(struct.pack(">I", size & 0xFFFF_FFFF) + inside + struct.pack(">I", sum_))
    return b"".join(pieces)


# ---- segments of a JPEG --------------------------------------------------------------------------

_SCAN = b"\xda"


def split_jpeg(data: bytes) -> list[Part]:
    """Return the segments by their markers; a scan's data belongs to it."""
    parts, at = [Part(b"", data[:2])], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xD9:
        name, size = data[at + 1 : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + size
        if name == _SCAN:
            while end < len(data) - 1 and not (
                data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))
            ):
                end += 1
        # The scan's data is kept apart from what its size counts.
        scan = (Part(b"", data[at + 2 + size : end]),) if name == _SCAN else ()
        parts.append(Part(name, data[at + 4 : at + 2 + size], scan))
        at = end
    return [*parts, Part(b"", data[at:])]


def join_jpeg(parts: list[Part]) -> bytes:
    """Return the file."""
    pieces = []
    for part in parts:
        if part.name:
            size = len(part.body) + 2 if part.stated is None else part.stated
            pieces.append(b"\xff" + part.name[:1] + (size & 0xFFFF).to_bytes(2, "big"))
        pieces.append(part.body + b"".join(child.body for child in part.children))
    return b"".join(pieces)


# ---- pages of an Ogg file, blocks of a FLAC file -------------------------------------------------


def split_ogg(data: bytes) -> list[Part]:
    """Return the pages; a name is the page's head without checksum and table."""
    parts, at = [], 0
    while len(data) - at >= 27 and data[at : at + 4] == b"OggS":
        table = data[at + 27 : at + 27 + data[at + 26]]
        start = at + 27 + len(table)
        page = Part(data[at : at + 22], data[start : start + sum(table)])
        parts.append(replace(page, children=(Part(b"", table),)))
        at = start + sum(table)
    return parts


def join_ogg(parts: list[Part]) -> bytes:
    """Return the file, with true checksums for the parts that are `checked`."""
    pieces = []
    for part in parts:
        table = b"".join(child.body for child in part.children)[:255]
        count = len(table) if part.stated is None else part.stated & 0xFF
        head, tail = part.name[:22].ljust(22, b"\0"), bytes([count]) + table + part.body
        sum_ = _ogg_sum(head + bytes(4) + tail) if part.checked else 0
        pieces.append(head + sum_.to_bytes(4, "little") + tail)
    return b"".join(pieces)


def _ogg_sum(page: bytes) -> int:
    sum_ = 0
    for byte in page:
        sum_ = (sum_ << 8) & 0xFFFF_FFFF ^ _OGG_TABLE[(sum_ >> 24) ^ byte]
    return sum_


def _ogg_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) & 0xFFFF_FFFF ^ (0x04C11DB7 if value & 0x8000_0000 else 0)
        table.append(value)
    return table


_OGG_TABLE = _ogg_table()


def split_flac(data: bytes) -> list[Part]:
    """Return the metadata blocks by their first byte, and the frames as the last part."""
    parts, at, last = [Part(b"", data[:4])], 4, False
    while not last and len(data) - at >= 4:
        size, last = int.from_bytes(data[at + 1 : at + 4], "big"), bool(data[at] & 0x80)
        parts.append(Part(data[at : at + 1], data[at + 4 : at + 4 + size]))
        at += 4 + size
    return [*parts, Part(b"", data[at:])]


def join_flac(parts: list[Part]) -> bytes:
    """Return the file."""
    pieces = []
    for part in parts:
        if part.name:
            size = len(part.body) if part.stated is None else part.stated
            pieces.append(part.name[:1] + (size & 0xFF_FFFF).to_bytes(3, "big"))
        pieces.append(part.body)
    return b"".join(pieces)


# ---- all other formats: pieces without names ----------------------------------------------------


def split_bytes(data: bytes) -> list[Part]:
    """Return a short head and the rest in pieces."""
    return [Part(b"", data[:64]), *(
        Part(b"", data[at : at + 1024]) for at in range(64, len(data), 1024)
    )]  # fmt: skip


def join_bytes(parts: list[Part]) -> bytes:
    """Return the file."""
    return b"".join(part.body for part in parts)


BOXES = Format(split_boxes, join_boxes)
RIFF = Format(split_riff, join_riff)
PNG = Format(split_png, join_png)
JPEG = Format(split_jpeg, join_jpeg)
OGG = Format(split_ogg, join_ogg)
FLAC = Format(split_flac, join_flac)
BYTES = Format(split_bytes, join_bytes)
