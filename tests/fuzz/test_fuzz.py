"""A short run with a fixed seed finds nothing, and what is planted is found."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from tests.fuzz.__main__ import case, fuzz
from tests.fuzz.harness import READERS, harness
from tests.fuzz.parts import BOXES, JPEG, Part
from tests.fuzz.seeds import Seed, all_seeds
from worker.media.decoder_process import start_decoder

CASES = 300
SEED = 11


@pytest.fixture(scope="module")
def seeds() -> list[Seed]:
    return all_seeds()


async def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    """No error of another sort, no crash, no hang: a decoder refuses, or does its work."""
    async with harness() as found:
        session = await fuzz(
            found, seed=SEED, going_on=lambda number: number < CASES, folder=tmp_path
        )
    assert session.findings == []
    assert session.cases == CASES
    outcomes = set(found.outcomes)
    assert {"done: render_image", "done: render_audio"} <= outcomes
    assert {"refused: image_unreadable", "refused: audio_unreadable"} <= outcomes


async def test_seeds_are_accepted_as_they_are(seeds: list[Seed]) -> None:
    """Otherwise their mutations would test nothing."""
    async with harness() as found:
        for seed in seeds:
            before = found.outcomes.total()
            assert await found.findings(seed.data, seed.kind) == []
            assert found.outcomes[f"done: render_{seed.kind}"], seed.name
            assert found.outcomes.total() == before + 2, (seed.name, found.outcomes)


def test_taking_a_seed_apart_loses_nothing(seeds: list[Seed]) -> None:
    for seed in seeds:
        parts = seed.format.split(seed.data)
        assert seed.format.join(parts) == seed.data, seed.name
        assert len(parts) > 2, seed.name


def test_boxes_and_scans_are_parts_of_their_own(seeds: list[Seed]) -> None:
    by_name = {seed.name: seed.data for seed in seeds}

    def names(parts: list[Part] | tuple[Part, ...]) -> set[bytes]:
        return {name for part in parts for name in (part.name, *names(part.children))}

    assert {b"stsz", b"stts", b"stsc", b"mp4a"} <= names(BOXES.split(by_name["m4a"]))
    assert {b"iloc", b"ipma", b"hvcC"} <= names(BOXES.split(by_name["heic"]))
    scans = [part for part in JPEG.split(by_name["progressive.jpg"]) if part.name == b"\xda"]
    assert len(scans) > 5


def test_the_same_seed_makes_the_same_files(seeds: list[Seed]) -> None:
    def made(seed: int) -> list[bytes]:
        return [case(seeds, seed, number)[1] for number in range(20)]

    assert made(3) == made(3)
    assert made(3) != made(4)


def _index_error(file: object) -> object:
    raise IndexError("planted")


async def test_an_error_of_a_header_reader_is_kept_as_a_file(tmp_path: Path) -> None:
    async with harness(readers={**READERS, "planted": _index_error}) as found:
        session = await fuzz(found, seed=1, going_on=lambda number: number < 1, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    assert session.findings == [f"{path}: planted: IndexError: planted"]
    assert path.read_bytes() == case(all_seeds(), 1, 0)[1]


async def test_an_endless_header_reader_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its CPU time, which a busy machine does not lengthen."""
    monkeypatch.setattr("tests.fuzz.harness.READER_CPU_SECONDS", 0.0)
    async with harness(readers={"slow": lambda file: sum(range(10**6))}) as found:
        (text, *_) = await found.findings(b"x", "image")
    assert text.startswith("slow: took")


@pytest.mark.parametrize(("odd", "says"), [("crashes", "crash"), ("talks_nonsense", "answer")])
async def test_a_decoder_that_fails_on_a_file_even_when_it_is_fresh_is_found(
    odd: str, says: str
) -> None:
    command = (sys.executable, "-m", "tests.media.odd_decoders", odd)
    async with harness(start=partial(start_decoder, command=command), readers={}) as found:
        texts = await found.findings(b"x", "image")
    assert len(texts) == 1
    assert texts[0].startswith(f"probe_image: {says}")
