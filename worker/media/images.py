"""Recognises an image by its bytes, returns its facts, and renders it to an exact size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import BinaryIO

import pillow_heif
from PIL import Image, ImageCms, ImageFilter, ImageOps

from worker.jobs.errors import JobFailed, WorkerError
from worker.media.first_look import refuse_text
from worker.media.image_costs import refuse_costly_image
from worker.plan.media_facts import ImageFacts
from worker.plan.policy import ImageFit
from worker.plan.sizes import Size

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
_ORIENTATION_TAG = 0x0112
_TURNED_SIDEWAYS = frozenset({5, 6, 7, 8})
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FULL_SCALES = {"I": (255.0, 65_535.0), "F": (1.0, 255.0, 65_535.0)}
_DEEP_GREY = ("I", "F")
# Below this share of 255 something shines through; programs that scale pictures leave 254.
_LOOKS_OPAQUE = 250
_LARGE_PIXELS = 24_000_000
_REDUCED = frozenset({"RGB", "RGBA", "L", "LA", "CMYK"})
_WHITE = (255, 255, 255)
_BARS = (0, 0, 0)
# A face sits above the middle of a portrait: cut more from below than from above.
_CENTRE = (0.5, 0.35)


@cache
def _prepare_pillow() -> None:
    pillow_heif.register_heif_opener()
    # Our limit is checked before any pixel is decoded; Pillow's limit would only warn.
    Image.MAX_IMAGE_PIXELS = None


@contextmanager
def _opened(file: BinaryIO, *, max_pixels: int) -> Iterator[Image.Image]:
    """Open by content and check the size; raise JobFailed for every error of a decoder."""
    _prepare_pillow()
    refuse_text(file, kind="image")
    refuse_costly_image(file, max_pixels=max_pixels)
    try:
        with Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise JobFailed(
                    "image_too_large",
                    f"The image has {width}x{height} pixels; at most {max_pixels:,} are accepted.",
                )
            yield image
    except (WorkerError, MemoryError):
        raise
    except Exception as error:
        if "memory" in str(error).lower():
            raise MemoryError from error
        # On a damaged file Pillow's decoders raise errors of any type.
        raise JobFailed(
            "image_unreadable", "The image is damaged, or has no format that can be decoded."
        ) from error


def _orientation(image: Image.Image) -> int:
    """Return how a loaded picture must still be turned; while it loads, Pillow turns a TIFF."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - the picture is good even if its EXIF is damaged
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def probe_image(file: BinaryIO, *, max_pixels: int) -> ImageFacts:
    """Decode an image once, at a small scale if its format can, and return its facts.

    Raise JobFailed if it cannot be decoded or has more than `max_pixels`, and MemoryError if the
    process may not have the memory for it.
    """
    with _opened(file, max_pixels=max_pixels) as image:
        width, height = image.size
        animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        # This reads the whole file, which finds incomplete uploads, but an eighth of the pixels.
        image.draft(image.mode, (1, 1))
        image.load()
        if _orientation(image) in _TURNED_SIDEWAYS:
            width, height = height, width
        return ImageFacts(
            width=width,
            height=height,
            format="JPEG" if image.format == "MPO" else str(image.format),
            has_alpha=_is_transparent(image),
            animated=animated,
            deep_grey=image.mode.startswith(_DEEP_GREY),
        )


def _is_transparent(image: Image.Image) -> bool:
    """Return whether a loaded picture has transparent parts, not only the means to have some."""
    if not image.has_transparency_data:
        return False
    if image.mode in ("RGBA", "LA", "PA"):
        return any(image.getchannel("A").histogram()[:_LOOKS_OPAQUE])
    clear = image.info.get("transparency")
    if image.mode == "P" and isinstance(clear, bytes):
        used = zip(image.histogram(), clear, strict=False)
        return any(pixels and alpha < _LOOKS_OPAQUE for pixels, alpha in used)
    if image.mode in ("P", "L") and isinstance(clear, int):
        return any(image.histogram()[clear : clear + 1])
    return True


def render_image(
    file: BinaryIO,
    *,
    size: Size,
    fit: ImageFit,
    max_pixels: int,
) -> bytes:
    """Return an upright sRGB JPEG of exactly `size`; raise as `probe_image`."""
    with _opened(file, max_pixels=max_pixels) as image:
        if image.mode in ("RGB", "L", "YCbCr"):
            image.draft(image.mode, (max(size), max(size)))
        image.load()
        turn = _orientation(image)
        picture = _to_srgb(_lighter(image, size[::-1] if turn in _TURNED_SIDEWAYS else size))
        if turn in _TURNS:
            picture = picture.transpose(_TURNS[turn])
        out = io.BytesIO()
        _fitted(picture, size, fit).save(out, "JPEG", quality=95, subsampling=0)
        return out.getvalue()


def _lighter(image: Image.Image, size: Size) -> Image.Image:
    """Return a very large picture at half its sides or less, as long as `size` fits into it.

    Each step of the conversion needs a copy.
    """
    factor = min(image.width // size[0], image.height // size[1])
    large = image.width * image.height > _LARGE_PIXELS
    return image.reduce(factor) if large and factor > 1 and image.mode in _REDUCED else image


def _to_srgb(image: Image.Image) -> Image.Image:
    """Return the first picture as 8-bit sRGB, transparent parts on white."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):
        picture = image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    elif image.mode in ("I", "F"):
        picture = _from_deep_grey(image)
    elif image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        picture = Image.new("RGB", layer.size, _WHITE)
        picture.paste(layer, mask=layer.getchannel("A"))
    elif image.mode in ("RGB", "L", "CMYK"):
        picture = image
    else:
        picture = image.convert("RGB")
    if isinstance(profile, bytes) and profile:
        picture = _from_profile(picture, profile)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Return 32-bit or float grey as RGB; its full scale is guessed from the brightest pixel."""
    brightest = image.getextrema()[1]
    top = float(brightest) if isinstance(brightest, int | float) else 255.0
    full = next((scale for scale in _FULL_SCALES[image.mode] if top <= scale), top)
    return image.convert("F").point(lambda value: value * (255 / full)).convert("L").convert("RGB")


def _from_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(
            picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        # A profile that does not fit its picture is ignored, as browsers do.
        return picture
    return picture if converted is None else converted


def _fitted(picture: Image.Image, size: Size, fit: ImageFit) -> Image.Image:
    resample = Image.Resampling.LANCZOS
    if fit == "cover":
        return ImageOps.fit(picture, size, resample, centering=_CENTRE)
    inside = ImageOps.contain(picture, size, resample)
    if fit == "contain":
        ground = Image.new("RGB", size, _BARS)
    else:
        small = ImageOps.fit(picture, (max(size[0] // 8, 1), max(size[1] // 8, 1)), resample)
        soft = small.filter(ImageFilter.GaussianBlur(4))
        ground = soft.resize(size, Image.Resampling.BICUBIC)
    ground.paste(inside, ((size[0] - inside.width) // 2, (size[1] - inside.height) // 2))
    return ground
