"""The prepared sound: lossless, as long as the frames, its voice where the model hears it."""

import array
import io
from fractions import Fraction
from typing import Any

import av
import pytest

from tests.data.media.sounds import film, sound
from tests.media.loudness import loudness
from worker.media.audio import probe_audio
from worker.media.audio_render import render_audio

M4A: dict[str, Any] = {"codec": "aac", "container": "ipod"}


def rendered(data: bytes, frames: int) -> bytes:
    source, into = io.BytesIO(data), io.BytesIO()
    facts = probe_audio(source)
    render_audio(source, facts, seconds=Fraction(frames, 25), into=into)
    assert into.tell() == 0
    return into.getvalue()


def samples(data: bytes, channel: int = 0) -> array.array:
    """What ComfyUI would hand to the model, as 16-bit samples of one channel."""
    found = array.array("h")
    resampler = av.AudioResampler(format="s16p")
    with av.open(io.BytesIO(data), mode="r") as container:
        for frame in container.decode(audio=0):
            for piece in resampler.resample(frame):
                found.frombytes(bytes(piece.planes[channel])[: piece.samples * 2])
    return found


@pytest.mark.parametrize("frames", [81, 513, 945, 1089])
@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_the_length_is_exact_at_every_usual_rate(frames, rate):
    facts = probe_audio(io.BytesIO(rendered(sound(4, rate=rate), frames)))
    assert facts.seconds == Fraction(frames, 25)
    assert (facts.sample_rate, facts.codec, facts.bad_packets) == (rate, "flac", 0)
    assert (facts.silent, facts.clipped) == (False, False)


@pytest.mark.parametrize("rate", [96_000, 11_024, 192_000])
def test_other_rates_become_48_khz(rate):
    facts = probe_audio(io.BytesIO(rendered(sound(4, rate=rate), 81)))
    assert (facts.sample_rate, facts.seconds) == (48_000, Fraction(81, 25))


@pytest.mark.parametrize(
    "make",
    [
        lambda: sound(4, codec="libmp3lame", container="mp3"),
        lambda: sound(4, **M4A),
        lambda: sound(4, rate=48_000, codec="libopus", container="webm", live=True),
        lambda: film(4),
    ],
    ids=["mp3", "m4a", "live webm", "video"],
)
def test_every_kind_of_source_is_cut_and_padded_exactly(make):
    data = make()
    for frames in (81, 153):
        facts = probe_audio(io.BytesIO(rendered(data, frames)))
        assert facts.seconds == Fraction(frames, 25)


def test_what_is_kept_is_bit_for_bit_the_source_and_what_is_added_is_silence():
    source = sound(4)
    kept = samples(rendered(source, 81))
    assert kept == samples(source)[: len(kept)]
    padded = samples(rendered(source, 153))
    assert padded[: 4 * 44_100] == samples(source)
    assert not any(padded[4 * 44_100 :])


def test_stereo_stays_stereo():
    data = rendered(sound(channels=[[(4, 0.3)], [(4, 0.1)]]), 81)
    assert loudness(data) == pytest.approx([-13.5, -23.0], abs=0.3)


@pytest.mark.parametrize("channels", [[0.3, 0.0], [0.0, 0.3], [0.0, 0.0, 0.3, 0.0, 0.0, 0.0]])
def test_a_voice_in_one_channel_comes_out_as_the_first_and_as_loud_as_it_was(channels):
    planes = [[(4.0, amplitude)] for amplitude in channels]
    layout = "5.1" if len(channels) == 6 else "stereo"
    data = rendered(sound(channels=planes, layout=layout), 81)
    assert loudness(data) == pytest.approx([-13.5], abs=0.3)


def test_surround_sound_with_a_voice_everywhere_is_mixed_to_stereo():
    planes = [[(4.0, 0.1)]] * 6
    facts = probe_audio(io.BytesIO(rendered(sound(channels=planes, layout="5.1"), 81)))
    assert facts.channels == 2


def test_a_length_between_two_samples_is_a_mistake_of_the_caller():
    source = io.BytesIO(sound(4))
    with pytest.raises(ValueError, match="whole number"):
        render_audio(source, probe_audio(source), seconds=Fraction(1, 44_101), into=io.BytesIO())
