"""Attacks by files: many new users, each with one that costs as much as the limits permit."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence

from benchmarks.decoders import FILES
from tests.attack.scene import Scene
from tests.media.hostile import jpeg_of_scans, m4a_of_samples, webp_of_pixels

# More than there are places in preparation.
AT_ONCE = 40
_numbers = itertools.count()
Made = Mapping[str, Sequence[Callable[[], bytes]]]


def worst(kind: str, *words: str) -> list[Callable[[], bytes]]:
    """Return how the worst accepted files of a kind are made, as benchmarks/decoders.py has it."""
    return [
        make
        for name, make in FILES.items()
        if name.startswith(kind) and all(word in name for word in words)
    ]


async def bring(scene: Scene, files: Made, at_once: int = AT_ONCE) -> None:
    """Keep rows open whose `image_url` or `audio_url` leads to these files in turn."""
    addresses = {
        column: [await _uploaded(scene, make) for make in makers]
        for column, makers in files.items()
    }

    def row(number: int) -> dict[str, str]:
        return {column: urls[number % len(urls)] for column, urls in addresses.items()}

    await scene.keep_up(row, at_once)


async def _uploaded(scene: Scene, make: Callable[[], bytes]) -> str:
    # In a thread: some take seconds, and the stand-ins live in this loop.
    return await scene.world.upload(f"hostile-{next(_numbers)}", await asyncio.to_thread(make))


async def jpeg_beyond_the_limit(scene: Scene) -> None:
    """Thousands of scans in a small file: refused by its headers."""
    await bring(scene, {"image_url": [lambda: jpeg_of_scans(5000, side=2048)]})


async def jpeg_within_the_limit(scene: Scene) -> None:
    """As many scans of as many pixels as are permitted."""
    await bring(scene, {"image_url": worst("image", "JPEG")})


async def m4a_tables(scene: Scene) -> None:
    """A small M4A whose sample table states 240 million samples: refused by its headers."""
    await bring(scene, {"audio_url": [lambda: m4a_of_samples(240_000_000)]})


async def webp_beyond_the_limit(scene: Scene) -> None:
    """A WebP of 50 million pixels: refused by its headers."""
    await bring(scene, {"image_url": [lambda: webp_of_pixels(7070)]})


async def large_images(scene: Scene) -> None:
    """The accepted pictures that take most memory, one format after the other."""
    await bring(scene, {"image_url": [make for make in worst("image") if make not in JPEGS]})


async def long_audio(scene: Scene) -> None:
    """A recording that states no length: decoded until it is longer than permitted."""
    await bring(scene, {"audio_url": worst("audio", "live")})


async def both_worst(scene: Scene) -> None:
    """The worst picture and the worst recording in each row."""
    files = {"image_url": worst("image", "100 scans"), "audio_url": worst("audio", "live")}
    await bring(scene, files)


JPEGS = worst("image", "JPEG")
