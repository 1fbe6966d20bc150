"""What the worker knows about an image and an audio file after decoding them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

WINDOW = Fraction(1, 50)
"""Seconds of one level window."""
MOST_SECONDS = Fraction(600)
"""Seconds of audio that are decoded at most, whatever a service permits."""
SILENCE_DBFS = -50.0
"""A window below this level counts as silent."""
ENCODER_PADDING = Fraction(1, 5)
"""Seconds by which lossy encoders make a recording longer, at most.

They fill up their last packet and may put packets before the first, so that a recording cut to
exactly 60 s decodes to some more: 11 to 60 ms at usual rates, 160 ms in AAC of 8 kHz, and 192 ms in
MP3 of 8 kHz without a Xing header.
"""

_EXACT_CODECS = ("pcm_", "flac", "alac", "wavpack")
_FLOOR_DBFS = -120.0
_SHORTEST_SOUND_WINDOWS = 10
# Speech is 30 dB and more above the noise of the room in which it was recorded.
_BELOW_SPEECH_DB = 30.0
_ONE_CHANNEL_DB = 20.0
_CLIPPED_SHARE = 0.001
_TRUNCATED_BELOW = Fraction(9, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFacts:
    """One decoded audio file.

    `seconds` is exact: decoded samples by sample rate. `sound_until` is the second after which
    nothing can be heard, 0 in a silent file and None if levels were not measured. `voice_channel`
    is the only channel with sound; None if there are several, or the file has one channel.
    `bad_packets` could not be decoded and were left out. `sample_format` is FFmpeg's name of the
    decoded samples (s16, flt, ...). `cut_sample`: uncompressed sound ends within a sample.
    `seconds_missing` is what the header states beyond `seconds`; `end_marked` is False if the
    format marks the end of a file, and this file has no such mark.
    """

    seconds: Fraction
    sample_rate: int
    channels: int
    codec: str
    sound_until: Fraction | None = None
    clipped: bool = False
    voice_channel: int | None = None
    bad_packets: int = 0
    sample_format: str = "s16"
    cut_sample: bool = False
    seconds_missing: Fraction = Fraction(0)
    end_marked: bool = True

    @property
    def silent(self) -> bool:
        """Whether nothing can be heard in the whole file."""
        return self.sound_until == 0

    @property
    def padding(self) -> Fraction:
        """The seconds that its encoder may have added; none for a length without a file."""
        exact = not self.codec or self.codec.startswith(_EXACT_CODECS)
        return Fraction(0) if exact else ENCODER_PADDING


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """One decoded image; width and height in pixels, as it is seen upright.

    `has_alpha`: some of it is transparent. `deep_grey`: grey with more than 8 bits a pixel.
    """

    width: int
    height: int
    format: str
    has_alpha: bool = False
    animated: bool = False
    deep_grey: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedInputs:
    """The URLs that RunPod gets, and the objects that were uploaded for them.

    `objects` are `bucket/path` names. The URLs may be signed: never store or log them.
    """

    image_url: str
    audio_url: str
    objects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelLevels:
    """The level of each window of one channel, and its number of full-scale samples.

    Levels are mean squares of samples from -1 to 1, measured on an 8 kHz copy: the voice band.
    """

    windows: Sequence[float]
    full_scale_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What the levels of all channels mean; the fields are those of AudioFacts."""

    sound_until: Fraction
    clipped: bool
    voice_channel: int | None


def dbfs(mean_square: float) -> float:
    """Return a mean square in decibels below full scale, at least -120."""
    if mean_square <= 10 ** (_FLOOR_DBFS / 10):
        return _FLOOR_DBFS
    return round(10 * math.log10(mean_square), 1)


def judge_levels(channels: Sequence[ChannelLevels], *, samples: int) -> Levels:
    """Return what can be heard in a file of `samples` samples per channel."""
    speech = [_speech_level(channel.windows) for channel in channels]
    loudest = max(speech, default=_FLOOR_DBFS)
    threshold = 10 ** (max(SILENCE_DBFS, loudest - _BELOW_SPEECH_DB) / 10)
    heard = {
        index
        for channel in channels
        for index, level in enumerate(channel.windows)
        if level > threshold
    }
    silent = len(heard) < _SHORTEST_SOUND_WINDOWS
    sounding = [
        index
        for index, level in enumerate(speech)
        if level > max(SILENCE_DBFS, loudest - _ONE_CHANNEL_DB)
    ]
    only_one = len(channels) > 1 and len(sounding) == 1 and not silent
    full_scale = max((channel.full_scale_samples for channel in channels), default=0)
    return Levels(
        sound_until=Fraction(0) if silent else (max(heard) + 1) * WINDOW,
        clipped=full_scale > samples * _CLIPPED_SHARE,
        voice_channel=sounding[0] if only_one else None,
    )


def is_truncated(decoded: Fraction, claimed: Fraction | None) -> bool:
    """Return whether less than nine tenths of the length in the header could be decoded."""
    return claimed is not None and decoded < claimed * _TRUNCATED_BELOW


def _speech_level(windows: Sequence[float]) -> float:
    """Return the level that the loudest twentieth of the windows exceeds: pauses do not count."""
    if not windows:
        return _FLOOR_DBFS
    ordered = sorted(windows)
    return dbfs(ordered[min(len(ordered) - 1, len(ordered) * 19 // 20)])
