"""The rules for inputs that RunPod gets as they are: what its ComfyUI cannot load, or spoils.

All that depends on whether inputs are prepared is here, in `worker/plan/warnings.py`, and in
`PlanPolicy.pads`. Prepared inputs need none of these rules: they are made anew from what was
decoded.
"""

from __future__ import annotations

from collections.abc import Iterator

from worker.jobs.errors import JobFailed
from worker.plan.media_facts import AudioFacts, ImageFacts

# LoadAudio accepts floats and whole numbers of 16 and 32 bits, by the names of FFmpeg.
_LOADED_SAMPLES = frozenset({"s16", "s32", "flt"})
_ADVICE = "The operator can unset PASS_ORIGINALS, so that it is converted."


def refuse_originals(audio: AudioFacts, image: ImageFacts | None) -> None:
    """Raise JobFailed for the first input that must not be passed on as it is."""
    for code, sentence in [*_image_faults(image), *_audio_faults(audio)]:
        raise JobFailed(code, f"{sentence} {_ADVICE}")


def _image_faults(image: ImageFacts | None) -> Iterator[tuple[str, str]]:
    if image is None:
        return
    if image.format == "HEIF":
        yield (
            "image_unreadable",
            "The image is HEIC, which the GPU worker cannot read: save it as JPEG or PNG.",
        )
    if image.deep_grey:
        yield (
            "image_unreadable",
            "The image is grey with more than 8 bits per pixel, which the GPU worker shows white: "
            "save it as an ordinary JPEG or PNG.",
        )


def _audio_faults(audio: AudioFacts) -> Iterator[tuple[str, str]]:
    if audio.bad_packets:
        yield (
            "audio_unreadable",
            f"The audio is damaged in {audio.bad_packets} places, where the GPU worker would stop: "
            "export it again.",
        )
    if audio.sample_format not in _LOADED_SAMPLES:
        yield (
            "audio_unreadable",
            f"The audio has samples of a kind ({audio.sample_format}) that the GPU worker does not "
            "load: export it as 16-bit WAV or MP3.",
        )
    if audio.cut_sample:
        yield (
            "audio_unreadable",
            "The audio ends within a sample, where the GPU worker may stop: export it again.",
        )
