"""Mutations of a file's structure: what is stated, repeated, missing, renamed or nested."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from tests.fuzz.parts import MOST_DEPTH, Format, Part

MOST_BYTES = 1024 * 1024
_SIZES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 255, 0x7FFF, 0xFFFF, 0xFF_FFFF, 0x7FFF_FFFF,
          0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF, 1 << 32, 1 << 62, (1 << 64) - 1)  # fmt: skip
_NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 10**6, 240 * 10**6,
            0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, (1 << 63) - 1, (1 << 64) - 1)  # fmt: skip
_REPEATS = (1, 2, 20, 99, 101, 1000)
# Numbers stand in the first bytes of a part: counts, sizes, rates.
_HEAD_BYTES = 64
Parts = list[Part]


def mutated(data: bytes, kind: Format, rng: random.Random) -> bytes:
    """Return the file after one to four mutations, mostly of its structure."""
    parts = kind.split(data)
    for _ in range(rng.randint(1, 4)):
        parts = _somewhere(parts, rng.choice(_WAYS), rng)
    changed = kind.join(parts)[:MOST_BYTES]
    if rng.random() < 0.15:
        changed = _bytes(changed, rng)
    return changed


def _somewhere(parts: Parts, way: Callable[[Parts, int, random.Random], Parts],
               rng: random.Random) -> Parts:  # fmt: skip
    """Apply one mutation at any place and depth."""
    if not parts:
        return parts
    place = rng.randrange(len(parts))
    part = parts[place]
    if part.children and rng.random() < 0.8:
        inside = tuple(_somewhere(list(part.children), way, rng))
        return [*parts[:place], replace(part, children=inside), *parts[place + 1 :]]
    return way(parts, place, rng)


def _state(parts: Parts, place: int, rng: random.Random) -> Parts:
    """State another size."""
    part = parts[place]
    near = len(part.body) + rng.randint(-9, 9)
    return _put(parts, place, replace(part, stated=max(0, rng.choice((*_SIZES, near)))))


def _number(parts: Parts, place: int, rng: random.Random) -> Parts:
    """Write another number of 1 to 8 bytes near the start."""
    part, width = parts[place], rng.choice((1, 2, 4, 4, 4, 8))
    if len(part.body) < width:
        return parts
    at = rng.randrange(min(len(part.body) - width, _HEAD_BYTES) + 1)
    at -= at % rng.choice((1, min(width, 4)))
    order = rng.choice(("big", "little"))
    number = (rng.choice(_NUMBERS) & (1 << 8 * width) - 1).to_bytes(width, order)  # type: ignore[arg-type]
    body = part.body[:at] + number + part.body[at + width :]
    return _put(parts, place, replace(part, body=body))


def _name(parts: Parts, place: int, rng: random.Random) -> Parts:
    """Give a part the name of another one, or change a bit of it."""
    part = parts[place]
    if not part.name:
        return parts
    names = [other.name for other in parts if other.name]
    if rng.random() < 0.5:
        return _put(parts, place, replace(part, name=rng.choice(names)))
    name = bytearray(part.name)
    name[rng.randrange(len(name))] ^= 1 << rng.randrange(8)
    return _put(parts, place, replace(part, name=bytes(name)))


def _repeat(parts: Parts, place: int, rng: random.Random) -> Parts:
    """Repeat a part, as far as the file stays small."""
    part = parts[place]
    size = len(part.body) + sum(len(child.body) for child in part.children) + 8
    times = min(rng.choice(_REPEATS), MOST_BYTES // size)
    return [*parts[:place], *[part] * times, *parts[place:]]


def _drop(parts: Parts, place: int, rng: random.Random) -> Parts:
    return [*parts[:place], *parts[place + 1 :]]


def _swap(parts: Parts, place: int, rng: random.Random) -> Parts:
    other = rng.randrange(len(parts))
    moved = list(parts)
    moved[place], moved[other] = moved[other], moved[place]
    return moved


def _cut(parts: Parts, place: int, rng: random.Random) -> Parts:
    """Make a part's body shorter, or longer with zeros or noise."""
    part = parts[place]
    if rng.random() < 0.6:
        body = part.body[: rng.randint(0, len(part.body))]
    else:
        body = part.body + rng.choice((bytes(40), rng.randbytes(40)))
    return _put(parts, place, replace(part, body=body))


def _nest(parts: Parts, place: int, rng: random.Random) -> Parts:
    """Put a part into copies of itself."""
    part = parts[place]
    for _ in range(rng.choice((1, 3, 11, MOST_DEPTH))):
        part = replace(part, body=b"", children=(part,))
    return _put(parts, place, part)


def _noise(parts: Parts, place: int, rng: random.Random) -> Parts:
    """Change some bytes of a body and leave its checksum as it was, or not."""
    part = parts[place]
    body = _bytes(part.body, rng)
    return _put(parts, place, replace(part, body=body, checked=rng.random() < 0.8))


def _put(parts: Parts, place: int, part: Part) -> Parts:
    return [*parts[:place], part, *parts[place + 1 :]]


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Change up to 8 bytes, or cut the end off."""
    if not data:
        return data
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


_WAYS = (_state, _state, _number, _number, _number, _name, _repeat, _drop, _swap, _cut, _nest,
         _noise)  # fmt: skip
