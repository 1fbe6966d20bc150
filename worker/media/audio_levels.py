"""Measures how loud an audio file is while it is decoded, at little cost."""

from __future__ import annotations

import array
from operator import mul

from av.audio.frame import AudioFrame

from worker.media.audio_resample import Resampler
from worker.plan.media_facts import ChannelLevels

_LEVEL_RATE = 8000
_LEVEL_WINDOW = _LEVEL_RATE // 50
_LEVEL_CHANNELS = 8
_FULL_SCALE = 32768
# The highest byte of a float without its sign: the high bits of the exponent. From here on values
# are beyond 2**33, infinite, or no numbers. Nothing that was recorded is: 1 is full scale, and some
# programs leave whole numbers of 32 bits in such files.
_NO_SOUND_FROM = {"flt": (4, 0x50), "dbl": (8, 0x42)}
_SOUND_BYTES = {
    name: bytes(byte for byte in range(256) if byte & 0x7F < start)
    for name, (_, start) in _NO_SOUND_FROM.items()
}


def holds_sound(frame: AudioFrame) -> bool:
    """Return whether all samples of a frame are numbers that can be sound."""
    name = frame.format.packed.name
    if name not in _NO_SOUND_FROM:
        return True
    size = _NO_SOUND_FROM[name][0]
    channels = frame.layout.nb_channels
    # From 8 channels on PyAV lists planes that are not there: to read one ends the process.
    planes, samples = (channels, 1) if frame.format.is_planar else (1, channels)
    return not any(
        bytes(plane)[size - 1 : frame.samples * samples * size : size].translate(
            None, _SOUND_BYTES[name]
        )
        for plane in frame.planes[:planes]
    )


class LevelMeter:
    """Measures levels on an 8 kHz copy, and full-scale samples before that copy is made."""

    def __init__(self) -> None:
        self._as_s16: Resampler | None = None
        self._down: Resampler | None = None
        self._pending: list[array.array[int]] = []
        self._windows: list[array.array[float]] = []
        self._full_scale: list[int] = []

    def feed(self, frame: AudioFrame) -> None:
        """Measure a decoded frame."""
        if self._as_s16 is None or self._down is None:
            layout = frame.layout.name
            self._as_s16 = Resampler(layout=layout, rate=frame.sample_rate)
            self._down = Resampler(layout=layout, rate=_LEVEL_RATE)
            channels = min(frame.layout.nb_channels, _LEVEL_CHANNELS)
            self._pending = [array.array("h") for _ in range(channels)]
            self._windows = [array.array("f") for _ in range(channels)]
            self._full_scale = [0] * channels
        for full in self._as_s16.resample(frame):
            self._count_full_scale(full)
            for small in self._down.resample(full):
                self._take(small)

    def finish(self) -> list[ChannelLevels]:
        """Return the levels of each channel."""
        if self._down is not None:
            for small in self._down.resample(None):
                self._take(small)
        return [
            ChannelLevels(windows=windows, full_scale_samples=full)
            for windows, full in zip(self._windows, self._full_scale, strict=True)
        ]

    def _count_full_scale(self, frame: AudioFrame) -> None:
        for index in range(len(self._full_scale)):
            # The high bytes of the samples; 7f and 80 are within 0.07 dB of full scale.
            high = bytes(frame.planes[index])[1 : frame.samples * 2 : 2]
            runs = high.count(b"\x7f\x7f\x7f") + high.count(b"\x80\x80\x80")
            self._full_scale[index] += 3 * runs

    def _take(self, frame: AudioFrame) -> None:
        for index, pending in enumerate(self._pending):
            pending.frombytes(bytes(frame.planes[index])[: frame.samples * 2])
            whole = len(pending) - len(pending) % _LEVEL_WINDOW
            for start in range(0, whole, _LEVEL_WINDOW):
                window = pending[start : start + _LEVEL_WINDOW]
                energy = sum(map(mul, window, window)) / _LEVEL_WINDOW
                self._windows[index].append(energy / _FULL_SCALE**2)
            del pending[:whole]
