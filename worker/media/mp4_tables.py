"""Compares the tables of an MP4, M4A or MOV file with its size, without reading the tables.

FFmpeg takes memory for each sample that a table states, before it looks for a single one.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

_PARENTS = frozenset(
    {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"udta"}
)
# Bytes of each entry of a table, after version, flags and the number of entries.
_ENTRY_BYTES = {
    b"stts": 8, b"ctts": 8, b"stsc": 12, b"stco": 4, b"co64": 8, b"stss": 4, b"stps": 4,
    b"elst": 12,
}  # fmt: skip
# Tables whose entries are runs: each states a number of samples.
_RUNS = frozenset({b"stts", b"ctts"})
_MOST_BOXES = 20_000
_MOST_DEPTH = 10
_STEP = 64 * 1024


@dataclass(slots=True)
class _Budget:
    """How many boxes may still be read, and how many samples each kind of table may still state."""

    boxes: int
    samples: dict[bytes, int]


class _TooMuch(Exception):
    """The file states more than it can hold."""


def claims_too_much(file: BinaryIO) -> bool:
    """Return whether tables state more entries, or more samples, than the file has bytes.

    Each sample of a real file has at least one byte. Also true for more boxes than a real file
    has; false for what is no MP4. Time and memory are limited by the file's size.
    """
    size = file.seek(0, io.SEEK_END)
    budget = _Budget(
        boxes=_MOST_BOXES, samples=dict.fromkeys((b"stsz", b"stts", b"ctts", b"trun"), size)
    )
    try:
        _walk(file, 0, size, budget, depth=0)
    except _TooMuch:
        return True
    return False


def _walk(file: BinaryIO, start: int, end: int, budget: _Budget, *, depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise _TooMuch
    while end - start >= 8:
        if budget.boxes == 0:
            raise _TooMuch
        budget.boxes -= 1
        file.seek(start)
        head = file.read(16)
        size, name, body = int.from_bytes(head[:4], "big"), head[4:8], start + 8
        if size == 1 and len(head) == 16:
            size, body = int.from_bytes(head[8:], "big"), start + 16
        if size == 0:
            size = end - start
        # A truncated file ends within a box.
        after = min(start + size, end)
        if size < body - start:
            return
        if name in _PARENTS:
            _walk(file, body, after, budget, depth=depth + 1)
        else:
            _check_table(file, name, body, after, budget)
        start = after


def _check_table(file: BinaryIO, name: bytes, body: int, end: int, budget: _Budget) -> None:
    file.seek(body)
    head = file.read(min(12, max(end - body, 0)))
    if name in (b"stsz", b"stz2") and len(head) == 12:
        _spend(budget, b"stsz", int.from_bytes(head[8:], "big"))
    elif name == b"trun" and len(head) >= 8:
        _spend(budget, name, int.from_bytes(head[4:8], "big"))
    elif name == b"sbgp" and len(head) == 12 and head[0] == 0:
        _compare(int.from_bytes(head[8:], "big"), 8, end - body - 12)
    elif name in _ENTRY_BYTES and len(head) >= 8:
        count = int.from_bytes(head[4:8], "big")
        _compare(count, _ENTRY_BYTES[name], end - body - 8)
        if name in _RUNS:
            _spend_runs(file, name, body + 8, count, budget)


def _compare(count: int, bytes_each: int, present: int) -> None:
    if count * bytes_each > max(present, 0):
        raise _TooMuch


def _spend_runs(file: BinaryIO, name: bytes, start: int, count: int, budget: _Budget) -> None:
    file.seek(start)
    left = count * 8
    while left > 0:
        entries = file.read(min(left, _STEP))
        if not entries:
            return
        left -= len(entries)
        for place in range(0, len(entries) - 7, 8):
            _spend(budget, name, int.from_bytes(entries[place : place + 4], "big"))


def _spend(budget: _Budget, name: bytes, samples: int) -> None:
    budget.samples[name] -= samples
    if budget.samples[name] < 0:
        raise _TooMuch
