"""Renders the preview on the CPU: a still picture with a level meter of its sound."""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from PIL import Image, ImageDraw, ImageOps

SAMPLE_RATE: Final = 44_100
# The level meter: number of bars, share of the picture's height, luma of its parts.
BARS: Final = 48
STRIP_SHARE: Final = 0.07
BRIGHT: Final = 225
DIM: Final = 0.45


def fit(source: Path, width: int, height: int) -> Image.Image:
    """Crop the picture around its centre and scale it, as ImageScale does."""
    with Image.open(source) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    wanted, present = width / height, image.width / image.height
    x = round((image.width - image.width * (wanted / present)) / 2) if present > wanted else 0
    y = round((image.height - image.height * (present / wanted)) / 2) if present < wanted else 0
    cut = image.crop((x, y, image.width - x, image.height - y))
    return cut.resize((width, height), Image.Resampling.LANCZOS)


def read_audio(source: Path, samples: int) -> array.array[int]:
    """Return the first `samples` mono samples at 44.1 kHz, padded with silence if needed."""
    heard = array.array("h")
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(source), metadata_errors="replace") as container:
        for frame in container.decode(audio=0):
            for piece in resampler.resample(frame):
                heard.frombytes(bytes(piece.planes[0])[: piece.samples * 2])
            if len(heard) >= samples:
                break
    del heard[samples:]
    heard.extend([0] * (samples - len(heard)))
    return heard


def render(
    *,
    image: Path,
    audio: Path,
    target: Path,
    width: int,
    height: int,
    frames: int,
    fps: int = 25,
    crf: int = 19,
    on_frame: Callable[[int], None] = lambda frame: None,
) -> None:
    """Write an MP4 (H.264, yuv420p, AAC, faststart) of exactly `frames` frames."""
    sound = read_audio(audio, frames * SAMPLE_RATE // fps)
    levels = _levels(sound, frames)
    picture = fit(image, width, height)
    original = av.VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]  # PyAV has no type for it
    still = original.reformat(format="yuv420p")
    with av.open(str(target), "w", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"crf": str(crf), "preset": "veryfast", "threads": "2"}
        voice = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        sounds = _sound_frames(sound)
        for number, frame in enumerate(_frames(still, levels)):
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(video.encode(frame))
            # Interleave audio and video, so that a player does not seek.
            while (piece := next(sounds, None)) is not None:
                container.mux(voice.encode(piece))
                if piece.pts is not None and piece.pts * fps >= number * SAMPLE_RATE:
                    break
            on_frame(number + 1)
        for piece in sounds:
            container.mux(voice.encode(piece))
        container.mux(video.encode(None))
        container.mux(voice.encode(None))


def _levels(sound: array.array[int], frames: int) -> list[float]:
    step = len(sound) // frames
    peaks = [
        max(max(part), -min(part))
        for part in (sound[i * step : (i + 1) * step] for i in range(frames))
    ]
    loudest = max(*peaks, 1)
    return [peak / loudest for peak in peaks]


def _frames(still: av.VideoFrame, levels: list[float]) -> Iterator[av.VideoFrame]:
    """Draw the level meter on the picture: past sound on the left, later sound on the right."""
    width, height = still.width, still.height
    strip_height = max(2, round(height * STRIP_SHARE)) // 2 * 2
    line = still.planes[0].line_size
    luma = bytes(still.planes[0])
    start = (height - strip_height) * line
    foot = Image.frombytes("L", (line, strip_height), luma[start : start + line * strip_height])
    foot = foot.point([round(value * DIM) for value in range(256)])
    bar = width / BARS
    for now in range(len(levels)):
        strip = foot.copy()
        draw = ImageDraw.Draw(strip)
        for number in range(BARS):
            at = now + number - BARS // 2
            level = levels[at] if 0 <= at < len(levels) else 0.0
            tall = max(2, round(level * strip_height * 0.8))
            top = (strip_height - tall) // 2
            left = round(number * bar + bar * 0.2)
            shade = BRIGHT if number <= BARS // 2 else BRIGHT // 2
            draw.rectangle((left, top, left + max(1, round(bar * 0.5)), top + tall), fill=shade)
        frame = av.VideoFrame(width, height, "yuv420p")
        frame.planes[0].update(luma[:start] + strip.tobytes())
        frame.planes[1].update(bytes(still.planes[1]))
        frame.planes[2].update(bytes(still.planes[2]))
        yield frame


def _sound_frames(sound: array.array[int]) -> Iterator[av.AudioFrame]:
    size = 1024
    for start in range(0, len(sound), size):
        part = sound[start : start + size]
        frame = av.AudioFrame(format="s16", layout="mono", samples=len(part))
        frame.planes[0].update(part.tobytes().ljust(frame.planes[0].buffer_size, b"\0"))
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        frame.time_base = Fraction(1, SAMPLE_RATE)
        yield frame
