"""Small whole files of every format that is accepted, made when they are needed."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import Any

import pillow_heif
from PIL import Image, ImageCms

from tests.data.media.sounds import film, sound
from tests.fuzz.parts import BOXES, BYTES, FLAC, JPEG, OGG, PNG, RIFF, Format
from worker.media.first_look import Kind


@dataclass(frozen=True, slots=True)
class Seed:
    """A file that is accepted as it is."""

    name: str
    kind: Kind
    data: bytes
    format: Format


def all_seeds() -> list[Seed]:
    """Return the seeds, always the same and in the same order."""
    return [*_images(), *_sounds()]


def _picture(mode: str = "RGB", side: int = 48) -> Image.Image:
    return Image.frombytes(
        "RGB", (side, side), random.Random(1).randbytes(side * side * 3)
    ).convert(mode)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _images() -> list[Seed]:
    pillow_heif.register_heif_opener()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    more = [_picture("P"), _picture("P").rotate(90)]
    made: list[tuple[str, bytes, Format]] = [
        ("jpg", _saved(_picture(), "JPEG", exif=exif, icc_profile=profile), JPEG),
        ("progressive.jpg", _saved(_picture(), "JPEG", progressive=True), JPEG),
        ("cmyk.jpg", _saved(_picture("CMYK"), "JPEG", progressive=True), JPEG),
        ("png", _saved(_picture(), "PNG", icc_profile=profile), PNG),
        ("alpha.png", _saved(_picture("RGBA"), "PNG", exif=exif), PNG),
        ("palette.png", _saved(_picture("P"), "PNG"), PNG),
        ("16.png", _saved(_picture("I;16"), "PNG"), PNG),
        ("animated.png", _saved(more[0], "PNG", save_all=True, append_images=more[1:]), PNG),
        ("lossless.webp", _saved(_picture("RGBA"), "WEBP", lossless=True, exif=exif), RIFF),
        ("lossy.webp", _saved(_picture(), "WEBP", icc_profile=profile), RIFF),
        ("animated.webp", _saved(more[0], "WEBP", save_all=True, append_images=more[1:]), RIFF),
        ("heic", _saved(_picture(side=64), "HEIF", quality=50, exif=exif), BOXES),
        ("avif", _saved(_picture(side=64), "AVIF", speed=10), BOXES),
        ("tiff", _saved(_picture(), "TIFF", compression="tiff_lzw", exif=exif), BYTES),
        ("float.tiff", _saved(_picture("F"), "TIFF"), BYTES),
        ("gif", _saved(more[0], "GIF", save_all=True, append_images=more[1:]), BYTES),
        ("bmp", _saved(_picture(), "BMP"), BYTES),
    ]
    return [Seed(name, "image", data, parts) for name, data, parts in made]


def _sounds() -> list[Seed]:
    short = 1.0
    fast = {"movflags": "faststart"}
    pieces = {"movflags": "frag_keyframe+empty_moov"}
    made: list[tuple[str, bytes, Format]] = [
        ("m4a", sound(short, codec="aac", container="ipod"), BOXES),
        ("fast.m4a", sound(short, codec="aac", container="ipod", options=fast), BOXES),
        ("surround.m4a", _surround(), BOXES),
        ("pieces.mp4", sound(short, codec="aac", container="mp4", options=pieces), BOXES),
        ("mov", film(0.4, container="mov"), BOXES),
        ("wav", sound(short, rate=8000), RIFF),
        ("24.wav", sound(short, rate=8000, codec="pcm_s24le"), RIFF),
        ("float.wav", sound(short, rate=8000, codec="pcm_f32le"), RIFF),
        ("adpcm.wav", sound(short, rate=8000, codec="adpcm_ms"), RIFF),
        ("flac", sound(short, rate=16_000, codec="flac", container="flac"), FLAC),
        ("opus.ogg", sound(short, rate=48_000, codec="libopus", container="ogg"), OGG),
        ("flac.ogg", sound(short, rate=16_000, codec="flac", container="ogg"), OGG),
        ("opus.webm", sound(short, rate=48_000, codec="libopus", container="webm"), BYTES),
        ("mp3", sound(short, codec="libmp3lame", container="mp3"), BYTES),
        ("aac", sound(short, codec="aac", container="adts"), BYTES),
        ("aiff", sound(short, rate=8000, codec="pcm_s16be", container="aiff"), BYTES),
        ("caf", sound(short, rate=8000, codec="pcm_s16be", container="caf"), BYTES),
        ("w64", sound(short, rate=8000, container="w64"), BYTES),
        ("wma", sound(short, codec="wmav2", container="asf", bit_rate=64_000), BYTES),
    ]
    return [Seed(name, "audio", data, parts) for name, data, parts in made]


def _surround() -> bytes:
    """A recording of 8 channels, each in a plane of its own."""
    return sound(channels=[[(0.5, 0.3)]] * 8, layout="7.1", codec="aac", container="ipod")
