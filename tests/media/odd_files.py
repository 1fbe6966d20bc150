"""Small odd media files: what programs, phones and accidents make of good ones."""

import io
import random
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import pillow_heif
from PIL import Image

from tests.data.media.sounds import film, sound

Maker = Callable[[], bytes]


# --- sound --------------------------------------------------------------------------------------


def _riff(*chunks: tuple[bytes, bytes], kind: bytes = b"WAVE") -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + kind + body


def _fmt(tag: int, channels: int, rate: int, bits: int, extra: bytes = b"") -> tuple[bytes, bytes]:
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)
    return b"fmt ", head + extra


def _wav(tag: int, channels: int, bits: int, *, extra: bytes = b"", rate: int = 8_000) -> bytes:
    noise = random.Random(channels * bits).randbytes(rate * channels * max(bits // 8, 1))
    return _riff(_fmt(tag, channels, rate, bits, extra), (b"data", noise))


def _extensible(channels: int, mask: int, bits: int = 16) -> bytes:
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    extra = struct.pack("<HHI", 22, bits, mask) + guid
    return _wav(0xFFFE, channels, bits, extra=extra)


def _box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + name + body


_M4A = sound(1, codec="aac", container="ipod")
_OGG = sound(1, codec="libopus", container="ogg", rate=48_000)
_MP3 = sound(1, codec="libmp3lame", container="mp3")
_FLAC = sound(1, codec="flac", container="flac")
_WEBM = sound(1, codec="libopus", container="webm", rate=48_000, live=True)
_FLV = sound(1, codec="libmp3lame", container="flv")
_TS = sound(1, codec="aac", container="mpegts")


def _renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    return data.replace(old, new)


SOUNDS: dict[str, Maker] = {
    **{f"WAV of {n} channels": partial(_wav, 1, n, 16) for n in (3, 5, 7, 9, 11, 16, 17)},
    **{
        f"extensible WAV, {n} channels, mask {mask:#x}": partial(_extensible, n, mask)
        for n, mask in [(1, 0), (2, 0), (2, 0x3F), (4, 0xC03), (6, 0x3), (8, 0xFFFFFFFF), (3, 8)]
    },
    **{f"WAV of {bits} bits": partial(_wav, 1, 1, bits) for bits in (0, 4, 12, 20, 40, 128)},
    **{f"float WAV of {bits} bits": partial(_wav, 3, 1, bits) for bits in (16, 24, 64, 80)},
    **{
        f"WAV of codec {tag:#x}": partial(_wav, tag, 1, 8)
        for tag in (2, 6, 7, 0x11, 0x31, 0x45, 0x50, 0x55, 0x61, 0xFF, 0x161, 0x674F, 0xFFFF)
    },
    "WAV of noise in floats": lambda: _wav(3, 2, 32),
    "WAV without fmt": lambda: _riff((b"data", bytes(4000))),
    "WAV without data": lambda: _riff(_fmt(1, 1, 8_000, 16)),
    "WAV with empty data": lambda: _riff(_fmt(1, 1, 8_000, 16), (b"data", b"")),
    "WAV with one byte of data": lambda: _riff(_fmt(1, 2, 8_000, 16), (b"data", b"x")),
    "WAV with two fmt": lambda: _riff(
        _fmt(1, 1, 8_000, 16), _fmt(1, 2, 44_100, 24), (b"data", bytes(96_000))
    ),
    "WAV with two data": lambda: _riff(
        _fmt(1, 1, 8_000, 16), (b"data", bytes(16_000)), (b"data", bytes(16_000))
    ),
    "WAV with a short fmt": lambda: _riff((b"fmt ", b"\1\0\1\0"), (b"data", bytes(4000))),
    "WAV of block 0": lambda: _riff(
        (b"fmt ", struct.pack("<HHIIHH", 1, 1, 8_000, 16_000, 0, 16)), (b"data", bytes(16_000))
    ),
    "WAV with an MP3 in it": lambda: _riff(_fmt(0x55, 1, 44_100, 0), (b"data", _MP3)),
    "RIFF of another kind": lambda: _riff((b"data", bytes(4000)), kind=b"AVI "),
    "two MP3 after each other": lambda: _MP3 + sound(1, codec="libmp3lame", container="mp3"),
    "MP3 of two rates": lambda: (
        _MP3 + sound(1, codec="libmp3lame", container="mp3", rate=22_050)
    ),
    "MP3, then stereo": lambda: (
        _MP3
        + sound(channels=[[(1, 0.3)], [(1, 0.3)]], codec="libmp3lame", container="mp3")
    ),
    "MP3 behind a huge tag": lambda: b"ID3\x04\0\0\x00\x01\x00\x00" + bytes(16_384) + _MP3,
    "MP3 whose tag has no end": lambda: b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + _MP3,
    "MP3 behind zeros": lambda: bytes(30_000) + _MP3,
    "MP3, then text": lambda: _MP3 + b"and so on\n" * 3000,
    "AAC of two rates": lambda: (
        sound(1, codec="aac", container="adts")
        + sound(1, codec="aac", container="adts", rate=16_000)
    ),
    "M4A, then M4A": lambda: _M4A + _M4A,
    "M4A without mdat": lambda: _renamed(_M4A, b"mdat", b"free"),
    "M4A without stsd": lambda: _renamed(_M4A, b"stsd", b"free"),
    "M4A without stsz": lambda: _renamed(_M4A, b"stsz", b"free"),
    "M4A without stco": lambda: _renamed(_M4A, b"stco", b"free"),
    "M4A without esds": lambda: _renamed(_M4A, b"esds", b"free"),
    "M4A of an unknown codec": lambda: _renamed(_M4A, b"mp4a", b"zzzz"),
    "encrypted M4A": lambda: _renamed(_M4A, b"mp4a", b"enca"),
    "M4A of alac": lambda: _renamed(_M4A, b"mp4a", b"alac"),
    "M4A with a picture track": lambda: _renamed(_M4A, b"soun", b"vide"),
    "boxes without content": lambda: _box(b"ftyp", b"M4A \0\0\0\0") + _box(b"moov", b""),
    "a box larger than any file": lambda: (
        _box(b"ftyp", b"M4A \0\0\0\0") + b"\0\0\0\1free" + b"\xff" * 8 + _M4A
    ),
    "CAF with a chunk larger than any file": lambda: _renamed(
        sound(1, container="caf"), b"desc\0\0\0\0", b"desc\x3f\xff\xff\xff"
    ),
    "W64 with a chunk larger than any file": lambda: (
        lambda data: data[:56] + b"\xff\xff\xff\xff\xff\xff\xff\x3f" + data[64:]
    )(sound(1, container="w64")),
    "a box of size 1": lambda: _box(b"ftyp", b"M4A \0\0\0\0") + b"\0\0\0\1moov" + bytes(8),
    "film with its sound": lambda: film(1),
    "film whose sound has no header": lambda: _renamed(film(1), b"mp4a", b"zzzz"),
    "Ogg without its first page": lambda: _OGG[_OGG.index(b"OggS", 4) :],
    "Ogg without its second page": lambda: (
        _OGG[: _OGG.index(b"OggS", 4)] + _OGG[_OGG.index(b"OggS", 80) :]
    ),
    "Ogg of first pages": lambda: _OGG[: _OGG.index(b"OggS", 4)] * 50,
    "Ogg backwards": lambda: b"".join(b"OggS" + page for page in _OGG.split(b"OggS")[:0:-1]),
    "Ogg of Opus with 255 channels": lambda: _renamed(_OGG, b"Head\x01\x01", b"Head\x01\xff"),
    "Ogg of Opus, version 99": lambda: _renamed(_OGG, b"OpusHead\x01", b"OpusHead\x63"),
    "FLAC without STREAMINFO": lambda: b"fLaC" + _FLAC[42:],
    "FLAC without samples": lambda: _FLAC[:42],
    "FLAC that states no samples": lambda: _FLAC[:21] + b"\xf0\0\0\0\0" + _FLAC[26:],
    "FLAC, then FLAC": lambda: _FLAC + _FLAC,
    "WebM without tracks": lambda: _renamed(_WEBM, b"\x16\x54\xae\x6b", b"\x16\x54\xae\x6c"),
    "WebM of an unknown codec": lambda: _renamed(_WEBM, b"A_OPUS", b"A_NOPE"),
    "WebM, then WebM": lambda: _WEBM + _WEBM,
    "FLV, then a film": lambda: _FLV + film(1, container="flv")[13:],
    "FLV without its head": lambda: _FLV[13:],
    "a late stream": lambda: (
        sound(20, codec="libmp3lame", container="flv", bit_rate=320_000)
        + film(1, container="flv")[13:]
    ),
    "TS, then a film": lambda: _TS + film(1, container="mpegts"),
    "TS out of step": lambda: _TS[100:],
    "only sync words": lambda: b"\xff\xf1\x50\x80" * 2000,
}  # fmt: skip
"""Odd recordings by name."""


# --- images -------------------------------------------------------------------------------------


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    pillow_heif.register_heif_opener()
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    grey = Image.effect_noise((width, height), 80)
    return grey if mode == "L" else grey.convert(mode)


def _noisy(
    kind: str, mode: str = "RGB", *, size: tuple[int, int] = (64, 48), **options: Any
) -> bytes:
    return _saved(_noise(*size, mode), kind, **options)


def _exif(**tags: object) -> bytes:
    exif = Image.Exif()
    for name, value in tags.items():
        exif[int(name[1:], 16)] = value
    return exif.tobytes()


def _tiff(**entries: int) -> bytes:
    """An uncompressed grey TIFF of 8x8 whose entries are changed; the names are tags in hex."""
    tags = {
        0x100: 8,
        0x101: 8,
        0x102: 8,
        0x103: 1,
        0x106: 1,
        0x111: 0,
        0x115: 1,
        0x116: 8,
        0x117: 64,
    }
    tags |= {int(name[1:], 16): value for name, value in entries.items()}
    tags[0x111] = tags[0x111] or 8 + 2 + 12 * len(tags) + 4
    table = b"".join(
        struct.pack("<HHII", tag, 4, 1, value & 0xFFFFFFFF) for tag, value in sorted(tags.items())
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + table + bytes(4) + bytes(range(64))


_PNG = _saved(_noise(64, 48), "PNG")
_JPEG = _saved(_noise(64, 48), "JPEG")
_EIGHT_BITS = ("1", "L", "LA", "P", "RGB", "RGBA")
_PALETTE = _noise(64, 48).quantize(16)

IMAGES: dict[str, Maker] = {
    **{f"PNG of mode {mode}": partial(_noisy, "PNG", mode)
       for mode in (*_EIGHT_BITS, "I;16")},
    **{f"TIFF of mode {mode}": partial(_noisy, "TIFF", mode)
       for mode in (*_EIGHT_BITS, "PA", "RGBX", "CMYK", "YCbCr", "I", "F", "I;16")},
    **{f"TIFF packed by {name}": partial(_noisy, "TIFF", compression=name)
       for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")},
    **{f"JPEG turned by {value!r}": partial(_noisy, "JPEG", exif=_exif(x0112=value))
       for value in (0, 6, 9, 255, 65_535)},
    **{f"picture of {width}x{height}": partial(_noisy, "PNG", size=(width, height))
       for width, height in [(1, 1), (1, 3000), (3000, 1), (2, 2)]},
    "grey PNG with a transparent shade": lambda: _saved(_noise(9, 9, "L"), "PNG", transparency=7),
    "PNG with a transparent colour": lambda: _saved(_noise(9, 9), "PNG", transparency=(1, 1, 1)),
    "1-bit PNG with a transparent shade": lambda: _saved(_noise(9, 9, "1"), "PNG", transparency=1),
    "palette PNG, transparent beyond its colours": lambda: _saved(
        _PALETTE, "PNG", transparency=bytes(16)),
    "PNG without its end": lambda: _PNG[:-12],
    "PNG with bytes behind it": lambda: _PNG + b"\0" * 999,
    "PNG of size 0": lambda: _PNG[:16] + bytes(8) + _PNG[24:],
    "JPEG of size 0": lambda: _JPEG.replace(b"\0\x30\0\x40", bytes(4), 1),
    "JPEG without tables": lambda: _JPEG.replace(b"\xff\xdb", b"\xff\xfe"),
    "JPEG with two heads": lambda: _JPEG[:2] + _JPEG,
    "JPEG with a profile of zeros": lambda: _saved(_noise(9, 9), "JPEG", icc_profile=bytes(200)),
    "CMYK JPEG with an sRGB profile": lambda: _saved(
        _noise(9, 9, "CMYK"), "JPEG", icc_profile=b"no profile"),
    "animated WebP": lambda: _saved(
        _noise(9, 9), "WEBP", save_all=True, append_images=[_noise(9, 9)]),
    "animated PNG": lambda: _saved(
        _noise(9, 9), "PNG", save_all=True, append_images=[_noise(9, 9)]),
    "TIFF of pages": lambda: _saved(
        _noise(9, 9), "TIFF", save_all=True, append_images=[_noise(5, 5, "L")]),
    "GIF of one colour": lambda: _saved(Image.new("P", (9, 9)), "GIF"),
    "GIF, transparent": lambda: _saved(Image.new("P", (9, 9)), "GIF", transparency=0),
    "BMP of 1 bit": lambda: _saved(_noise(9, 9, "1"), "BMP"),
    "BMP upside down": lambda: (
        lambda data: data[:22] + struct.pack("<i", -9) + data[26:])(_saved(_noise(9, 9), "BMP")),
    "grey HEIC": lambda: _saved(_noise(64, 64, "L"), "HEIF"),
    "AVIF with alpha": lambda: _saved(_noise(64, 64, "RGBA"), "AVIF"),
    "TIFF": _tiff,
    "TIFF of width 0": lambda: _tiff(x100=0),
    "TIFF of 3 bits": lambda: _tiff(x102=3),
    "TIFF of an unknown packing": lambda: _tiff(x103=99),
    "TIFF of an unknown colour": lambda: _tiff(x106=77),
    "TIFF whose strip is elsewhere": lambda: _tiff(x111=99_999),
    "TIFF of 9 samples": lambda: _tiff(x115=9),
    "TIFF turned by 6": lambda: _tiff(x112=6),
    "TIFF turned by 99": lambda: _tiff(x112=99),
    "TIFF of rows without end": lambda: _tiff(x116=0xFFFFFFFF),
    "TIFF whose colours are inverted": lambda: _tiff(x106=0),
}  # fmt: skip
"""Odd pictures by name."""


def altered(data: bytes, seed: int) -> bytes:
    """Return the file with changed bytes, without a piece, with a piece twice, or cut."""
    chance = random.Random(seed)
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 8)):
        if not changed:
            break
        # Most of what a decoder believes stands at the start.
        reach = min(len(changed), 400) if chance.random() < 0.7 else len(changed)
        start = chance.randrange(reach)
        end = min(start + chance.choice([1, 1, 2, 4, 64]), len(changed))
        kind = chance.randrange(5)
        if kind == 0:
            del changed[start:end]
        elif kind == 1:
            changed[start:start] = changed[start:end]
        elif kind == 2:
            changed[start:end] = chance.choice([b"\0", b"\xff", b"\x7f"]) * (end - start)
        else:
            changed[start:end] = chance.randbytes(end - start)
    return bytes(changed[: chance.randrange(len(changed) + 1)] if seed % 5 == 0 else changed)
