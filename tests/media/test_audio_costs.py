"""Audio that would cost too much is refused by its headers, ordinary audio never."""

import io
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.media.sounds import film, sound
from tests.media.hostile import flac_head, m4a_of_samples
from tests.media.test_audio import TABLE
from tests.media.test_inputs import GOOD, media_at
from worker.jobs.errors import JobFailed
from worker.media.audio_costs import flac_stream, refuse_costly_audio, wav_stream
from worker.media.mp4_tables import claims_too_much
from worker.plan.media_facts import MOST_SECONDS
from worker.policies import input_policy
from worker.settings import PLACEHOLDERS, load_settings

M4A = sound(2, codec="aac", container="ipod")
FRAGMENTED = sound(
    2, codec="aac", container="mp4", options={"movflags": "frag_keyframe+empty_moov"}
)
WAV = sound(1, rate=8000)


def code_of(data: bytes, *, max_seconds: Fraction = MOST_SECONDS) -> str | None:
    try:
        refuse_costly_audio(io.BytesIO(data), max_seconds=max_seconds)
    except JobFailed as error:
        return error.code
    return None


@pytest.mark.parametrize("make", [row[1] for row in TABLE], ids=[row[0] for row in TABLE])
def test_ordinary_files_pass_whole_and_cut(make):
    data = make()
    assert code_of(data) is None
    assert code_of(data[: len(data) // 2]) is None


def test_pcm_in_mov_passes_although_each_sample_has_two_bytes():
    """Its index counts single samples."""
    data = sound(20, container="mov", options={"movflags": "faststart"})
    assert code_of(data) is None
    assert code_of(data[: len(data) * 6 // 10]) is None


def test_a_small_file_that_states_millions_of_samples_is_refused():
    assert code_of(m4a_of_samples(40_000_000)) == "audio_too_complex"
    assert code_of(m4a_of_samples(4_000_000_000)) == "audio_too_complex"
    assert code_of(m4a_of_samples(44)) is None


@pytest.mark.parametrize("table", [b"stsz", b"stts", b"stsc", b"stco", b"sbgp"])
def test_a_table_with_more_entries_than_bytes_is_refused(table):
    data = bytearray(M4A)
    count = data.index(table) + (12 if table in (b"stsz", b"sbgp") else 8)
    data[count : count + 4] = b"\x0f\xff\xff\xff"
    assert claims_too_much(io.BytesIO(bytes(data)))


def test_a_fragment_that_states_more_samples_than_bytes_is_refused():
    data = bytearray(FRAGMENTED)
    count = data.index(b"trun") + 8
    data[count : count + 4] = b"\x0f\xff\xff\xff"
    assert claims_too_much(io.BytesIO(bytes(data)))


def test_boxes_without_end_are_refused():
    def box(name: bytes, body: bytes) -> bytes:
        return (len(body) + 8).to_bytes(4, "big") + name + body

    deep = b""
    for _ in range(40):
        deep = box(b"moov", deep)
    assert claims_too_much(io.BytesIO(deep))
    assert claims_too_much(io.BytesIO(box(b"free", b"") * 30_000))
    assert not claims_too_much(io.BytesIO(box(b"free", b"") * 300))


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        ({"rate": 48_000, "channels": 2, "samples": 48_000 * 60}, None),
        ({"rate": 192_000, "channels": 2, "samples": 192_000 * 600}, None),
        ({"rate": 384_000, "channels": 8, "samples": 384_000 * 590}, "audio_too_complex"),
        ({"rate": 48_000, "channels": 1, "samples": 48_000 * 601}, "audio_too_long"),
        ({"rate": 655_350, "channels": 2, "samples": 0}, "audio_unreadable"),
        ({"rate": 44_100, "channels": 2, "samples": 0}, None),
    ],
)
def test_the_stated_cost_of_a_flac_is_the_limit(stream, code):
    assert code_of(flac_head(**stream)) == code


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: flac_head(rate=48_000, channels=1, samples=48_000 * 61), "audio_too_long"),
        (lambda: flac_head(rate=384_000, channels=8, samples=384_000 * 590), "audio_too_long"),
        (lambda: flac_head(rate=48_000, channels=1, samples=48_000 * 60), None),
        (lambda: sound(61, rate=8_000), "audio_too_long"),
        (lambda: sound(60, rate=8_000), None),
    ],
)
def test_what_a_service_does_not_accept_is_refused_by_its_header(make, code):
    assert code_of(make(), max_seconds=Fraction(60)) == code


async def test_the_services_own_limit_reaches_the_decoder():
    """The end of a longer recording is not decoded for nothing."""
    settings = load_settings({**PLACEHOLDERS, "MAX_AUDIO_SECONDS": "5.5"})
    assert input_policy(settings).max_audio_seconds == Fraction(11, 2)
    files = GOOD | {"/long.mp3": sound(7, codec="libmp3lame", container="mp3")}
    async with media_at(files, max_audio_seconds=Fraction(11, 2)) as (media, base):
        with pytest.raises(JobFailed, match=r"longer than 5\.50 s, the maximum") as failed:
            await media.probe_audio(f"{base}/long.mp3")
        assert failed.value.code == "audio_too_long"
        assert (await media.probe_audio(f"{base}/s.mp3")).seconds == 4


def test_flac_and_wav_headers_are_read_as_they_are_written():
    data = sound(2, codec="flac", container="flac", rate=22_050)
    assert flac_stream(data[:64]) == (22_050, 1, 44_100)
    stereo = sound(channels=[[(3, 0.2)], [(3, 0.2)]], rate=16_000)
    assert wav_stream(io.BytesIO(stereo)) == (16_000, 2, 48_000)
    assert wav_stream(io.BytesIO(stereo[:1000]))[2] < 250


@pytest.mark.parametrize(("place", "value"), [(24, 3), (24, 500_000), (22, 40)])
def test_a_wav_with_an_odd_rate_or_many_channels_is_refused(place, value):
    data = bytearray(WAV)
    size = 4 if place == 24 else 2
    data[place : place + size] = value.to_bytes(size, "little")
    assert code_of(bytes(data)) == "audio_unreadable"


def test_a_film_passes():
    assert code_of(film()) is None


MUTATED = st.sampled_from([M4A, FRAGMENTED, WAV, sound(1, codec="flac", container="flac")])


@given(
    data=MUTATED,
    cut=st.fractions(0, 1),
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=20),
)
def test_cut_and_changed_headers_pass_or_are_refused_and_nothing_else(data, cut, changes):
    """Whatever a header states, it is read within bounds."""
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    code = code_of(bytes(changed[: int(len(changed) * Fraction(cut))]))
    assert code in {None, "audio_too_complex", "audio_too_long", "audio_unreadable"}
