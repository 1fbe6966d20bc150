"""Tells a user what a plan does to the inputs, and what may be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from worker.plan.frames import FRAME, FramePlan, in_seconds
from worker.plan.media_facts import SILENCE_DBFS, AudioFacts, ImageFacts
from worker.plan.policy import PlanPolicy
from worker.plan.sizes import LANDSCAPE_HD, PORTRAIT_HD, SizePlan

WARNINGS: dict[str, str] = {
    "audio_trimmed": "The end of the audio is not in the video: frame counts have fixed steps.",
    "speech_cut": "The end of the audio that was cut is not silent.",
    "audio_padded": "Silence was added to the audio, so that no word is lost.",
    "audio_not_padded": "AUDIO_FIT=pad has no effect with PASS_ORIGINALS: the audio was cut.",
    "size_adjusted": "The render size is not the requested one: sides are multiples of 16, and "
    "MAX_PIXELS is the limit.",
    "size_untested": "The guide tested no size with this number of pixels.",
    "image_small": "The image has less than half of the render size in width or height.",
    "image_cropped": "More than a quarter of the image is cut off to fill the render size.",
    "image_not_fitted": "IMAGE_FIT=contain or blur has no effect with PASS_ORIGINALS: the image "
    "is cropped.",
    "prompt_adjusted": "Signs with a meaning for the text encoder were removed from a prompt.",
    "audio_silent": "Nothing in the voice band of the audio is louder than -50 dBFS.",
    "audio_clipped": "More than one sample in a thousand is at full scale, in runs.",
    "audio_one_channel": "Only a channel that the model does not listen to has sound in it. In "
    "prepared audio it becomes the first channel, without a warning.",
    "audio_damaged": "Some packets of the audio could not be decoded and were left out.",
    "audio_incomplete": "The audio is up to a tenth shorter than its header states, or lacks the "
    "mark of its end: the end of the recording may be missing.",
    "image_animated": "The image is animated; only its first picture is used.",
    "image_transparent": "The image has transparent parts. They are white in a prepared image; in "
    "an original they show what the file holds under them, mostly black.",
}
"""Every warning code and its meaning."""

# Encoders' delays and last packets differ by less; a word lasts about as long.
_NOTICEABLE = Fraction(1, 2)
_TESTED_SIZES = (PORTRAIT_HD, LANDSCAPE_HD, (480, 832), (832, 480))
_TESTED_PIXELS = frozenset(width * height for width, height in _TESTED_SIZES)


@dataclass(frozen=True, slots=True)
class PlanWarning:
    """A code of WARNINGS and a sentence for the user; kept in the row's `warnings`."""

    code: str
    message: str

    def as_json(self) -> dict[str, str]:
        """Return the warning as the row holds it."""
        return {"code": self.code, "message": self.message}


def plan_warnings(
    *,
    frames: FramePlan,
    size: SizePlan,
    audio: AudioFacts,
    image: ImageFacts | None,
    policy: PlanPolicy,
    prompt_changed: bool,
) -> Iterator[PlanWarning]:
    """Yield every warning about a plan and its inputs, each code at most once."""
    yield from _length_warnings(frames, audio, policy)
    yield from _size_warnings(size)
    if image is not None:
        yield from _image_warnings(size, image, policy)
    yield from _sound_warnings(audio, policy)
    if image is not None and image.animated:
        yield PlanWarning(
            "image_animated", "The image file holds several pictures; the first is used."
        )
    if image is not None and image.has_alpha:
        shown = "are shown white" if policy.prepared else "may become black"
        yield PlanWarning("image_transparent", f"The image has transparent parts, which {shown}.")
    if prompt_changed:
        yield PlanWarning(
            "prompt_adjusted",
            'The signs "|", "[ ]" and weights such as "(word:1.2)" were removed from the prompt: '
            "the model would not read them as text.",
        )


def within_bytes(warnings: Iterable[PlanWarning], limit: int) -> tuple[PlanWarning, ...]:
    """Return the warnings, in their order, that fit into `limit` bytes of JSON."""
    kept: list[PlanWarning] = []
    for warning in warnings:
        size = len(json.dumps([item.as_json() for item in [*kept, warning]]).encode())
        if size <= limit:
            kept.append(warning)
    return tuple(kept)


