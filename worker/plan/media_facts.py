"""What the worker knows about an image and an audio file after decoding them, and what to say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from worker.jobs.errors import Notice

WINDOW = Fraction(1, 50)
"""Seconds of one level window."""
SILENCE_DBFS = -50.0
"""Below this a window counts as silent."""
MEDIA_WARNINGS: dict[str, str] = {
    "audio_silent": "Nothing in the voice band of the audio is louder than -50 dBFS.",
    "audio_clipped": "More than one sample in a thousand stands at full scale, in runs.",
    "audio_one_channel": "Only a channel that the model does not listen to has sound in it.",
    "audio_damaged": "Some packets of the audio could not be decoded and were left out.",
    "image_animated": "The image is animated; only its first picture is meant.",
    "image_transparent": "The image has transparent parts, which become white when prepared.",
}
"""Every code that the decoded media themselves can carry, and its meaning."""

_FLOOR_DBFS = -120.0
_SHORTEST_SOUND_WINDOWS = 10
# Speech stands 30 dB and more above the noise of the room in which it was recorded.
_BELOW_SPEECH_DB = 30.0
_ONE_CHANNEL_DB = 20.0
_CLIPPED_SHARE = 0.001
_TRUNCATED_BELOW = Fraction(9, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFacts:
    """One decoded audio file; `seconds` is exact: decoded samples by sample rate.

    The levels are those of an 8 kHz copy, the band of the voice, in dBFS for each channel.
    """

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
    voice_channel: int | None = None
    """The only channel with sound in it; None when there are several, or one channel at all."""
    bad_packets: int = 0
    rms_dbfs: tuple[float, ...] = ()
    peak_dbfs: tuple[float, ...] = ()
    warnings: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """One decoded image; width and height are pixels of the upright picture."""

    width: int
    height: int
    format: str
    has_alpha: bool = False
    animated: bool = False
    mode: str = ""
    warnings: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedInputs:
    """The addresses that RunPod gets, and the objects that were made for them.

    `objects` are `bucket/path` names; the addresses may hold a signature: never store or log them.
    """

    image_url: str
    audio_url: str
    objects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelLevels:
    """Mean squares (full scale = 1) of one channel's windows, its peak and full-scale samples."""

    windows: Sequence[float]
    peak: float
    full_scale_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What the level windows of all channels say."""

    sound_until: Fraction
    silent: bool
    clipped: bool
    voice_channel: int | None
    rms_dbfs: tuple[float, ...]
    peak_dbfs: tuple[float, ...]


def dbfs(mean_square: float) -> float:
    """Decibels below full scale of a mean square, never below -120."""
    if mean_square <= 10 ** (_FLOOR_DBFS / 10):
        return _FLOOR_DBFS
    return round(10 * math.log10(mean_square), 1)


def judge_levels(channels: Sequence[ChannelLevels], *, samples: int) -> Levels:
    """Decide what can be heard, in which channel and until when, of `samples` samples each."""
    speech = [_speech_level(channel.windows) for channel in channels]
    loudest = max(speech, default=_FLOOR_DBFS)
    threshold = 10 ** (max(SILENCE_DBFS, loudest - _BELOW_SPEECH_DB) / 10)
    heard = [
        index
        for channel in channels
        for index, level in enumerate(channel.windows)
        if level > threshold
    ]
    silent = len(set(heard)) < _SHORTEST_SOUND_WINDOWS
    sounding = [
        index
        for index, level in enumerate(speech)
        if level > max(SILENCE_DBFS, loudest - _ONE_CHANNEL_DB)
    ]
    only_one = len(channels) > 1 and len(sounding) == 1 and not silent
    full_scale = max((channel.full_scale_samples for channel in channels), default=0)
    return Levels(
        sound_until=(max(heard) + 1) * WINDOW if heard and not silent else Fraction(0),
        silent=silent,
        clipped=full_scale > samples * _CLIPPED_SHARE,
        voice_channel=sounding[0] if only_one else None,
        rms_dbfs=tuple(dbfs(_mean(channel.windows)) for channel in channels),
        peak_dbfs=tuple(dbfs(channel.peak**2) for channel in channels),
    )


def _speech_level(windows: Sequence[float]) -> float:
    """The level that the loudest twentieth of the windows exceeds: pauses do not lower it."""
    if not windows:
        return _FLOOR_DBFS
    ordered = sorted(windows)
    return dbfs(ordered[min(len(ordered) - 1, len(ordered) * 19 // 20)])


def _mean(windows: Sequence[float]) -> float:
    return sum(windows) / len(windows) if windows else 0.0


def is_truncated(decoded: Fraction, claimed: Fraction | None) -> bool:
    """Whether less than nine tenths of the length that the header claims could be decoded."""
    return claimed is not None and decoded < claimed * _TRUNCATED_BELOW


def audio_notices(levels: Levels, *, bad_packets: int) -> tuple[Notice, ...]:
    """What to tell about the sound of a file, whatever is rendered from it."""
    notices = []
    if levels.silent:
        notices.append(
            Notice(
                "audio_silent",
                f"Nothing louder than {SILENCE_DBFS:g} dBFS was found in the voice band: "
                "the lips will hardly move.",
            )
        )
    if levels.clipped:
        notices.append(
            Notice(
                "audio_clipped",
                "The recording is overdriven: many samples in a row stand at full scale.",
            )
        )
    if levels.voice_channel:
        where = "right" if levels.voice_channel == 1 else f"no. {levels.voice_channel + 1}"
        notices.append(
            Notice(
                "audio_one_channel",
                f"Only one channel ({where}) has sound in it, and the model listens to the first: "
                "without prepared inputs the lips will hardly move.",
            )
        )
    if bad_packets:
        notices.append(
            Notice("audio_damaged", f"{bad_packets} damaged pieces of the audio were left out.")
        )
    return tuple(notices)
