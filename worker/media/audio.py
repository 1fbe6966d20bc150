"""Decodes an audio file to its end, as ComfyUI's LoadAudio does, and returns its facts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from worker.media.audio_header import caf_is_cut, claimed_seconds
from worker.media.audio_levels import LevelMeter, holds_sound
from worker.media.audio_packets import PacketReader
from worker.media.first_look import refuse_text
from worker.media.mp4_end import is_mp4, mp4_end
from worker.media.ogg_pages import ogg_end
from worker.media.webm_end import webm_is_cut
from worker.plan.media_facts import MOST_SECONDS, AudioFacts, is_truncated, judge_levels

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
    file: BinaryIO, *, max_seconds: Fraction = MOST_SECONDS
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
        raise _unreadable(file) from error
    with container:
        if not container.streams.audio:
            raise JobFailed("audio_unreadable", "The file has no sound in it.")
        yield container, container.streams.audio[0]


def probe_audio(file: BinaryIO, *, max_seconds: Fraction = MOST_SECONDS) -> AudioFacts:
    """Decode a file to its end and return its facts.

    Raise JobFailed if nothing can be rendered from it or it is longer than `max_seconds`, and
    MemoryError if the process may not have the memory for it.
    """
    with opened_audio(file, max_seconds=max_seconds) as (container, stream):
        rate, channels = _declared(stream)
        meter = LevelMeter()
        reader = PacketReader(container, stream)
        elements, sample_format = 0, ""
        for frame in reader.frames():
            # ComfyUI folds what it decodes into the declared number of channels.
            elements += frame.samples * frame.layout.nb_channels
            sample_format = frame.format.packed.name
            refuse_length(Fraction(elements, rate * channels), max_seconds=max_seconds)
            refuse_samples(elements)
            _refuse_other_numbers(frame)
            meter.feed(frame)
        seconds = Fraction(elements // channels, rate)
        end = _end(file, container, stream)
        codec = stream.codec_context.name
    _refuse_incomplete(seconds, reader, end)
    levels = judge_levels(meter.finish(), samples=elements // channels)
    return AudioFacts(
        seconds=seconds,
        sample_rate=rate,
        channels=channels,
        codec=codec.removesuffix("float"),
        sound_until=min(levels.sound_until, seconds),
        clipped=levels.clipped,
        voice_channel=levels.voice_channel,
        bad_packets=reader.bad_packets,
        sample_format=sample_format,
        cut_sample=reader.cut_sample,
        seconds_missing=round(max((end.claimed or seconds) - seconds, Fraction(0)), 3),
        end_marked=end.marked,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """What a file tells of its end: a length in seconds, if it states one.

    `cut`: it ends within a piece, and nobody knows how many pieces are missing. `marked`: it has
    the mark that its format puts at the end.
    """

    claimed: Fraction | None
    cut: bool = False
    marked: bool = True


def _end(file: BinaryIO, container: InputContainer, stream: AudioStream) -> _End:
    claimed = claimed_seconds(file, container, stream)
    if container.format.name == "ogg":
        end = ogg_end(file)
        return _End(claimed=claimed, cut=end.cut, marked=end.marked)
    if claimed is None and "webm" in container.format.name.split(","):
        return _End(claimed=None, cut=webm_is_cut(file))
    if "mp4" in container.format.name.split(","):
        boxes = mp4_end(file)
        # Each fragment states its own length only.
        return _End(claimed=claimed, cut=boxes.fragments and boxes.cut)
    return _End(claimed=claimed)


def _unreadable(file: BinaryIO) -> JobFailed:
    """Return what is wrong with a file that cannot be opened."""
    file.seek(0)
    if is_mp4(file.read(16)) and not mp4_end(file).index:
        return JobFailed(
            "audio_truncated",
            "The recording has no index (moov): it was not finished, or the upload was not "
            "complete. Save or export it again, then upload the whole file.",
        )
    if caf_is_cut(file):
        return JobFailed(
            "audio_truncated",
            "The audio file is shorter than its header states: the upload was not complete. Upload "
            "the whole file again.",
        )
    return JobFailed("audio_unreadable", "The audio file has no format that can be decoded.")


def _refuse_other_numbers(frame: AudioFrame) -> None:
    if not holds_sound(frame):
        raise JobFailed(
            "audio_unreadable",
            "The audio holds values that are no sound (infinite, or not numbers): export it again, "
            "as 16-bit WAV.",
        )


def _refuse_incomplete(seconds: Fraction, reader: PacketReader, end: _End) -> None:
    if seconds == 0:
        raise JobFailed("audio_unreadable", "No sound could be decoded from the audio file.")
    if reader.bad_packets > reader.good_packets:
        raise JobFailed("audio_unreadable", "The whole audio file is damaged or protected.")
    damaged = reader.bad_packets > reader.good_packets // 10
    if end.cut or damaged or is_truncated(seconds, end.claimed):
        raise JobFailed("audio_truncated", _truncated_message(seconds, end))


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


def _truncated_message(seconds: Fraction, end: _End) -> str:
    if end.cut:
        return (
            f"The audio file ends within a piece of sound, after {float(seconds):.2f} s: the "
            "upload was not complete. Upload the whole file again."
        )
    found = f"Only {float(seconds):.2f} s of the audio can be decoded"
    if end.claimed is not None and end.claimed > seconds:
        found += f", its header states {float(end.claimed):.2f} s"
    return f"{found}: the upload was not complete, or the file is damaged."
