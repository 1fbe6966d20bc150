"""What the GPU worker gets is the same whatever was sent: size, orientation, colours and sound."""

import io
from fractions import Fraction
from typing import Any

import av
import pillow_heif
import pytest
from PIL import Image, ImageCms

from tests.data.media.sounds import film, sound
from tests.media.loudness import loudness
from worker.jobs.errors import JobFailed
from worker.media.audio import probe_audio
from worker.media.audio_render import render_audio
from worker.media.images import probe_image, render_image
from worker.plan.originals import refuse_originals

RED, BLUE, GREEN = (200, 40, 30), (30, 50, 190), (40, 150, 60)
MAX_PIXELS = 50_000_000


# --- images -------------------------------------------------------------------------------------


def portrait() -> Image.Image:
    """Red above, blue below, and a green mark in the upper left corner."""
    image = Image.new("RGB", (600, 800), RED)
    image.paste(BLUE, (0, 400, 600, 800))
    image.paste(GREEN, (0, 0, 200, 200))
    return image


def grey(mode: str, full: float) -> Image.Image:
    """The same in shades: 0.3 above, 0.7 below, and a mark of 0.9."""
    image = Image.new("F", (600, 800), 0.3)
    image.paste(0.7, (0, 400, 600, 800))
    image.paste(0.9, (0, 0, 200, 200))
    scaled = image.point(lambda value: value * full)
    return scaled if mode == "F" else scaled.convert("I").convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    pillow_heif.register_heif_opener()
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned(kind: str, **options: Any) -> bytes:
    """A file that lies on its side, and says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = portrait().transpose(Image.Transpose.ROTATE_90)
    return saved(lying, kind, exif=exif if kind == "TIFF" else exif.tobytes(), **options)


def cut_out(mode: str, kind: str, **options: Any) -> bytes:
    """The right half is transparent, over black."""
    image = portrait().convert("RGBA")
    image.paste((0, 0, 0, 0), (300, 0, 600, 800))
    return saved(image if mode == "RGBA" else image.convert(mode), kind, **options)


def wide_gamut() -> bytes:
    """A profile with red and blue exchanged, and a picture with them exchanged as well."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = bytearray(srgb)
    red, blue = srgb.index(b"rXYZ"), srgb.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    bands = portrait().split()
    return saved(Image.merge("RGB", bands[::-1]), "JPEG", quality=95, icc_profile=bytes(profile))


def lab() -> Image.Image:
    srgb, profile = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(portrait(), srgb, profile, outputMode="LAB")
    assert converted is not None
    return converted


COLOURED = {
    "JPEG": lambda: saved(portrait(), "JPEG"),
    "progressive JPEG": lambda: saved(portrait(), "JPEG", progressive=True),
    "CMYK JPEG": lambda: saved(portrait().convert("CMYK"), "JPEG"),
    "JPEG with a profile": wide_gamut,
    "PNG": lambda: saved(portrait(), "PNG"),
    "opaque RGBA PNG": lambda: saved(portrait().convert("RGBA"), "PNG"),
    "palette PNG": lambda: saved(portrait().quantize(64), "PNG"),
    "WebP": lambda: saved(portrait(), "WEBP"),
    "lossless WebP": lambda: saved(portrait(), "WEBP", lossless=True),
    "GIF": lambda: saved(portrait(), "GIF"),
    "BMP": lambda: saved(portrait(), "BMP"),
    "TIFF": lambda: saved(portrait(), "TIFF"),
    "CMYK TIFF": lambda: saved(portrait().convert("CMYK"), "TIFF"),
    "Lab TIFF": lambda: saved(lab(), "TIFF"),
    "HEIC": lambda: saved(portrait(), "HEIF", quality=90),
    "AVIF": lambda: saved(portrait(), "AVIF", quality=90),
    "turned JPEG": lambda: turned("JPEG"),
    "turned PNG": lambda: turned("PNG"),
    "turned WebP": lambda: turned("WEBP"),
    "turned TIFF": lambda: turned("TIFF"),
    "turned packed TIFF": lambda: turned("TIFF", compression="tiff_lzw"),
    "turned HEIC": lambda: turned("HEIF", quality=90),
    "turned AVIF": lambda: turned("AVIF", quality=90),
    "animated GIF": lambda: saved(
        portrait(), "GIF", save_all=True, append_images=[Image.new("RGB", (600, 800))]
    ),
}
SHADES = {
    "8-bit grey PNG": lambda: saved(grey("L", 255), "PNG"),
    "16-bit grey PNG": lambda: saved(grey("I;16", 65_535), "PNG"),
    "16-bit grey TIFF": lambda: saved(grey("I;16", 65_535), "TIFF"),
    "32-bit grey TIFF": lambda: saved(grey("I", 65_535), "TIFF"),
    "float TIFF": lambda: saved(grey("F", 1.0), "TIFF"),
}
CUT_OUT = {
    "RGBA PNG": lambda: cut_out("RGBA", "PNG"),
    "grey PNG with alpha": lambda: cut_out("LA", "PNG"),
    "palette PNG": lambda: saved(
        Image.open(io.BytesIO(cut_out("RGBA", "PNG"))).quantize(64), "PNG"
    ),
    "WebP": lambda: cut_out("RGBA", "WEBP", lossless=True),
    "TIFF": lambda: cut_out("RGBA", "TIFF"),
    "HEIC": lambda: cut_out("RGBA", "HEIF", quality=90),
    "AVIF": lambda: cut_out("RGBA", "AVIF", quality=90),
    "GIF": lambda: cut_out("RGBA", "GIF"),
}


