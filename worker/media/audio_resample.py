"""Converts decoded sound to 16 bits, also where its sample format changes on the way."""

from __future__ import annotations

from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler


class Resampler:
    """Yields 16-bit planar frames of one layout and rate.

    FFmpeg's resamplers refuse every change of their source; a file may change from 16 to 24 bits,
    or between two layouts with the same number of channels.
    """

    def __init__(self, *, layout: str, rate: int) -> None:
        self._layout = layout
        self._rate = rate
        self._source: tuple[str, str, int] | None = None
        self._inner: AudioResampler | None = None

    def resample(self, frame: AudioFrame | None) -> list[AudioFrame]:
        """Return what is ready after this frame, and all that is left after None."""
        if frame is None:
            return [] if self._inner is None else self._inner.resample(None)
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        left: list[AudioFrame] = []
        if self._inner is None or source != self._source:
            left = self.resample(None)
            self._source = source
            self._inner = AudioResampler(format="s16p", layout=self._layout, rate=self._rate)
        return left + self._inner.resample(frame)
