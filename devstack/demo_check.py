"""Compares the MP4 with the row of its job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """The content of a video file; frames are counted by decoding."""

    codec: str
    pixels: str | None
    width: int
    height: int
    rate: Fraction | None
    frames: int
    sound: str | None
    sound_seconds: float

    def __str__(self) -> str:
        rate = float(self.rate) if self.rate else 0
        return (
            f"{self.width} x {self.height}, {self.frames} frames at {rate:g} fps, "
            f"{self.codec} {self.pixels}, {self.sound or 'no'} audio, {self.sound_seconds:.2f} s"
        )


def facts_of(path: Path) -> VideoFacts:
    """Decode the whole file; raise av.FFmpegError if it is not a video."""
    with av.open(str(path)) as container:
        picture = container.streams.video[0]
        codec, pixels, rate = (
            picture.codec.name,
            picture.codec_context.pix_fmt,
            picture.average_rate,
        )
        frames = sum(1 for _ in container.decode(picture))
    with av.open(str(path)) as container:
        sounds = container.streams.audio
        samples = sum(frame.samples for frame in container.decode(sounds[0])) if sounds else 0
        return VideoFacts(
            codec=codec,
            pixels=pixels,
            width=picture.width,
            height=picture.height,
            rate=rate,
            frames=frames,
            sound=sounds[0].codec.name if sounds else None,
            sound_seconds=samples / sounds[0].rate if sounds else 0.0,
        )


def differences(facts: VideoFacts, row: Mapping[str, Any]) -> list[str]:
    """Return each difference between the file and the row, as text."""
    wanted = {
        "codec": ("h264", facts.codec),
        "pixel format": ("yuv420p", facts.pixels),
        "frame rate": (Fraction(25), facts.rate),
        "sound": ("aac", facts.sound),
        "width": (row["render_width"], facts.width),
        "height": (row["render_height"], facts.height),
        "frames": (row["frames"], facts.frames),
    }
    found = [
        f"{name}: expected {want}, got {got}" for name, (want, got) in wanted.items() if want != got
    ]
    if abs(facts.sound_seconds - facts.frames / 25) > 0.1:
        found.append(f"{facts.sound_seconds:.2f} s of audio for {facts.frames / 25:.2f} s of video")
    return found
