"""Decodes an audio file to its end, as ComfyUI's LoadAudio does, and returns its facts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import BinaryIO

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from worker.jobs.errors import JobFailed
from worker.media.audio_costs import (
    refuse_costly_audio,
    refuse_length,
    refuse_samples,
    refuse_shape,
)
from worker.media.audio_header import claimed_seconds
from worker.media.audio_levels import LevelMeter
from worker.media.first_look import refuse_text
from worker.plan.media_facts import AudioFacts, is_truncated, judge_levels

_FORMATS = (
    "wav,w64,aiff,caf,au,flac,ogg,mp3,aac,ac3,eac3,amr,amrnb,amrwb,mov,mp4,m4a,3gp,"
    "matroska,webm,asf,avi,flv,mpeg,mpegts,wv"
)
# Only sound is decoded: pictures in the file cost nothing, and their decoders are no target.
_CODECS = (
    "aac,aac_fixed,aac_latm,ac3,ac3_fixed,eac3,alac,amrnb,amrwb,flac,gsm,gsm_ms,mp1,mp1float,mp2,"
    "mp2float,mp3,mp3float,nellymoser,opus,libopus,libopencore_amrnb,libopencore_amrwb,speex,"
    "vorbis,wavpack,wmav1,wmav2,wmapro,wmalossless,wmavoice,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,"
    "adpcm_swf,adpcm_yamaha,pcm_alaw,pcm_mulaw,pcm_bluray,pcm_dvd,pcm_u8,pcm_s8,pcm_s8_planar,"
    "pcm_s16be,pcm_s16be_planar,pcm_s16le,pcm_s16le_planar,pcm_s24be,pcm_s24le,pcm_s24le_planar,"
    "pcm_s32be,pcm_s32le,pcm_s32le_planar,pcm_s64be,pcm_s64le,pcm_u16be,pcm_u16le,pcm_u24be,"
    "pcm_u24le,pcm_u32be,pcm_u32le,pcm_f16le,pcm_f24le,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le"
)
_MOST_BAD_PACKETS = 1000
MOST_SECONDS = 600


class _LocalBytes:
    """All that FFmpeg can see of a file: its bytes, and the name that the GPU worker gives it."""

    name = "input.mp3"

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _open_nothing_else(url: str, flags: int, options: dict[str, str]) -> None:
    raise PermissionError("an audio file must not name other files")


@contextmanager
def opened_audio(
    file: BinaryIO, *, max_seconds: int = MOST_SECONDS
) -> Iterator[tuple[InputContainer, AudioStream]]:
    """Open local bytes and their first sound; raise JobFailed for playlists and other formats."""
    refuse_text(file, kind="audio")
    refuse_costly_audio(file, max_seconds=max_seconds)
    try:
        container = av.open(
            _LocalBytes(file),
            mode="r",
            metadata_errors="replace",
            io_open=_open_nothing_else,
            options={
                "format_whitelist": _FORMATS,
                "protocol_whitelist": "none",
                "codec_whitelist": _CODECS,
            },
        )
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise JobFailed(
            "audio_unreadable", "The audio file has no format that can be decoded."
        ) from error
    with container:
        if not container.streams.audio:
            raise JobFailed("audio_unreadable", "The file has no sound in it.")
        yield container, container.streams.audio[0]


def probe_audio(file: BinaryIO, *, max_seconds: int = MOST_SECONDS) -> AudioFacts:
    """Decode a file to its end and return its facts.

    Raise JobFailed if nothing can be rendered from it or it is longer than `max_seconds`, and
    MemoryError if the process may not have the memory for it.
    """
    with opened_audio(file, max_seconds=max_seconds) as (container, stream):
        rate, channels = _declared(stream)
        meter = LevelMeter()
        reader = PacketReader(container, stream)
        elements = 0
        for frame in reader.frames():
            # ComfyUI folds what it decodes into the declared number of channels.
            elements += frame.samples * frame.layout.nb_channels
            refuse_length(Fraction(elements, rate * channels), max_seconds=max_seconds)
            refuse_samples(elements)
            meter.feed(frame)
        claimed = claimed_seconds(file, container, stream)
        codec = stream.codec_context.name
    samples = elements // channels
    if samples == 0:
        raise JobFailed("audio_unreadable", "No sound could be decoded from the audio file.")
    seconds = Fraction(samples, rate)
    if reader.bad_packets > reader.good_packets:
        raise JobFailed("audio_unreadable", "The whole audio file is damaged or protected.")
    if is_truncated(seconds, claimed) or reader.bad_packets > reader.good_packets // 10:
        raise JobFailed("audio_truncated", _truncated_message(seconds, claimed))
    levels = judge_levels(meter.finish(), samples=samples)
    return AudioFacts(
        seconds=seconds,
        sample_rate=rate,
        channels=channels,
        codec=codec.removesuffix("float"),
        sound_until=min(levels.sound_until, seconds),
        clipped=levels.clipped,
        voice_channel=levels.voice_channel,
        bad_packets=reader.bad_packets,
    )


def _declared(stream: AudioStream) -> tuple[int, int]:
    """Return the sample rate and the number of channels that the file states."""
    context = stream.codec_context
    # FFmpeg applies codec_whitelist only while it opens the file, so the codec is checked again.
    # An unknown codec has no context at all, although the types say otherwise.
    if getattr(context, "name", None) not in _CODECS.split(","):
        raise JobFailed(
            "audio_unreadable", "The sound is protected, or has a format that cannot be decoded."
        )
    rate, channels = context.sample_rate, context.layout.nb_channels
    refuse_shape(rate, channels)
    return rate, channels


def _truncated_message(seconds: Fraction, claimed: Fraction | None) -> str:
    found = f"Only {float(seconds):.2f} s of the audio can be decoded"
    if claimed is not None and claimed > seconds:
        found += f", its header states {float(claimed):.2f} s"
    return f"{found}: the upload was not complete, or the file is damaged."


class PacketReader:
    """Decodes packet by packet, so that one damaged packet does not end the file."""

    def __init__(self, container: InputContainer, stream: AudioStream) -> None:
        self._container = container
        self._stream = stream
        self._shape: tuple[int, int] | None = None
        self.good_packets = 0
        self.bad_packets = 0

    def frames(self) -> Iterator[AudioFrame]:
        """Yield every frame up to the end; then `bad_packets` is the number of packets left out."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except av.error.EOFError:
                return
            except MemoryError:
                raise
            except (av.error.FFmpegError, ValueError):
                self._count_bad()
                continue
            if packet is None:
                return
            self.good_packets += 1
            for frame in frames:
                self._refuse_change(frame)
                yield frame

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