def prepared(data: bytes) -> Any:
    """The published picture as a plain JPEG decoder sees it: no EXIF, no profile is needed."""
    facts = probe_image(io.BytesIO(data), max_pixels=MAX_PIXELS)
    assert (facts.width, facts.height) == (600, 800)
    made = render_image(io.BytesIO(data), size=(480, 640), fit="cover", max_pixels=MAX_PIXELS)
    image = Image.open(io.BytesIO(made))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (480, 640))
    assert not image.getexif()
    return image


def assert_near(pixel: Any, wanted: Any, tolerance: int = 12) -> None:
    assert all(abs(a - b) <= tolerance for a, b in zip(pixel, wanted, strict=True)), pixel


@pytest.mark.parametrize("name", COLOURED)
def test_every_coloured_picture_is_published_upright_in_its_own_colours(name):
    image = prepared(COLOURED[name]())
    assert_near(image.getpixel((20, 20)), GREEN)
    assert_near(image.getpixel((460, 20)), RED)
    assert_near(image.getpixel((20, 620)), BLUE)
    assert_near(image.getpixel((460, 620)), BLUE)


@pytest.mark.parametrize("name", SHADES)
def test_every_grey_picture_keeps_its_shades(name):
    image = prepared(SHADES[name]())
    assert_near(image.getpixel((20, 20)), [0.9 * 255] * 3, 4)
    assert_near(image.getpixel((460, 20)), [0.3 * 255] * 3, 4)
    assert_near(image.getpixel((20, 620)), [0.7 * 255] * 3, 4)


@pytest.mark.parametrize("name", CUT_OUT)
def test_transparent_parts_of_every_format_become_white(name):
    data = CUT_OUT[name]()
    assert probe_image(io.BytesIO(data), max_pixels=MAX_PIXELS).has_alpha
    image = prepared(data)
    assert_near(image.getpixel((470, 20)), (255, 255, 255))
    assert_near(image.getpixel((470, 620)), (255, 255, 255))
    if name != "grey PNG with alpha":
        assert_near(image.getpixel((20, 620)), BLUE)


# --- sound --------------------------------------------------------------------------------------

FRAMES = {"cut": 81, "padded": 153}
TONE_DBFS = -13.5


def stereo(**options: Any) -> bytes:
    return sound(channels=[[(4, 0.3)], [(4, 0.3)]], **options)


def without_last_byte(data: bytes) -> bytes:
    return data[:-1]


