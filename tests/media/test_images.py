"""What the worker makes of the pictures that phones, browsers and attackers send."""

import io
import struct
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from PIL import Image, ImageChops, ImageCms

from worker.jobs.errors import JobFailed
from worker.media import images

RED, BLUE = (220, 30, 20), (20, 40, 200)
MAX_PIXELS = 50_000_000
probe_image = partial(images.probe_image, max_pixels=MAX_PIXELS)
render_image = partial(images.render_image, max_pixels=MAX_PIXELS)


def picture(width=600, height=800, mode="RGB") -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, height // 2, width, height))
    return image if mode == "RGB" else image.convert(mode)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    pillow_heif.register_heif_opener()
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def with_orientation(value: int, kind: str = "JPEG", **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return saved(picture(), kind, exif=exif if kind == "TIFF" else exif.tobytes(), **options)


def rendered(data: bytes, size=(480, 640), fit="cover") -> Any:
    result = Image.open(io.BytesIO(render_image(io.BytesIO(data), size=size, fit=fit)))
    result.load()
    assert (result.format, result.mode, result.size) == ("JPEG", "RGB", size)
    return result


def near(pixel, wanted, tolerance=14) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, wanted, strict=True))


FORMATS = {
    "JPEG": lambda: saved(picture(), "JPEG"),
    "progressive JPEG": lambda: saved(picture(), "JPEG", progressive=True),
    "grey JPEG": lambda: saved(picture(mode="L"), "JPEG"),
    "CMYK JPEG": lambda: saved(picture(mode="CMYK"), "JPEG"),
    "PNG": lambda: saved(picture(), "PNG"),
    "palette PNG": lambda: saved(picture().quantize(16), "PNG"),
    "1-bit PNG": lambda: saved(picture(mode="1"), "PNG"),
    "16-bit grey PNG": lambda: saved(Image.new("I;16", (600, 800), 40_000), "PNG"),
    "grey and alpha PNG": lambda: saved(picture(mode="LA"), "PNG"),
    "PNG with alpha": lambda: saved(picture(mode="RGBA"), "PNG"),
    "WebP": lambda: saved(picture(), "WEBP"),
    "lossless WebP": lambda: saved(picture(mode="RGBA"), "WEBP", lossless=True),
    "AVIF": lambda: saved(picture(), "AVIF"),
    "HEIC": lambda: saved(picture(), "HEIF"),
    "GIF": lambda: saved(picture(), "GIF"),
    "TIFF": lambda: saved(picture(), "TIFF"),
    "float TIFF": lambda: saved(Image.new("F", (600, 800), 0.5), "TIFF"),
    "32-bit TIFF": lambda: saved(Image.new("I", (600, 800), 40_000), "TIFF"),
    "BMP": lambda: saved(picture(), "BMP"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised_by_content_and_rendered(name):
    data = FORMATS[name]()
    facts = probe_image(io.BytesIO(data))
    assert (facts.width, facts.height) == (600, 800)
    rendered(data)


@pytest.mark.parametrize(
    "name", ["JPEG", "CMYK JPEG", "PNG", "palette PNG", "WebP", "HEIC", "AVIF"]
)
def test_colours_stay_what_they_are(name):
    image = rendered(FORMATS[name]())
    assert near(image.getpixel((240, 100)), RED)
    assert near(image.getpixel((240, 540)), BLUE)


def test_sixteen_bits_become_eight_without_going_white():
    assert near(rendered(FORMATS["16-bit grey PNG"]()).getpixel((5, 5)), (156, 156, 156), 2)
    assert near(rendered(FORMATS["32-bit TIFF"]()).getpixel((5, 5)), (156, 156, 156), 2)


def test_a_renamed_file_is_read_by_its_content(tmp_path: Path):
    path = tmp_path / "really-png.jpg"
    path.write_bytes(FORMATS["PNG"]())
    with path.open("rb") as file:
        assert probe_image(file).format == "PNG"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("WEBP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("HEIF", {}),
        ("AVIF", {}),
    ],
    ids=["JPEG", "PNG", "WebP", "TIFF", "packed TIFF", "HEIC", "AVIF"],
)
def test_the_upright_picture_is_measured_and_rendered(kind, options, orientation):
    """The file is red above and blue below; its orientation says where the top really is.

    Pillow turns some formats itself while it loads them.
    """
    data = with_orientation(orientation, kind, **options)
    facts = probe_image(io.BytesIO(data))
    sideways = orientation >= 5
    assert (facts.width, facts.height) == ((800, 600) if sideways else (600, 800))
    size = (640, 480) if sideways else (480, 640)
    image = rendered(data, size)
    first, second = ((100, 240), (540, 240)) if sideways else ((240, 100), (240, 540))
    red_first = orientation in (1, 2, 5, 8)
    assert near(image.getpixel(first), RED if red_first else BLUE)
    assert near(image.getpixel(second), BLUE if red_first else RED)


def test_a_portrait_from_a_phone_is_a_portrait():
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = probe_image(io.BytesIO(saved(picture(1600, 1200), "JPEG", exif=exif)))
    assert (facts.width, facts.height) == (1200, 1600)


def test_a_turned_heic_is_turned_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(picture(), "HEIF", exif=exif.tobytes())
    facts = probe_image(io.BytesIO(data))
    assert (facts.width, facts.height) in {(800, 600), (600, 800)}
    size = (640, 480) if facts.width > facts.height else (480, 640)
    ratio = Image.open(io.BytesIO(render_image(io.BytesIO(data), size=size, fit="contain")))
    assert not near(ratio.getpixel((2, 2)), (0, 0, 0), 5)


def test_transparent_parts_are_found_and_become_white():
    image = Image.new("RGBA", (600, 800), (0, 0, 0, 0))
    image.paste((*RED, 255), (200, 200, 400, 600))
    data = saved(image, "PNG")
    assert probe_image(io.BytesIO(data)).has_alpha
    result = rendered(data)
    assert near(result.getpixel((5, 5)), (255, 255, 255))
    assert near(result.getpixel((240, 320)), RED)


@pytest.mark.parametrize(
    "make",
    [
        lambda: saved(picture(mode="RGBA"), "PNG"),
        lambda: saved(picture(mode="LA"), "PNG"),
        lambda: saved(picture(mode="RGBA"), "TIFF"),
        lambda: saved(picture(mode="RGBA"), "HEIF"),
        lambda: saved(picture(mode="RGBA"), "WEBP", lossless=True),
        lambda: saved(picture().quantize(16), "PNG", transparency=200),
        lambda: saved(picture().quantize(16), "PNG", transparency=b"\xff" * 10),
        lambda: saved(picture(mode="L"), "PNG", transparency=1),
        lambda: saved(almost_opaque(), "PNG"),
    ],
    ids=["RGBA", "grey", "TIFF", "HEIC", "WebP", "palette", "opaque palette", "no grey", "254"],
)
def test_a_picture_that_could_be_transparent_but_is_not_is_opaque(make):
    assert not probe_image(io.BytesIO(make())).has_alpha


def almost_opaque() -> Image.Image:
    """What programs leave that scale pictures."""
    image = picture(mode="RGBA")
    image.putalpha(254)
    return image


def test_one_transparent_pixel_is_enough():
    image = picture(mode="RGBA")
    image.putpixel((3, 3), (0, 0, 0, 0))
    assert probe_image(io.BytesIO(saved(image, "PNG"))).has_alpha
    grey = picture(mode="L")
    data = saved(grey, "PNG", transparency=grey.getpixel((0, 0)))
    assert probe_image(io.BytesIO(data)).has_alpha
    data = saved(picture(), "PNG", transparency=(1, 2, 3))
    assert probe_image(io.BytesIO(data)).has_alpha


@pytest.mark.parametrize(
    ("name", "deep"),
    [("16-bit grey PNG", True), ("32-bit TIFF", True), ("float TIFF", True), ("grey JPEG", False)],
)
def test_grey_that_comfyui_would_show_white_is_known(name, deep):
    assert probe_image(io.BytesIO(FORMATS[name]())).deep_grey is deep


def test_a_lab_picture_keeps_its_colours():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(picture(), srgb, lab, outputMode="LAB")
    assert image is not None
    result = rendered(saved(image, "TIFF"))
    assert near(result.getpixel((240, 100)), RED)
    assert near(result.getpixel((240, 540)), BLUE)


def test_a_transparent_palette_colour_becomes_white():
    image = picture().quantize(16)
    data = saved(image, "PNG", transparency=image.getpixel((0, 0)))
    assert probe_image(io.BytesIO(data)).has_alpha
    assert near(rendered(data).getpixel((240, 100)), (255, 255, 255))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_pictures_are_found_and_the_first_is_used(kind):
    second = Image.new("RGB", (600, 800), (0, 255, 0))
    data = saved(picture(), kind, save_all=True, append_images=[second])
    assert probe_image(io.BytesIO(data)).animated
    assert near(rendered(data).getpixel((240, 100)), RED)


def test_an_embedded_profile_is_converted_to_srgb():
    """In this profile red and blue are exchanged, so that ignoring it would show."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = bytearray(srgb)
    red, blue = srgb.index(b"rXYZ"), srgb.index(b"bXYZ")
    exchanged[red : red + 4], exchanged[blue : blue + 4] = b"bXYZ", b"rXYZ"
    data = saved(picture(), "PNG", icc_profile=bytes(exchanged))
    image = rendered(data)
    assert near(image.getpixel((240, 100)), (RED[2], RED[1], RED[0]), 25)


@pytest.mark.parametrize(
    "profile", [b"", b"no profile at all", bytes(3000)], ids=["empty", "text", "zeros"]
)
def test_a_profile_that_makes_no_sense_is_ignored(profile):
    image = rendered(saved(picture(), "PNG", icc_profile=profile))
    assert near(image.getpixel((240, 100)), RED)


def test_a_profile_for_another_kind_of_picture_is_ignored():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = rendered(saved(picture(mode="L"), "JPEG", icc_profile=srgb))
    assert len(set(image.getpixel((240, 100)))) == 1


# --- fit ----------------------------------------------------------------------------------------


def framed() -> bytes:
    """A wide picture: a white square in the middle of grey, red marks at both ends."""
    image = Image.new("RGB", (1600, 800), (128, 128, 128))
    image.paste((255, 255, 255), (400, 0, 1200, 800))
    image.paste(RED, (0, 0, 200, 800))
    image.paste(RED, (1400, 0, 1600, 800))
    return saved(image, "PNG")


def test_cover_fills_the_size_and_cuts_the_sides():
    image = rendered(framed(), (480, 480), "cover")
    assert near(image.getpixel((3, 240)), (255, 255, 255))
    assert near(image.getpixel((476, 240)), (255, 255, 255))


def test_contain_keeps_everything_between_bars():
    image = rendered(framed(), (480, 480), "contain")
    assert near(image.getpixel((240, 10)), (0, 0, 0))
    assert near(image.getpixel((10, 240)), RED)
    assert near(image.getpixel((470, 240)), RED)


def test_blur_keeps_everything_before_a_soft_copy_of_itself():
    image = rendered(framed(), (480, 480), "blur")
    assert near(image.getpixel((10, 240)), RED)
    assert not near(image.getpixel((240, 10)), (0, 0, 0), 40)


def test_a_very_large_picture_is_made_smaller_first_and_looks_the_same(monkeypatch):
    """Its conversion would need several copies at once; sideways ones are measured upright."""
    photo = Image.effect_noise((75, 100), 60).resize((3000, 4000)).convert("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(photo, "PNG", exif=exif)
    plain = rendered(data, (640, 480), "blur")
    monkeypatch.setattr(images, "_LARGE_PIXELS", 1_000_000)
    smaller = rendered(data, (640, 480), "blur")
    difference = ImageChops.difference(plain, smaller).convert("L")
    assert not any(difference.histogram()[32:])


@pytest.mark.parametrize("fit", ["cover", "contain", "blur"])
@pytest.mark.parametrize("size", [(720, 1280), (1280, 720), (480, 480), (1920, 1072)])
def test_any_shape_is_rendered_to_exactly_the_asked_size(fit, size):
    for shape in [(3, 4000), (4000, 3), (1, 1), (333, 777)]:
        rendered(saved(picture(*shape), "PNG"), size, fit)


# --- refusals -----------------------------------------------------------------------------------


def code_of(data: bytes, **limits) -> str:
    with pytest.raises(JobFailed) as failed:
        probe_image(io.BytesIO(data), **limits)
    assert failed.value.message.endswith(".")
    return failed.value.code


def png_bomb(width: int, height: int) -> bytes:
    """A valid PNG of one colour: 400 megapixels in 50 kB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def test_pixels_are_counted_before_any_is_decoded():
    assert code_of(png_bomb(20_000, 20_000)) == "image_too_large"
    assert code_of(png_bomb(5001, 10_000)) == "image_too_large"
    assert probe_image(io.BytesIO(png_bomb(1000, 1000)), max_pixels=1_000_000).width == 1000
    assert code_of(png_bomb(1000, 1001), max_pixels=1_000_000) == "image_too_large"


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "HEIC", "AVIF", "GIF", "TIFF"])
def test_half_an_upload_is_refused(name):
    noise = Image.effect_noise((600, 800), 80).convert("RGB")
    kind = {"HEIC": "HEIF", "WebP": "WEBP"}.get(name, name)
    data = saved(noise, kind)
    assert code_of(data[: len(data) // 2]) == "image_unreadable"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        b"\xff\xd8\xff\xe0" + bytes(400),
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"RIFF\x00\x00\x00\x00WEBPVP8 ",
    ],
    ids=["empty", "text", "jpeg head", "png head", "pdf", "svg", "eps", "webp head"],
)
def test_what_is_no_picture_is_refused(data):
    assert code_of(data) == "image_unreadable"


def test_a_web_page_saved_as_jpg_gets_the_advice_that_helps():
    with pytest.raises(JobFailed, match="web page; use a direct download link"):
        probe_image(io.BytesIO(b"<!doctype html><title>Sign in</title>"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_does_not_cost_the_picture():
    data = saved(picture(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\xff" * 40)
    assert probe_image(io.BytesIO(data)).width == 600


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "GIF", "TIFF", "HEIC", "AVIF"])
def test_mutated_files_are_read_or_refused_and_nothing_else(name):
    original = FORMATS[name]()
    for step in range(30):
        data = bytearray(original)
        for place in range(step, len(data), max(len(data) // 7, 1)):
            data[place] ^= 0x5A
        with suppress(JobFailed):
            assert probe_image(io.BytesIO(bytes(data))).width > 0
