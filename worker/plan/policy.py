"""The operator's choices that a plan needs, with the defaults that the guide asks for."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from worker.plan.frames import GUIDE_MAX_FRAMES, Alignment, Overlong
from worker.plan.sizes import SizePolicy

AudioFit = Literal["trim", "pad", "reject"]
ImageFit = Literal["cover", "contain", "blur"]
Number = int | float | Decimal | Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPolicy:
    """Everything about the service that shapes a plan; seconds and US dollars.

    `prepared`: the inputs are made to measure and uploaded, which `audio_fit` pad and
    `image_fit` need. `open_knobs`: which of model, lora and crf a job may set.
    """

    max_audio_seconds: Number = 60
    max_frames: int = GUIDE_MAX_FRAMES
    overlong_audio: Overlong = "trim"
    frame_alignment: Alignment = "guide"
    size_policy: SizePolicy = "snap"
    max_pixels: int | None = None
    seconds_per_window: Number = 156
    gpu_price_per_second: Number | None = None
    queue_deadline_seconds: int = 3600
    audio_fit: AudioFit = "trim"
    image_fit: ImageFit = "cover"
    prepared: bool = False
    open_knobs: frozenset[str] = frozenset()

    @property
    def pads(self) -> bool:
        """Whether audio gets silence up to the next frame count instead of being cut."""
        return self.prepared and self.audio_fit == "pad"
