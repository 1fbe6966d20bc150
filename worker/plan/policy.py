"""The operator's choices that a plan needs; worker/settings.py has their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

OverlongAudio = Literal["trim", "reject"]
FrameAlignment = Literal["guide", "template"]
SizePolicy = Literal["snap", "reject"]
AudioFit = Literal["trim", "pad", "reject"]
ImageFit = Literal["cover", "contain", "blur"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPolicy:
    """Everything about the service that shapes a plan; prices in US dollars.

    `prepared`: the inputs are rendered to the exact size and length and uploaded, which
    `audio_fit` pad and `image_fit` need. `open_knobs`: which of model, lora and crf a job may set.
    """

    max_audio_seconds: Fraction
    max_frames: int
    overlong_audio: OverlongAudio
    frame_alignment: FrameAlignment
    size_policy: SizePolicy
    max_pixels: int | None
    seconds_per_window: Fraction
    gpu_price_per_second: Decimal | None
    queue_deadline_seconds: int
    audio_fit: AudioFit
    image_fit: ImageFit
    prepared: bool
    open_knobs: frozenset[str]

    @property
    def pads(self) -> bool:
        """Whether silence is added up to the next frame count instead of cutting the audio."""
        return self.prepared and self.audio_fit == "pad"
