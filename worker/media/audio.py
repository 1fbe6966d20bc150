"""Decodes an audio file to its end, the way ComfyUI's LoadAudio does, and tells what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from worker.jobs.errors import JobFailed
from worker.media.audio_header import claimed_seconds
from worker.media.audio_levels import LevelMeter
from worker.media.threads import Stopped, WorkStopped, never, refuse_text
from worker.plan.media_facts import (
    AudioFacts,
    audio_notices,
    is_truncated,
    judge_levels,
)

_FORMATS = (
    "wav,w64,aiff,caf,au,flac,ogg,mp3,aac,ac3,eac3,amr,amrnb,amrwb,mov,mp4,m4a,3gp,"
    "matroska,webm,asf,avi,flv,mpeg,mpegts,wv"
)
# Only sound is ever decoded: pictures in the file cost nothing and cannot attack us.
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
_RATES = range(4000, 384_001)
_MOST_CHANNELS = 16


class _LocalBytes:
    """What FFmpeg may see of a file: its bytes, and the name that the GPU worker gives it."""

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
def opened_audio(file: BinaryIO) -> Iterator[tuple[InputContainer, AudioStream]]:
    """Open local bytes and their first sound; playlists and the like are refused."""
    refuse_text(file, kind="audio")
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
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise JobFailed(
            "audio_unreadable", "The audio file is in no format that can be decoded."
        ) from error
    with container:
        if not container.streams.audio:
            raise JobFailed("audio_unreadable", "The file has no sound in it.")
        yield container, container.streams.audio[0]


def probe_audio_file(path: Path) -> AudioFacts:
    """The facts of a local file, for the command line."""
    with path.open("rb") as file:
        return probe_audio(file)


def probe_audio(file: BinaryIO, *, max_seconds: int = 600, stopped: Stopped = never) -> AudioFacts:
    """Decode a file to its end; JobFailed when the worker must not render from it."""
    with opened_audio(file) as (container, stream):
        rate, channels = _declared(stream)
        meter = LevelMeter()
        reader = PacketReader(container, stream, stopped=stopped)
        elements = 0
        for frame in reader.frames():
            # ComfyUI folds what it decodes into the declared number of channels.
            elements += frame.samples * frame.layout.nb_channels
            if elements > max_seconds * rate * channels:
                raise JobFailed(
                    "audio_too_long", f"The audio is longer than {max_seconds // 60} minutes."
                )
            meter.feed(frame)
        claimed = claimed_seconds(file, container, stream)
        codec, name = stream.codec_context.name, container.format.name.split(",")[0]
    samples = elements // channels
    if samples == 0:
        raise JobFailed("audio_unreadable", "No sound could be decoded from the audio file.")
    seconds = Fraction(samples, rate)
    if reader.bad_packets > reader.good_packets:
        raise JobFailed("audio_unreadable", "The audio file is damaged throughout, or protected.")
    if is_truncated(seconds, claimed) or reader.bad_packets > reader.good_packets // 10:
        raise JobFailed("audio_truncated", _truncated_message(seconds, claimed))
    levels = judge_levels(meter.finish(), samples=samples)
    return AudioFacts(
        seconds=seconds,
        sample_rate=rate,
        channels=channels,
        codec=codec.removesuffix("float"),
        container=name,
        header_seconds=claimed,
        sound_until=min(levels.sound_until, seconds),
        silent=levels.silent,
        clipped=levels.clipped,
        one_channel=levels.voice_channel is not None,
        voice_channel=levels.voice_channel,
        bad_packets=reader.bad_packets,
        rms_dbfs=levels.rms_dbfs,
        peak_dbfs=levels.peak_dbfs,
        warnings=audio_notices(levels, bad_packets=reader.bad_packets),
    )


def _declared(stream: AudioStream) -> tuple[int, int]:
    context = stream.codec_context
    # The option of the same name holds only while FFmpeg looks into the file.
    # An unknown codec has no context at all, whatever the types say.
    if getattr(context, "name", None) not in _CODECS.split(","):
        raise JobFailed(
            "audio_unreadable", "The sound is protected or in a format that cannot be decoded."
        )
    rate, channels = context.sample_rate, context.layout.nb_channels
    if rate not in _RATES or not 1 <= channels <= _MOST_CHANNELS:
        raise JobFailed(
            "audio_unreadable",
            f"The audio states {rate} samples a second in {channels} channels: "
            "it is damaged, protected or not meant for listening.",
        )
    return rate, channels


def _truncated_message(seconds: Fraction, claimed: Fraction | None) -> str:
    found = f"Only {float(seconds):.2f} s of the audio can be decoded"
    if claimed is not None and claimed > seconds:
        found += f", its header states {float(claimed):.2f} s"
    return f"{found}: the upload broke off or the file is damaged."


class PacketReader:
    """Decodes packet by packet, so that one damaged packet does not end the file."""

    def __init__(
        self, container: InputContainer, stream: AudioStream, *, stopped: Stopped = never
    ) -> None:
        self._container = container
        self._stream = stream
        self._stopped = stopped
        self._shape: tuple[int, int] | None = None
        self.good_packets = 0
        self.bad_packets = 0

    def frames(self) -> Iterator[AudioFrame]:
        """Every frame up to the end; `bad_packets` tells afterwards what was left out."""
        packets = self._container.demux(self._stream)
        while True:
            if self._stopped():
                raise WorkStopped
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except av.error.EOFError:
                return
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
            raise JobFailed(
                "audio_unreadable", "The audio file is damaged throughout, or protected."
            )

    def _refuse_change(self, frame: AudioFrame) -> None:
        shape = (frame.sample_rate, frame.layout.nb_channels)
        if self._shape is None:
            self._shape = shape
        elif shape != self._shape:
            raise JobFailed(
                "audio_unreadable",
                "The audio changes its sample rate or its channels in the middle; export it again.",
            )
