"""Chooses how many frames a video gets, in exact arithmetic.

InfiniteTalk renders overlapping windows of 81 frames at 25 frames a second. It fills up the last
window with silence, which blurs the last seconds. So only counts that end with a window are sent,
always rounded down to what the audio fills.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from worker.jobs.errors import JobFailed
from worker.plan.policy import PlanPolicy

FRAME_RATE = 25
FRAME = Fraction(1, FRAME_RATE)
"""Seconds of one frame."""
FIRST_WINDOW = 81
GUIDE_ADVANCE = 72
SHORTEST_AUDIO = FIRST_WINDOW * FRAME


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePlan:
    """The length of one video; durations in exact seconds.

    `windows` is the guide's count, `sampled_windows` what the GPU really renders.
    """

    audio_duration: Fraction
    frames: int
    windows: int
    sampled_windows: int
    video_duration: Fraction
    seconds_cut: Fraction
    seconds_padded: Fraction


def plan_frames(
    audio: Fraction, *, policy: PlanPolicy, advance: int, padding: Fraction = Fraction(0)
) -> FramePlan:
    """Return the largest aligned frame count that `audio` (seconds) fills.

    If the policy pads, it is the next larger count, for audio that gets silence at its end.
    `advance` is the number of frames from one window of the template to the next, `padding` the
    seconds by which an encoder may have made the audio longer than its recording. Raise JobFailed
    if the audio is too short or too long.
    """
    stride = advance if policy.frame_alignment == "template" else GUIDE_ADVANCE
    longest = _aligned_down(policy.max_frames, stride)
    _check_length(audio, longest, policy, padding)
    filled = audio * FRAME_RATE
    frames = _aligned_down(floor(filled), stride)
    if policy.pads and frames < filled:
        frames += stride
    frames = min(frames, longest)
    video = frames * FRAME
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
    """Return how many windows the GPU really renders for this frame count."""
    return ceil(Fraction(max(frames - FIRST_WINDOW, 0), advance)) + 1


def in_seconds(value: Fraction, *, decimals: int = 3) -> str:
    """Return seconds as text, rounded down to `decimals`, with at least two decimals."""
    whole, rest = divmod(floor(value * 10**decimals), 10**decimals)
    text = f"{rest:0{decimals}d}".rstrip("0")
    return f"{whole}.{text:0<2}"


def _check_length(audio: Fraction, longest: int, policy: PlanPolicy, padding: Fraction) -> None:
    length = f"The audio is {in_seconds(audio, decimals=6)} s long"
    if audio < SHORTEST_AUDIO:
        raise JobFailed(
            "audio_too_short",
            f"{length}; it must be at least {in_seconds(SHORTEST_AUDIO)} s (minimum "
            f"{FIRST_WINDOW} frames). Send a longer recording.",
        )
    if audio > policy.max_audio_seconds + padding:
        raise JobFailed(
            "audio_too_long",
            f"{length}, which exceeds the maximum of {in_seconds(policy.max_audio_seconds)} s. "
            f"Shorten it or split it into several jobs.",
        )
    if policy.overlong_audio == "reject" and audio > longest * FRAME:
        raise JobFailed(
            "audio_too_long",
            f"{length}; the longest video is {in_seconds(longest * FRAME)} s ({longest} frames), "
            f"and this service does not cut audio. Shorten it or split it into several jobs.",
        )


def _aligned_down(frames: int, stride: int) -> int:
    return FIRST_WINDOW + max(frames - FIRST_WINDOW, 0) // stride * stride
