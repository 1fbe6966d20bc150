"""Chooses how many frames a video gets, in exact arithmetic.

InfiniteTalk renders overlapping windows of 81 frames at 25 frames a second. Frame counts that do
not end with a window are padded with silence, which blurs the last seconds; so only aligned
counts are sent, always rounded down to what the audio fills.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Literal

from worker.jobs.errors import JobFailed

FRAME_RATE = 25
FIRST_WINDOW = 81
GUIDE_ADVANCE = 72
GUIDE_MAX_FRAMES = 1089
MAX_AUDIO_SECONDS = Fraction(60)
SHORTEST_AUDIO = Fraction(FIRST_WINDOW, FRAME_RATE)

Overlong = Literal["trim", "reject"]
Alignment = Literal["guide", "template"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePlan:
    """The frames of one video; windows as the guide counts them and as they are sampled."""

    audio_duration: Fraction
    frames: int
    windows: int
    sampled_windows: int
    video_duration: Fraction
    seconds_cut: Fraction
    seconds_padded: Fraction = Fraction(0)


def plan_frames(
    audio: Fraction,
    *,
    max_audio_seconds: Fraction = MAX_AUDIO_SECONDS,
    max_frames: int = GUIDE_MAX_FRAMES,
    overlong: Overlong = "trim",
    alignment: Alignment = "guide",
    advance: int = GUIDE_ADVANCE,
    pad: bool = False,
) -> FramePlan:
    """Choose the largest aligned count that `audio` (seconds) fills; JobFailed if there is none.

    `advance` is what the template's windows move by. With `pad` the count is the next larger one,
    for audio that gets real silence at its end.
    """
    if audio < SHORTEST_AUDIO:
        raise JobFailed(
            "audio_too_short",
            f"The audio has {in_seconds(audio, decimals=6)} s; it must have at least 3.24 s "
            f"(minimum 81 frames). Send a longer recording.",
        )
    if audio > max_audio_seconds:
        raise JobFailed(
            "audio_too_long",
            f"The audio has {in_seconds(audio, decimals=6)} s, which exceeds the maximum of "
            f"{in_seconds(max_audio_seconds)} s. Shorten it or split it into several jobs.",
        )
    stride = advance if alignment == "template" else GUIDE_ADVANCE
    longest = _aligned_down(max_frames, stride)
    if overlong == "reject" and audio > Fraction(longest, FRAME_RATE):
        raise JobFailed(
            "audio_too_long",
            f"The audio has {in_seconds(audio, decimals=6)} s; the longest video has "
            f"{in_seconds(Fraction(longest, FRAME_RATE))} s ({longest} frames), and this service "
            f"does not cut. Shorten it or split it into several jobs.",
        )
    filled = audio * FRAME_RATE
    frames = _aligned_down(floor(filled), stride)
    if pad and frames < filled:
        frames += stride
    frames = min(frames, longest)
    video = Fraction(frames, FRAME_RATE)
    return FramePlan(
        audio_duration=audio,
        frames=frames,
        windows=(frames - FIRST_WINDOW) // GUIDE_ADVANCE + 1,
        sampled_windows=sampled_windows(frames, advance),
        video_duration=video,
        seconds_cut=max(audio - video, Fraction(0)),
        seconds_padded=max(video - audio, Fraction(0)),
    )


def sampled_windows(frames: int, advance: int) -> int:
    """Return how many windows the GPU really renders for this count."""
    return ceil(Fraction(max(frames - FIRST_WINDOW, 0), advance)) + 1


def aligned_counts(advance: int = GUIDE_ADVANCE, max_frames: int = GUIDE_MAX_FRAMES) -> list[int]:
    """Return every permitted frame count up to `max_frames`."""
    return list(range(FIRST_WINDOW, max_frames + 1, advance))


def in_seconds(value: Fraction, *, decimals: int = 3) -> str:
    """Write seconds for people, rounded down: two decimals, and more where they matter."""
    whole, rest = divmod(floor(value * 10**decimals), 10**decimals)
    text = f"{rest:0{decimals}d}".rstrip("0")
    return f"{whole}.{text:0<2}"


def _aligned_down(frames: int, stride: int) -> int:
    return FIRST_WINDOW + max(frames - FIRST_WINDOW, 0) // stride * stride
