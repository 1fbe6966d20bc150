"""Words what a plan does to the inputs that their owner might not expect."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fractions import Fraction

from worker.jobs.errors import Notice
from worker.plan.frames import FRAME_RATE, FramePlan, in_seconds
from worker.plan.media_facts import AudioFacts, ImageFacts
from worker.plan.policy import PlanPolicy
from worker.plan.sizes import SizePlan

WARNINGS: dict[str, str] = {
    "audio_trimmed": "The end of the audio is not in the video: frame counts go in windows.",
    "speech_cut": "What is cut from the end of the audio is not silence.",
    "audio_padded": "Silence was added to the audio, so that no word is lost.",
    "audio_not_padded": "Padding was asked for, but without MEDIA_BUCKET it cannot be done.",
    "size_adjusted": "The render size differs from the wish: multiples of 16, at most MAX_PIXELS.",
    "size_untested": "The pixel count is none of those that the guide tested.",
    "image_small": "The image has less than half of the render size in width or height.",
    "image_cropped": "More than a quarter of the image is cut off to fill the render size.",
    "image_not_fitted": "contain or blur was asked for, but without MEDIA_BUCKET the image is "
    "cropped.",
    "prompt_adjusted": "Signs that the text encoder would parse were taken out of a prompt.",
}
_FRAME = Fraction(1, FRAME_RATE)


def plan_notices(
    *,
    frames: FramePlan,
    size: SizePlan,
    audio: AudioFacts,
    image: ImageFacts | None,
    policy: PlanPolicy,
    prompt_changed: bool,
) -> tuple[Notice, ...]:
    """Return every notice about a plan, those of the decoded media included, each code once."""
    found = [
        *_audio_notices(frames, audio, policy),
        *size.warnings,
        *_image_notices(size, image, policy),
        *audio.warnings,
        *(image.warnings if image is not None else ()),
    ]
    if prompt_changed:
        found.append(
            Notice(
                "prompt_adjusted",
                'The signs "|", "[ ]" and weights such as "(word:1.2)" were taken out of the '
                "prompt: the model would not read them as text.",
            )
        )
    return tuple({notice.code: notice for notice in reversed(found)}.values())[::-1]


def within_bytes(notices: Iterable[Notice], limit: int) -> tuple[Notice, ...]:
    """Return as many notices, in their order, as fit into `limit` bytes of JSON."""
    kept: list[Notice] = []
    for notice in notices:
        size = len(json.dumps([item.as_json() for item in [*kept, notice]]).encode())
        if size <= limit:
            kept.append(notice)
    return tuple(kept)


def _audio_notices(frames: FramePlan, audio: AudioFacts, policy: PlanPolicy) -> Iterable[Notice]:
    if frames.seconds_padded:
        yield Notice(
            "audio_padded",
            f"{in_seconds(frames.seconds_padded)} s of silence were added: the video has "
            f"{in_seconds(frames.video_duration)} s ({frames.frames} frames).",
        )
    if frames.seconds_cut < _FRAME:
        return
    cut = in_seconds(frames.seconds_cut)
    yield Notice(
        "audio_trimmed",
        f"The last {cut} s of the audio are not in the video, which has "
        f"{in_seconds(frames.video_duration)} s ({frames.frames} frames).",
    )
    if audio.sound_until is not None and audio.sound_until > frames.video_duration:
        yield Notice(
            "speech_cut",
            f"The {cut} s that are cut from the end of the audio are not silent; words may be "
            f"missing.",
        )
    if policy.audio_fit == "pad" and not policy.prepared:
        yield Notice(
            "audio_not_padded",
            "The audio was cut instead of padded, because the service has no bucket for prepared "
            "files (MEDIA_BUCKET).",
        )


def _image_notices(
    size: SizePlan, image: ImageFacts | None, policy: PlanPolicy
) -> Iterable[Notice]:
    if image is None:
        return
    if 2 * image.width < size.width or 2 * image.height < size.height:
        yield Notice(
            "image_small",
            f"The image has {image.width}x{image.height} pixels for a video of "
            f"{size.width}x{size.height}; it will look soft.",
        )
    if policy.image_fit != "cover" and policy.prepared:
        return
    if policy.image_fit != "cover":
        yield Notice(
            "image_not_fitted",
            f"The image is cropped instead of fitted ({policy.image_fit}), because the service "
            f"has no bucket for prepared files (MEDIA_BUCKET).",
        )
    image_shape = Fraction(image.width, image.height)
    shape = Fraction(size.width, size.height)
    kept = min(image_shape / shape, shape / image_shape)
    if kept < Fraction(3, 4):
        yield Notice(
            "image_cropped",
            f"The image has another shape than the video: {round(100 * (1 - kept))} % of it is "
            f"cut off at the sides.",
        )