SOUNDS = {
    "16-bit WAV": lambda: sound(4),
    "8-bit WAV": lambda: sound(4, codec="pcm_u8"),
    "24-bit WAV": lambda: sound(4, codec="pcm_s24le"),
    "32-bit WAV": lambda: sound(4, codec="pcm_s32le"),
    "64-bit WAV": lambda: sound(4, codec="pcm_s64le"),
    "float WAV": lambda: sound(4, codec="pcm_f32le"),
    "64-bit float WAV": lambda: sound(4, codec="pcm_f64le"),
    "A-law WAV": lambda: sound(4, codec="pcm_alaw", rate=8_000),
    "ADPCM WAV": lambda: sound(4, codec="adpcm_ima_wav"),
    "16-bit WAV cut within a sample": lambda: without_last_byte(sound(4)),
    "24-bit WAV cut within a sample": lambda: without_last_byte(stereo(codec="pcm_s24le")),
    "W64": lambda: sound(4, container="w64"),
    "AIFF": lambda: sound(4, codec="pcm_s16be", container="aiff"),
    "CAF": lambda: sound(4, container="caf"),
    "ALAC": lambda: sound(4, codec="alac", container="ipod"),
    "ALAC in CAF": lambda: sound(4, codec="alac", container="caf"),
    "FLAC": lambda: sound(4, codec="flac", container="flac"),
    "24-bit FLAC of 96 kHz": lambda: sound(
        4, codec="flac", container="flac", rate=96_000, sample_format="s32"
    ),
    "MP3": lambda: sound(4, codec="libmp3lame", container="mp3"),
    "AAC": lambda: sound(4, codec="aac", container="adts"),
    "M4A": lambda: sound(4, codec="aac", container="ipod"),
    "stereo M4A of 22.05 kHz": lambda: stereo(codec="aac", container="ipod", rate=22_050),
    "Opus": lambda: sound(4, codec="libopus", container="ogg", rate=48_000),
    "Vorbis": lambda: stereo(codec="vorbis", container="ogg"),
    "live WebM": lambda: sound(4, codec="libopus", container="webm", rate=48_000, live=True),
    "WMA": lambda: sound(4, codec="wmav2", container="asf", bit_rate=128_000),
    "AMR": lambda: sound(4, codec="libopencore_amrnb", container="amr", rate=8_000),
    "chained Ogg": lambda: sound(2, codec="flac", container="ogg") * 2,
    "surround sound": lambda: sound(
        channels=[[(4, 0.3 if index == 2 else 0.0)] for index in range(6)], layout="5.1"
    ),
    "a voice on the right": lambda: sound(channels=[[(4, 0.0)], [(4, 0.3)]]),
    "video": lambda: film(4),
}
UNLOADED = {
    "8-bit WAV",
    "64-bit WAV",
    "64-bit float WAV",
    "16-bit WAV cut within a sample",
    "24-bit WAV cut within a sample",
}


@pytest.mark.parametrize("length", FRAMES)
@pytest.mark.parametrize("name", SOUNDS)
def test_every_recording_is_published_as_long_as_its_frames_and_as_loud_as_it_was(name, length):
    """Decoded anew as LoadAudio does it: the first sound, all frames, no errors."""
    data = SOUNDS[name]()
    source, into = io.BytesIO(data), io.BytesIO()
    facts = probe_audio(source)
    seconds = Fraction(FRAMES[length], 25)
    render_audio(source, facts, seconds=seconds, into=into)
    with av.open(into, mode="r") as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        assert (container.format.name, stream.codec_context.name) == ("flac", "flac")
        assert {frame.format.name for frame in frames} == {"s16"}
        assert {frame.sample_rate for frame in frames} == {stream.rate}
    assert sum(frame.samples for frame in frames) == seconds * stream.rate
    assert stream.channels in (1, 2)
    voice = max(loudness(data))
    # Encoders for telephones change a pure tone.
    assert voice == pytest.approx(TONE_DBFS, abs=1.6)
    # Silence behind the recording lowers the mean of the whole.
    share = 10 ** ((loudness(into.getvalue())[0] - voice) / 10)
    assert share == pytest.approx(float(min(seconds, facts.seconds) / seconds), rel=0.1)


@pytest.mark.parametrize("name", SOUNDS)
def test_originals_of_all_formats_but_those_that_comfyui_does_not_load_pass(name):
    facts = probe_audio(io.BytesIO(SOUNDS[name]()))
    assert refused(facts) is (name in UNLOADED)


def refused(facts: Any) -> bool:
    try:
        refuse_originals(facts, None)
    except JobFailed:
        return True
    return False
