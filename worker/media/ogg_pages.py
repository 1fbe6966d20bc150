"""Walks through the pages of an Ogg file: what its parts are, and whether its end is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from worker.jobs.errors import JobFailed

# Ten minutes in pages of one packet of 20 ms are 30,000.
_MOST_PAGES = 200_000
_HEAD = 27
_BEGINS, _ENDS = 0x02, 0x04
_KIND_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class OggEnd:
    """How an Ogg file ends: `cut` within a page, or with an end mark in its last one."""

    cut: bool
    marked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    flags: int
    start: bytes
    cut: bool


def ogg_end(file: BinaryIO) -> OggEnd:
    """Return how the file ends.

    Raise JobFailed if it holds several recordings with different codecs, sample rates, channels or
    bits per sample: a decoder would silently take the first. What is not understood passes as
    whole.
    """
    shapes: set[tuple[bytes, bytes]] = set()
    group: set[tuple[bytes, bytes]] = set()
    last: _Page | None = None
    beginning = True
    for page in _pages(file):
        if page.flags & _BEGINS:
            if not beginning:
                group, beginning = set(), True
            group |= _shape(page.start)
        elif beginning:
            beginning = False
            shapes = shapes or group
            if group != shapes:
                raise JobFailed(
                    "audio_unreadable",
                    "The audio file holds several recordings with different sample rates, channels "
                    "or codecs, one after the other; export it again as one.",
                )
        last = page
    if last is None:
        return OggEnd(cut=False, marked=True)
    return OggEnd(cut=last.cut, marked=bool(last.flags & _ENDS))


def _pages(file: BinaryIO) -> Iterator[_Page]:
    file.seek(0)
    for _ in range(_MOST_PAGES):
        head = file.read(_HEAD)
        if not head:
            return
        if head[:4] != b"OggS"[: len(head)]:
            break
        if len(head) < _HEAD:
            yield _Page(flags=0, start=b"", cut=True)
            return
        table = file.read(head[26])
        body = sum(table)
        start = file.read(min(body, _KIND_BYTES))
        rest = body - len(start)
        present = len(table) == head[26] and (rest == 0 or _skip(file, rest))
        yield _Page(flags=head[5], start=start, cut=not present)
    # A gap, or more pages than are worth counting: only a decoder knows how it ends.
    yield _Page(flags=_ENDS, start=b"", cut=False)


def _skip(file: BinaryIO, size: int) -> bool:
    """Move on; return whether the file has so many bytes."""
    file.seek(size - 1, 1)
    return len(file.read(1)) == 1


def _shape(start: bytes) -> set[tuple[bytes, bytes]]:
    """Return codec, and rate with channels, of the first packet of a sound; nothing for others."""
    if start[:7] == b"\x01vorbis":
        return {(b"vorbis", start[11:16])}
    if start[:8] == b"OpusHead":
        # Opus is decoded at 48 kHz, whatever it was made from.
        return {(b"opus", start[9:10])}
    if start[:5] == b"\x7fFLAC":
        # Smallest and largest sizes come first; then 20 bits of rate, 3 of channels, 5 of depth.
        return {(b"flac", start[27:30] + bytes(byte & 0xF0 for byte in start[30:31]))}
    if start[:8] == b"Speex   ":
        return {(b"speex", start[36:40] + start[48:52])}
    return set()
