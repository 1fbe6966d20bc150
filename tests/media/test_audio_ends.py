"""Recordings and uploads that broke off, and files that hold more than one recording."""

import io
import struct
from contextlib import suppress
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.media.sounds import film, sound
from worker.jobs.errors import JobFailed
from worker.media.audio import probe_audio
from worker.media.audio_header import caf_is_cut
from worker.media.mp4_end import mp4_end
from worker.media.ogg_pages import ogg_end
from worker.media.webm_end import webm_is_cut

SECONDS = 12.0
M4A: dict[str, Any] = {"codec": "aac", "container": "ipod"}
OPUS: dict[str, Any] = {"codec": "libopus", "rate": 48_000}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"}


def stereo(**options: Any) -> bytes:
    return sound(channels=[[(5, 0.3)], [(5, 0.3)]], **options)


def ogg(seconds: float = 5.0, **options: Any) -> bytes:
    return sound(seconds, container="ogg", **options)


def refusal(data: bytes, **limits: Any) -> JobFailed:
    with pytest.raises(JobFailed) as failed:
        probe_audio(io.BytesIO(data), **limits)
    assert failed.value.message.endswith(".")
    return failed.value


def part(data: bytes, percent: int) -> bytes:
    return data[: len(data) * percent // 100]


# Formats that state a length.
STATED = {
    "wav": lambda: sound(SECONDS),
    "w64": lambda: sound(SECONDS, container="w64"),
    "caf, pcm": lambda: sound(SECONDS, container="caf"),
    "wma": lambda: sound(SECONDS, codec="wmav2", container="asf", bit_rate=64_000),
    "mp3": lambda: sound(SECONDS, codec="libmp3lame", container="mp3"),
    "flac": lambda: sound(SECONDS, codec="flac", container="flac"),
    "m4a with its index first": lambda: sound(SECONDS, **M4A, options={"movflags": "faststart"}),
    "webm": lambda: sound(SECONDS, **OPUS, container="webm"),
    "aiff": lambda: sound(SECONDS, codec="pcm_s16be", container="aiff"),
}
# Formats that do not, or state it for each piece alone.
PIECES = {
    "ogg, opus": lambda: ogg(SECONDS, **OPUS),
    "ogg, flac": lambda: ogg(SECONDS, codec="flac"),
    "fragmented mp4": lambda: sound(SECONDS, codec="aac", container="mp4", options=FRAGMENTS),
    "live webm": lambda: sound(SECONDS, **OPUS, container="webm", live=True, options={"live": "1"}),
}


@pytest.mark.parametrize("name", STATED)
def test_a_file_that_states_its_length_is_refused_if_much_is_missing_and_measured_if_little_is(
    name,
):
    data = STATED[name]()
    whole = probe_audio(io.BytesIO(data))
    assert whole.seconds_missing < Fraction(1, 10)
    assert refusal(part(data, 50)).code == "audio_truncated"
    short = probe_audio(io.BytesIO(part(data, 94)))
    assert Fraction(1, 2) <= short.seconds_missing <= Fraction(11, 10)


@pytest.mark.parametrize("name", PIECES)
def test_a_file_of_pieces_is_refused_if_it_ends_within_one(name):
    """Nobody can say how much is missing."""
    data = PIECES[name]()
    whole = probe_audio(io.BytesIO(data))
    assert (whole.end_marked, whole.seconds_missing < Fraction(1, 10)) == (True, True)
    for percent in (50, 95):
        error = refusal(part(data, percent))
        assert (error.code, "not complete" in error.message) == ("audio_truncated", True)


@pytest.mark.parametrize("container", ["ipod", "mov", "mp4", "3gp"])
def test_a_recording_without_its_index_is_said_to_be_unfinished(container):
    """Phones write the index last: without it nothing can be read."""
    error = refusal(part(sound(SECONDS, codec="aac", container=container), 95))
    assert error.code == "audio_truncated"
    assert "moov" in error.message
    assert "not finished, or the upload was not complete" in error.message


def test_a_slice_of_a_stream_without_its_index_is_said_to_be_incomplete():
    data = PIECES["fragmented mp4"]()
    assert "moov" in refusal(data[data.index(b"moof") - 4 :]).message


def test_compressed_sound_in_caf_whose_table_is_missing_is_said_to_be_incomplete():
    """The table of its packets stands at the end."""
    data = sound(SECONDS, codec="alac", container="caf")
    assert probe_audio(io.BytesIO(data)).codec == "alac"
    assert refusal(part(data, 90)).code == "audio_truncated"


def test_a_recorder_that_closed_no_file_leaves_no_end_mark():
    """All pages are whole: the recording is used, with a warning."""
    data = ogg(SECONDS, **OPUS)
    facts = probe_audio(io.BytesIO(data[: data.rindex(b"OggS")]))
    assert not facts.end_marked
    assert facts.seconds > SECONDS - 2


# --- several recordings in one file -------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: ogg(codec="flac", rate=44_100), lambda: ogg(codec="flac", rate=22_050)),
        (lambda: ogg(codec="flac", rate=22_050), lambda: ogg(codec="flac", rate=44_100)),
        (lambda: ogg(**OPUS), lambda: stereo(**OPUS, container="ogg")),
        (lambda: ogg(**OPUS), lambda: ogg(codec="flac")),
        (lambda: ogg(codec="flac"), lambda: ogg(codec="flac", sample_format="s32")),
        (
            lambda: stereo(codec="vorbis", container="ogg"),
            lambda: stereo(codec="vorbis", container="ogg", rate=22_050),
        ),
    ],
    ids=["slower", "faster", "stereo", "another codec", "more bits", "vorbis"],
)
def test_ogg_recordings_that_do_not_fit_together_are_refused(first, second):
    """FFmpeg would decode the first, and call the rest one damaged packet."""
    error = refusal(first() + second())
    assert (error.code, "export it again" in error.message) == ("audio_unreadable", True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ogg(codec="flac"),
        lambda: ogg(**OPUS),
        lambda: stereo(codec="vorbis", container="ogg"),
    ],
    ids=["flac", "opus", "vorbis"],
)
def test_ogg_recordings_of_one_kind_are_read_to_the_last(make):
    data = make()
    single = probe_audio(io.BytesIO(data)).seconds
    facts = probe_audio(io.BytesIO(data * 3))
    assert abs(facts.seconds - 3 * single) < Fraction(1, 20)
    assert facts.bad_packets == 0


