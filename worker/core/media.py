"""What the worker knows about an image and an audio file after decoding them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from worker.core.errors import Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFacts:
    """One decoded audio file; `seconds` is exact: decoded samples by sample rate."""

    seconds: Fraction
    sample_rate: int
    channels: int
    codec: str
    container: str = ""
    header_seconds: Fraction | None = None
    sound_until: Fraction | None = None
    """Seconds until which something can be heard; None when that was not measured."""
    silent: bool = False
    clipped: bool = False
    one_channel: bool = False
    warnings: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """One decoded image; width and height are pixels of the upright picture."""

    width: int
    height: int
    format: str
    has_alpha: bool = False
    animated: bool = False
    warnings: tuple[Notice, ...] = ()
