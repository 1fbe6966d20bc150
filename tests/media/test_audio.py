"""What the worker makes of the audio files that phones, browsers and broken uploads make."""

import io
from fractions import Fraction
from typing import Any

import av
import pytest

from tests.data.media.sounds import film, sound
from tests.media.loudness import loudness
from worker.jobs.errors import JobFailed
from worker.media.audio import opened_audio, probe_audio
from worker.media.audio_header import claimed_seconds
from worker.media.audio_packets import PacketReader

SECONDS = 20.52
MP3: dict[str, Any] = {"codec": "libmp3lame", "container": "mp3"}
M4A: dict[str, Any] = {"codec": "aac", "container": "ipod"}
OPUS: dict[str, Any] = {"codec": "libopus", "rate": 48_000}


def two_bit_rates() -> bytes:
    """VBR without a Xing header whose quiet start misleads everybody who reads only the header."""
    plain = {"write_xing": "0", "id3v2_version": "0"}
    quiet = sound(5, **MP3, bit_rate=32_000, options=plain)
    return quiet + sound(5, **MP3, bit_rate=320_000, options=plain)


# (name, how it is made, exact seconds after decoding, seconds that the header states)
TABLE = [
    ("wav", lambda: sound(SECONDS), "20.52", 20.52),
    ("wav from a pipe", lambda: sound(SECONDS, live=True), "20.52", None),
    ("flac", lambda: sound(SECONDS, codec="flac", container="flac"), "20.52", 20.52),
    (
        "flac from a pipe",
        lambda: sound(SECONDS, codec="flac", container="flac", live=True),
        "20.52",
        None,
    ),
    ("mp3 cbr", lambda: sound(SECONDS, **MP3), "20.52", 20.52),
    ("mp3 of 20.49 s", lambda: sound(20.49, **MP3), "20.49", 20.49),
    ("mp3 with an ID3v1 tag", lambda: sound(SECONDS, **MP3) + b"TAG" + bytes(125), "20.52", 20.52),
    (
        "mp3 without Xing",
        lambda: sound(SECONDS, **MP3, options={"write_xing": "0"}),
        "906624/44100",
        None,
    ),
    ("mp3 vbr without Xing", two_bit_rates, "444672/44100", None),
    ("m4a", lambda: sound(SECONDS, **M4A), "905216/44100", 20.52),
    ("m4a of 20.51 s", lambda: sound(20.51, **M4A), "905216/44100", 20.51),
    ("aac/adts", lambda: sound(SECONDS, codec="aac", container="adts"), "906240/44100", None),
    ("ogg/opus", lambda: sound(SECONDS, **OPUS, container="ogg"), "20.52", 20.5265),
    ("webm", lambda: sound(SECONDS, **OPUS, container="webm"), "20.52", 20.528),
    (
        "webm as MediaRecorder writes it",
        lambda: sound(SECONDS, **OPUS, container="webm", live=True, options={"live": "1"}),
        "20.52",
        None,
    ),
    (
        "fragmented mp4",
        lambda: sound(
            SECONDS,
            codec="aac",
            container="mp4",
            options={"movflags": "frag_keyframe+empty_moov"},
        ),
        "906240/44100",
        20.5432,
    ),
    ("video with sound", film, "221184/44100", 5.0),
]


def stated_seconds(data: bytes) -> float | None:
    """The length in the header, after decoding as the worker does."""
    file = io.BytesIO(data)
    with opened_audio(file) as (container, stream):
        for _ in PacketReader(container, stream).frames():
            pass
        stated = claimed_seconds(file, container, stream)
    return None if stated is None else round(float(stated), 4)


@pytest.mark.parametrize(
    ("make", "seconds", "header"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_length_is_exactly_what_comfyui_decodes(make, seconds, header):
    data = make()
    facts = probe_audio(io.BytesIO(data))
    assert facts.seconds == Fraction(seconds)
    with av.open(io.BytesIO(data), mode="r") as container:
        frames = list(container.decode(audio=0))
        assert facts.seconds * facts.sample_rate == sum(frame.samples for frame in frames)
    assert (facts.silent, facts.clipped, facts.bad_packets) == (False, False, 0)
    assert stated_seconds(data) == header


def test_a_renamed_file_is_read_by_its_content(tmp_path):
    path = tmp_path / "really-m4a.mp3"
    path.write_bytes(sound(4, **M4A))
    with path.open("rb") as file:
        assert probe_audio(file).codec == "aac"


def code_of(data: bytes, **limits) -> str:
    with pytest.raises(JobFailed) as failed:
        probe_audio(io.BytesIO(data), **limits)
    assert failed.value.message.endswith(".")
    return failed.value.code


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: sound(SECONDS, **MP3),
        lambda: sound(SECONDS, codec="flac", container="flac"),
        lambda: sound(SECONDS),
        lambda: sound(SECONDS, **OPUS, container="webm"),
        lambda: sound(SECONDS, **M4A, options={"movflags": "faststart"}),
    ],
    ids=["mp3", "flac", "wav", "webm", "m4a with its index first"],
)
def test_half_an_upload_is_called_truncated(make):
    assert code_of(half(make())) == "audio_truncated"


def test_a_tenth_missing_is_the_limit_of_a_truncated_file():
    data = sound(10.0)
    assert probe_audio(io.BytesIO(data[: int(len(data) * 0.93)])).seconds > 9
    assert code_of(data[: int(len(data) * 0.89)]) == "audio_truncated"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 5000,
        b"MThd\x00\x00\x00\x06\x00\x01\x00\x01\x01\xe0MTrk" + bytes(200),
        b'{"statusCode":"404","error":"not_found"}',
        b"just some text, and more of it\n" * 200,
        b"\xff\xfb" * 3000,
    ],
    ids=["empty", "zeros", "midi", "json", "text", "only sync words"],
)
def test_what_is_not_audio_cannot_be_read(data):
    assert code_of(data) == "audio_unreadable"


