"""Decodes a sound packet by packet, so that one damaged packet does not end the file."""

from __future__ import annotations

import re
from collections.abc import Iterator

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from worker.jobs.errors import JobFailed

_MOST_BAD_PACKETS = 1000
# Streams that a file may begin after its start; real ones begin one or two.
_MOST_LATE_STREAMS = 100
_PCM_BITS = re.compile(r"pcm_[suf](\d+)")


class PacketReader:
    """Reads the frames of one sound; counts what could not be decoded."""

    def __init__(self, container: InputContainer, stream: AudioStream) -> None:
        self._container = container
        self._stream = stream
        self._block = _block_bytes(stream)
        self._shape: tuple[int, int] | None = None
        self._late_streams = 0
        self.good_packets = 0
        self.bad_packets = 0
        self.cut_sample = False

    def frames(self) -> Iterator[AudioFrame]:
        """Yield every frame up to the end.

        Then `bad_packets` is the number of packets left out, and `cut_sample` says whether
        uncompressed sound ends within a sample. Raise JobFailed if hardly anything can be decoded,
        or the sound becomes another one on its way.
        """
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except av.error.EOFError:
                return
            except MemoryError:
                raise
            except IndexError:
                # A stream that begins now: PyAV has no place for its packets in this iterator.
                packets = self._demux_again()
                continue
            except (av.error.FFmpegError, ValueError):
                self._count_bad()
                continue
            if packet is None:
                return
            self._count_good(packet)
            for frame in frames:
                self._refuse_change(frame)
                yield frame

    def _demux_again(self) -> Iterator[Packet[AudioStream]]:
        self._late_streams += 1
        if self._late_streams > _MOST_LATE_STREAMS:
            raise JobFailed(
                "audio_unreadable",
                "The audio file begins new streams again and again; export it again.",
            )
        return self._container.demux(self._stream)

    def _count_good(self, packet: Packet[AudioStream]) -> None:
        self.good_packets += 1
        if self._block and packet.size % self._block:
            self.cut_sample = True

    def _count_bad(self) -> None:
        self.bad_packets += 1
        if self.bad_packets > _MOST_BAD_PACKETS:
            raise JobFailed("audio_unreadable", "The whole audio file is damaged or protected.")

    def _refuse_change(self, frame: AudioFrame) -> None:
        shape = (frame.sample_rate, frame.layout.nb_channels)
        if self._shape is None:
            self._shape = shape
        elif shape != self._shape:
            raise JobFailed(
                "audio_unreadable",
                "The audio changes its sample rate or its channels; export it again.",
            )


def _block_bytes(stream: AudioStream) -> int:
    """Return the bytes of one sample of all channels; 0 for compressed sound."""
    context = stream.codec_context
    bits = _PCM_BITS.match(getattr(context, "name", None) or "")
    return int(bits[1]) // 8 * context.layout.nb_channels if bits else 0
