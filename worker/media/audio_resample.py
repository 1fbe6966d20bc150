"""Converts decoded sound to 16 bits, also where its sample format changes on the way."""

from __future__ import annotations

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler


class Resampler:
    """Returns 16-bit planar frames of one layout and rate.

    FFmpeg's resamplers refuse every change of their source; a file may change its sample format, or
    between two layouts with the same number of channels. They also refuse to mix channels of which
    nobody knows where they belong: such frames keep all their channels, in their order.
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
        if self._inner is not None and source == self._source:
            return self._inner.resample(frame)
        left = self.resample(None)
        self._source = source
        try:
            return left + self._begin(self._layout, frame)
        except av.error.ArgumentError:
            return left + self._begin(frame.layout.name, frame)

    def _begin(self, layout: str, frame: AudioFrame) -> list[AudioFrame]:
        self._inner = AudioResampler(format="s16p", layout=layout, rate=self._rate)
        return self._inner.resample(frame)
