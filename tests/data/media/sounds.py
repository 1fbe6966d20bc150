"""Makes audio files of exact length, in the forms that phones and browsers make."""

import array
import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

Part = tuple[float, float]
"""Seconds, and the tone's amplitude from 0 to 1."""


class _Forward:
    """Only `write`: PyAV then tells FFmpeg that there is no way back."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)

    def getvalue(self) -> bytes:
        return bytes(self.data)


def tone(parts: Sequence[Part], rate: int, *, hertz: int = 330) -> array.array:
    """Samples of a tone whose amplitude changes from part to part."""
    second = [math.sin(2 * math.pi * hertz * i / rate) for i in range(rate)]
    samples = array.array("h")
    for seconds, amplitude in parts:
        count = round(seconds * rate)
        loop = array.array("h", [round(32767 * amplitude * value) for value in second])
        whole = loop * (count // rate + 1)
        samples += whole[:count]
    return samples


def sound(
    seconds: float | None = None,
    *,
    channels: Sequence[Sequence[Part]] | None = None,
    rate: int = 44_100,
    codec: str = "pcm_s16le",
    container: str = "wav",
    layout: str | None = None,
    live: bool = False,
    bit_rate: int | None = None,
    options: Mapping[str, str] | None = None,
    hertz: int = 330,
    sample_format: str | None = None,
) -> bytes:
    """An audio file: a tone of some seconds, or for each channel its own parts."""
    per_channel = channels or [[(seconds or 1.0, 0.3)]]
    planes = [tone(parts, rate, hertz=hertz) for parts in per_channel]
    layout = layout or ("mono" if len(planes) == 1 else "stereo")
    # FFmpeg reads its own output again to move the index to the front: only a path can do that.
    by_path = options is not None and "faststart" in options.get("movflags", "")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "sound")
        target: Any = str(path) if by_path else _Forward() if live else io.BytesIO()
        with av.open(target, "w", format=container, options=dict(options or {})) as output:
            stream: Any = output.add_stream(codec, rate=rate, layout=layout)
            if bit_rate:
                stream.bit_rate = bit_rate
            if sample_format:
                stream.format = sample_format
            if codec == "vorbis":
                # FFmpeg's own encoder, which is good enough for a tone.
                stream.options = {"strict": "experimental"}
            _encode(output, stream, planes, rate, layout)
        return path.read_bytes() if by_path else bytes(target.getvalue())


def _encode(output: Any, stream: Any, planes: list[array.array], rate: int, layout: str) -> None:
    total = len(planes[0])
    for start in range(0, total, rate):
        count = min(rate, total - start)
        frame = av.AudioFrame(format="s16p", layout=layout, samples=count)
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = start
        # From 8 channels on PyAV lists planes that are not there.
        for plane, samples in zip(frame.planes[: len(planes)], planes, strict=True):
            data = samples[start : start + count].tobytes()
            plane.update(data.ljust(plane.buffer_size, b"\0"))
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def film(seconds: float = 5.0, *, with_sound: bool = True, container: str = "mp4") -> bytes:
    """A small film of a black square, with or without sound."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        video: Any = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        speech: Any = output.add_stream("aac", rate=44_100, layout="mono") if with_sound else None
        for index in range(round(seconds * 25)):
            picture = av.VideoFrame(64, 64, "yuv420p")
            picture.pts = index
            for plane in picture.planes:
                plane.update(bytes(plane.buffer_size))
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        if speech is not None:
            _encode(output, speech, [tone([(seconds, 0.3)], 44_100)], 44_100, "mono")
    return target.getvalue()