def _length_warnings(
    frames: FramePlan, audio: AudioFacts, policy: PlanPolicy
) -> Iterator[PlanWarning]:
    video = f"{in_seconds(frames.video_duration)} s ({frames.frames} frames)"
    cut = in_seconds(frames.seconds_cut)
    if frames.seconds_padded:
        yield PlanWarning(
            "audio_padded",
            f"{in_seconds(frames.seconds_padded)} s of silence were added: the video is {video} "
            f"long.",
        )
    # Encoders leave tails of less than a frame.
    if frames.seconds_cut < FRAME:
        return
    yield PlanWarning(
        "audio_trimmed",
        f"The last {cut} s of the audio are not in the video, which is {video} long.",
    )
    if audio.sound_until is not None and audio.sound_until > frames.video_duration:
        yield PlanWarning(
            "speech_cut",
            f"The {cut} s that are cut from the end of the audio are not silent; words may be "
            f"missing.",
        )
    if policy.audio_fit == "pad" and not policy.prepared:
        yield PlanWarning(
            "audio_not_padded",
            "The audio was cut instead of padded, because the service passes original files on "
            "(PASS_ORIGINALS).",
        )


def _size_warnings(size: SizePlan) -> Iterator[PlanWarning]:
    if (size.width, size.height) != size.requested:
        yield PlanWarning(
            "size_adjusted",
            f"The video is rendered at {size.width}x{size.height} instead of "
            f"{size.requested[0]}x{size.requested[1]}: the model renders multiples of 16 only, "
            f"within the limit of this service.",
        )
    if size.width * size.height not in _TESTED_PIXELS:
        tested = ", ".join(f"{width}x{height}" for width, height in sorted(_TESTED_SIZES))
        yield PlanWarning(
            "size_untested",
            f"{size.width}x{size.height} is not one of the tested sizes ({tested}); time, memory "
            f"and quality may differ from the plan.",
        )


def _image_warnings(size: SizePlan, image: ImageFacts, policy: PlanPolicy) -> Iterator[PlanWarning]:
    if 2 * image.width < size.width or 2 * image.height < size.height:
        yield PlanWarning(
            "image_small",
            f"The image has {image.width}x{image.height} pixels for a video of "
            f"{size.width}x{size.height}; it will look soft.",
        )
    if policy.image_fit != "cover":
        if policy.prepared:
            return
        yield PlanWarning(
            "image_not_fitted",
            f"The image is cropped instead of fitted ({policy.image_fit}), because the service "
            f"passes original files on (PASS_ORIGINALS).",
        )
    image_shape = Fraction(image.width, image.height)
    shape = Fraction(size.width, size.height)
    kept = min(image_shape / shape, shape / image_shape)
    if kept < Fraction(3, 4):
        yield PlanWarning(
            "image_cropped",
            f"The image does not have the shape of the video: {round(100 * (1 - kept))} % of it "
            f"is cut off at the sides.",
        )


def _sound_warnings(audio: AudioFacts, policy: PlanPolicy) -> Iterator[PlanWarning]:
    if audio.silent:
        yield PlanWarning(
            "audio_silent",
            f"Nothing louder than {SILENCE_DBFS:g} dBFS was found in the voice band: the lips will "
            f"hardly move.",
        )
    if audio.clipped:
        yield PlanWarning(
            "audio_clipped",
            "The recording is too loud: many samples in a row are at full scale.",
        )
    # The model listens to channel 0, which is where preparing puts the voice.
    if audio.voice_channel and not policy.prepared:
        channel = "right" if audio.voice_channel == 1 else f"no. {audio.voice_channel + 1}"
        yield PlanWarning(
            "audio_one_channel",
            f"Only one channel ({channel}) has sound in it, and the model listens to the first: "
            "without prepared inputs the lips will hardly move.",
        )
    if audio.bad_packets:
        yield PlanWarning(
            "audio_damaged", f"{audio.bad_packets} damaged pieces of the audio were left out."
        )
    yield from _end_warnings(audio)


def _end_warnings(audio: AudioFacts) -> Iterator[PlanWarning]:
    if audio.seconds_missing >= _NOTICEABLE:
        yield PlanWarning(
            "audio_incomplete",
            f"The audio is {in_seconds(audio.seconds_missing)} s shorter than its header states: "
            "the end may be missing.",
        )
    elif not audio.end_marked:
        yield PlanWarning(
            "audio_incomplete",
            "The audio lacks the mark of its end: the recording or the upload may have broken off.",
        )