def test_a_stream_that_begins_late_is_passed_over():
    """PyAV raises IndexError at its first packet."""
    long = sound(60, codec="libmp3lame", container="flv", bit_rate=320_000)
    data = long + film(2, container="flv")[13:]
    facts = probe_audio(io.BytesIO(data))
    assert (facts.bad_packets, facts.codec) == (0, "mp3")
    assert facts.seconds >= 60


def test_a_recording_that_changes_the_places_of_its_speakers_is_measured_to_the_end():
    """FFmpeg's resamplers refuse frames of another layout than the first."""
    planes = [[(2.0, 0.3)]] * 3
    dolby: dict[str, Any] = {"codec": "ac3", "container": "ac3", "rate": 48_000}
    data = b"".join(sound(channels=planes, layout=name, **dolby) for name in ("3.0", "2.1"))
    facts = probe_audio(io.BytesIO(data))
    assert facts.seconds > 4
    assert facts.sound_until is not None
    assert facts.sound_until > Fraction(39, 10)


# --- values that are no sound -------------------------------------------------------------------


def floats(value: float, codec: str = "pcm_f32le", *, share: float = 1.0) -> bytes:
    """A WAV of a tone whose last part is one value."""
    data = bytearray(sound(4, codec=codec))
    start = data.index(b"data") + 8
    one = struct.pack("<f" if codec == "pcm_f32le" else "<d", value)
    count = int((len(data) - start) // len(one) * share)
    data[len(data) - count * len(one) :] = one * count
    return bytes(data)


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
@pytest.mark.parametrize("share", [1.0, 0.01])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_values_that_are_no_sound_are_refused(value, share, codec):
    """One of them spoils everything that is computed from the whole recording."""
    error = refusal(floats(value, codec, share=share))
    assert (error.code, "no sound" in error.message) == ("audio_unreadable", True)


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1e-40, 32_767.0, 2.0**31])
def test_every_value_that_programs_write_into_float_files_passes(value, codec):
    """Whole numbers of 16 and 32 bits, too."""
    assert probe_audio(io.BytesIO(floats(value, codec))).seconds == 4


# --- lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: sound(60, **M4A, rate=48_000),
        lambda: sound(60, codec="aac", container="adts", rate=8_000),
        lambda: sound(
            60, codec="libmp3lame", container="mp3", rate=8_000, options={"write_xing": "0"}
        ),
    ],
    ids=["m4a of phones", "raw aac of 8 kHz", "mp3 of 8 kHz without Xing"],
)
def test_a_recording_of_exactly_60_seconds_decodes_to_at_most_what_encoders_may_add(make):
    facts = probe_audio(io.BytesIO(make()), max_seconds=Fraction(60))
    assert 60 < facts.seconds <= 60 + facts.padding


def test_lossless_recordings_get_no_allowance():
    assert probe_audio(io.BytesIO(sound(4))).padding == 0
    assert probe_audio(io.BytesIO(sound(4, codec="flac", container="flac"))).padding == 0


# --- whatever the bytes are ---------------------------------------------------------------------

SEEDS = [
    ogg(1.0, **OPUS),
    ogg(1.0, **OPUS) + ogg(1.0, codec="flac"),
    sound(1, codec="aac", container="mp4", options=FRAGMENTS),
    sound(1, **OPUS, container="webm", live=True, options={"live": "1"}),
    sound(1, container="caf"),
    sound(1, container="w64"),
    sound(1, codec="wmav2", container="asf", bit_rate=64_000),
]


@given(
    seed=st.sampled_from(SEEDS),
    cut=st.fractions(0, 1),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=20),
)
def test_no_bytes_make_the_looks_at_an_end_fail(seed, cut, changes):
    """They answer, or refuse the file; they stay within its bounds."""
    data = bytearray(seed)
    for place, value in changes:
        data[place % len(data)] = value
    file = io.BytesIO(bytes(data[: int(len(data) * Fraction(cut))]))
    for look in (ogg_end, mp4_end, webm_is_cut, caf_is_cut, probe_audio):
        with suppress(JobFailed):
            look(file)