@pytest.mark.parametrize("start", [b"<!DOCTYPE html><html>", b"\xef\xbb\xbf \n<HTML>", b"<head>"])
def test_a_web_page_saved_as_mp3_gets_the_advice_that_helps(start):
    with pytest.raises(JobFailed, match="web page; use a direct download link"):
        probe_audio(io.BytesIO(start + b"<body>Sign in</body>" * 50))


def test_pictures_without_sound_are_refused():
    with pytest.raises(JobFailed, match="no sound") as failed:
        probe_audio(io.BytesIO(film(with_sound=False)))
    assert failed.value.code == "audio_unreadable"


def test_a_protected_file_is_refused():
    """Encrypted samples decode to nothing but errors."""
    data = bytearray(sound(4, **M4A, options={"movflags": "faststart"}))
    start = data.index(b"mdat") + 4
    data[start:] = bytes((byte * 167 + 13 * index) & 255 for index, byte in enumerate(data[start:]))
    assert code_of(bytes(data)) in {"audio_unreadable", "audio_truncated"}


@pytest.fixture
def bait(tmp_path):
    path = tmp_path / "bait.mp3"
    path.write_bytes(sound(4, **MP3))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{path}'\n",
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        "m=audio 5004 RTP/AVP 0\r\n",
        '<?xml version="1.0"?><MPD><BaseURL>file://{path}</BaseURL></MPD>',
        "[playlist]\nFile1={path}\n",
        ";FFMETADATA1\ntitle=x\n",
        "file {path}\n",
    ],
    ids=["m3u8", "concat", "sdp", "dash", "pls", "ffmetadata", "path"],
)
def test_a_file_that_names_other_files_is_refused(text, bait):
    assert code_of(text.format(path=bait).encode()) == "audio_unreadable"


def test_damage_inside_is_left_out_and_counted():
    data = bytearray(sound(10, **M4A, options={"movflags": "faststart"}))
    middle = len(data) // 2
    data[middle : middle + 300] = b"\xff" * 300
    facts = probe_audio(io.BytesIO(bytes(data)))
    assert facts.bad_packets > 0
    assert Fraction(9) < facts.seconds < 10


def test_decoding_stops_at_the_limit_whatever_is_still_to_come():
    """Minutes of digital silence need few bytes; they cost no more than the limit."""
    bomb = sound(120, codec="flac", container="flac", channels=[[(120, 0.0)]])
    assert len(bomb) < 200_000
    assert code_of(bomb, max_seconds=Fraction(60)) == "audio_too_long"


def test_odd_sample_rates_and_channel_counts_are_refused():
    data = bytearray(sound(1))
    data[24:28] = (3).to_bytes(4, "little")
    assert code_of(bytes(data)) == "audio_unreadable"


def test_silence_is_found():
    assert probe_audio(io.BytesIO(sound(channels=[[(5, 0.001)]]))).silent


def test_overdriven_sound_is_clipped_but_loud_sound_is_not():
    assert not probe_audio(io.BytesIO(sound(channels=[[(5, 0.98)]]))).clipped
    assert probe_audio(io.BytesIO(sound(channels=[[(5, 1.0)]], hertz=30))).clipped


@pytest.mark.parametrize(
    ("left", "right", "voice"), [(0.3, 0.0, 0), (0.0, 0.3, 1), (0.3, 0.3, None), (0.3, 0.1, None)]
)
def test_a_recording_in_one_channel_is_recognised(left, right, voice):
    """The model listens to the first channel only."""
    facts = probe_audio(io.BytesIO(sound(channels=[[(4, left)], [(4, right)]])))
    assert facts.voice_channel == voice


def test_speech_in_the_centre_of_surround_sound_is_found():
    planes = [[(3, 0.3 if index == 2 else 0.0)] for index in range(6)]
    assert probe_audio(io.BytesIO(sound(channels=planes, layout="5.1"))).voice_channel == 2


def test_the_end_of_the_sound_is_known_to_a_fiftieth_of_a_second():
    facts = probe_audio(io.BytesIO(sound(channels=[[(4.0, 0.3), (2.0, 0.0)]])))
    assert facts.sound_until is not None
    assert abs(facts.sound_until - 4) <= Fraction(1, 25)
    assert facts.seconds == 6


def test_room_noise_after_the_last_word_is_not_sound():
    facts = probe_audio(io.BytesIO(sound(channels=[[(4.0, 0.5), (2.0, 0.008)]])))
    assert facts.sound_until is not None
    assert facts.sound_until < Fraction(41, 10)


def test_levels_are_decibels_below_full_scale():
    levels = loudness(sound(channels=[[(4, 0.5)], [(4, 0.05)]]))
    assert levels == pytest.approx([-9.0, -29.0], abs=0.3)


def test_only_formats_and_codecs_that_people_record_in_are_opened():
    """What nobody uploads in good faith is only there to be attacked."""
    assert code_of(sound(2, container="nut")) == "audio_unreadable"
    assert code_of(sound(2, rate=16_000, codec="g722", container="wav")) == "audio_unreadable"


def test_pictures_beside_the_sound_are_never_decoded():
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as logs:
            assert probe_audio(io.BytesIO(film())).seconds > 5
    finally:
        av.logging.set_level(None)
    assert any("h264" in text and "not on whitelist" in text for _, _, text in logs)
