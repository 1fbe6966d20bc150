"""Pictures that would cost too much are refused by their headers, ordinary ones never."""

import io
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.media.hostile import jpeg_of_scans, webp_head, webp_of_pixels
from worker.jobs.errors import JobFailed
from worker.media.image_costs import MOST_SCANS, jpeg_scans, refuse_costly_image, webp_size

PROGRESSIVE = jpeg_of_scans(10)
WEBP = webp_of_pixels(40)


def refusal(data: bytes, max_pixels: int = 50_000_000) -> JobFailed:
    with pytest.raises(JobFailed) as failed:
        refuse_costly_image(io.BytesIO(data), max_pixels=max_pixels)
    return failed.value


@pytest.mark.parametrize("scans", [10, 37, MOST_SCANS])
def test_scans_of_a_progressive_jpeg_are_counted(scans):
    assert jpeg_scans(io.BytesIO(jpeg_of_scans(scans))) == (scans, 64 * 64)
    refuse_costly_image(io.BytesIO(jpeg_of_scans(scans)), max_pixels=50_000_000)


def test_a_baseline_jpeg_has_one_scan_whatever_its_data_look_like():
    out = io.BytesIO()
    Image.effect_noise((400, 400), 90).save(out, "JPEG", quality=98, restart_marker_blocks=3)
    assert jpeg_scans(out)[0] == 1


def test_a_thumbnail_inside_the_file_is_not_counted():
    exif = Image.Exif()
    exif[0x010E] = jpeg_of_scans(80).decode("latin-1")
    out = io.BytesIO()
    Image.new("L", (64, 64)).save(out, "JPEG", exif=exif)
    assert jpeg_scans(out)[0] == 1


def test_thousands_of_scans_are_refused_without_decoding_any():
    error = refusal(jpeg_of_scans(5000))
    assert (error.code, str(MOST_SCANS) in error.message) == ("image_too_complex", True)


def test_a_very_large_picture_may_have_fewer_scans():
    """The size in the header is changed: no pixel is decoded here."""
    data = bytearray(jpeg_of_scans(21))
    frame = data.index(b"\xff\xc2") + 5
    data[frame : frame + 4] = (7000).to_bytes(2, "big") * 2
    assert "more than 20 scans" in refusal(bytes(data)).message
    data[frame : frame + 4] = (6000).to_bytes(2, "big") * 2
    refuse_costly_image(io.BytesIO(bytes(data)), max_pixels=50_000_000)


def test_endless_segments_are_refused():
    assert refusal(b"\xff\xd8" + b"\xff\xe1\x00\x02" * 20_000).code == "image_too_complex"


@pytest.mark.parametrize("kind", [b"VP8X", b"VP8L", b"VP8 "])
def test_the_size_of_a_webp_is_known_before_its_library_takes_memory(kind):
    assert webp_size(webp_head(7001, 6999, kind)) == (7001, 6999)
    assert refusal(webp_head(7001, 6999, kind)).code == "image_too_large"
    refuse_costly_image(io.BytesIO(webp_head(5000, 7000, kind)), max_pixels=50_000_000)
    assert refusal(webp_head(500, 700, kind), max_pixels=100_000).code == "image_too_large"


def test_webp_sizes_are_those_that_pillow_reads():
    for options in ({"lossless": True}, {"lossless": False}, {"lossless": True, "exif": b"Exif"}):
        out = io.BytesIO()
        Image.new("RGB", (123, 45)).save(out, "WEBP", **options)
        assert webp_size(out.getvalue()[:32]) == (123, 45)


@given(cut=st.integers(0, len(PROGRESSIVE)), changes=st.dictionaries(
    st.integers(0, len(PROGRESSIVE) - 1), st.integers(0, 255), max_size=20))  # fmt: skip
def test_cut_and_changed_jpegs_are_counted_within_bounds(cut, changes):
    """No input makes the count endless, or larger than needed."""
    data = bytearray(PROGRESSIVE)
    for place, value in changes.items():
        data[place] = value
    assert 0 <= jpeg_scans(io.BytesIO(bytes(data[:cut])))[0] <= MOST_SCANS + 1


@given(st.one_of(st.binary(max_size=64), st.integers(0, len(WEBP)).map(lambda cut: WEBP[:cut])))
def test_any_bytes_pass_with_the_file_rewound_or_are_refused(data):
    file = io.BytesIO(data)
    with suppress(JobFailed):
        refuse_costly_image(file, max_pixels=50_000_000)
        assert file.tell() == 0
