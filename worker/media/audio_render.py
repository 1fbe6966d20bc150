"""Renders the sound of a video: lossless, and exactly as long as its frames."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import av
from av.audio.frame import AudioFrame

from worker.media.audio import opened_audio
from worker.media.audio_packets import PacketReader
from worker.media.audio_resample import Resampler
from worker.plan.frames import FRAME_RATE
from worker.plan.media_facts import AudioFacts

_HIGHEST_RATE = 48_000
_LOWEST_RATE = 8_000
_BYTES = 2
_STEP = 4096


def render_audio(file: BinaryIO, facts: AudioFacts, *, seconds: Fraction, into: BinaryIO) -> None:
    """Write a FLAC of exactly `seconds`, cut or followed by silence, its voice in channel 0."""
    rate = _rate(facts.sample_rate)
    wanted = seconds * rate
    if wanted.denominator != 1:
        raise ValueError("the length is not a whole number of samples")
    mono = facts.channels == 1 or facts.voice_channel is not None
    layout = "mono" if mono else "stereo"
    with av.open(into, mode="w", format="flac") as output:
        stream = output.add_stream("flac", rate=rate, layout=layout)
        position = 0
        for planes in _exactly(_planes(file, facts, rate, layout), int(wanted), mono):
            frame = AudioFrame(format="s16p", layout=layout, samples=len(planes[0]) // _BYTES)
            frame.sample_rate = rate
            frame.time_base = Fraction(1, rate)
            frame.pts = position
            for plane, data in zip(frame.planes, planes, strict=True):
                plane.update(data.ljust(plane.buffer_size, b"\0"))
            position += frame.samples
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    into.seek(0)


def _rate(source: int) -> int:
    """Return the source's own rate if a video frame has a whole number of its samples."""
    fits = source % FRAME_RATE == 0 and _LOWEST_RATE <= source <= _HIGHEST_RATE
    return source if fits else _HIGHEST_RATE


def _planes(file: BinaryIO, facts: AudioFacts, rate: int, layout: str) -> Iterator[list[bytes]]:
    """Yield the decoded 16-bit samples: a list with the bytes of each channel of the result."""
    # Of channels that cannot be mixed the first two are kept.
    first = facts.voice_channel or 0
    wanted = slice(first, first + (1 if layout == "mono" else 2))
    with opened_audio(file) as (container, stream):
        resampler: Resampler | None = None
        for frame in PacketReader(container, stream).frames():
            if resampler is None:
                # The voice channel is taken alone: mixed with silent ones it would be less loud.
                mixed = layout if facts.voice_channel is None else frame.layout.name
                resampler = Resampler(layout=mixed, rate=rate)
            yield from _split(resampler.resample(frame), wanted)
        if resampler is not None:
            yield from _split(resampler.resample(None), wanted)


def _split(frames: list[AudioFrame], wanted: slice) -> Iterator[list[bytes]]:
    for frame in frames:
        size = frame.samples * _BYTES
        if size:
            yield [bytes(plane)[:size] for plane in frame.planes[wanted]]


def _exactly(pieces: Iterator[list[bytes]], wanted: int, mono: bool) -> Iterator[list[bytes]]:
    """Yield the pieces up to `wanted` samples, and silence if they end before."""
    left = wanted * _BYTES
    for piece in pieces:
        if left == 0:
            return
        cut = [plane[:left] for plane in piece]
        left -= len(cut[0])
        yield cut
    while left:
        size = min(left, _STEP * _BYTES)
        left -= size
        yield [bytes(size)] * (1 if mono else 2)
