"""Media files that are made to cost as much as possible."""

import io

from PIL import Image

from tests.data.media.sounds import sound


def jpeg_of_scans(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan is repeated until the file has this many."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 30)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    missing = scans - data.count(b"\xff\xda")
    return data[:-2] + scan * missing + b"\xff\xd9"


def m4a_of_samples(samples: int, *, seconds: float = 1.0) -> bytes:
    """A small M4A whose index states this many samples of one byte."""
    data = bytearray(sound(seconds, codec="aac", container="ipod"))
    sizes, times = data.index(b"stsz") + 8, data.index(b"stts") + 8
    data[sizes : sizes + 8] = (1).to_bytes(4, "big") + samples.to_bytes(4, "big")
    data[times + 4 : times + 8] = samples.to_bytes(4, "big")
    return bytes(data)


def webp_of_pixels(side: int) -> bytes:
    """A square WebP of one colour: very few bytes for its pixels."""
    out = io.BytesIO()
    Image.new("RGBA", (side, side), (200, 90, 40, 250)).save(
        out, "WEBP", lossless=True, method=0, quality=0
    )
    return out.getvalue()


def webp_head(width: int, height: int, kind: bytes) -> bytes:
    """The first 32 bytes of a WebP of this size; kind VP8X, VP8L or `VP8 `."""
    if kind == b"VP8X":
        body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    else:
        body = b"\x00\x00\x00\x9d\x01\x2a" + width.to_bytes(2, "little")
        body += height.to_bytes(2, "little")
    return (b"RIFF" + bytes(4) + b"WEBP" + kind + bytes(4) + body).ljust(32, b"\0")


def flac_head(*, rate: int, channels: int, samples: int) -> bytes:
    """The start of a FLAC file with these numbers in its STREAMINFO."""
    packed = rate << 44 | (channels - 1) << 41 | 15 << 36 | samples
    return (b"fLaC\x00\x00\x00\x22" + bytes(10) + packed.to_bytes(8, "big")).ljust(64, b"\0")
