"""What is decided about sound from its levels alone."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.plan.media_facts import ChannelLevels, dbfs, is_truncated, judge_levels

RATE = 48_000


def channel(*parts: tuple[int, float], full: int = 0) -> ChannelLevels:
    """Windows of some levels in dBFS."""
    windows = [10 ** (level / 10) for count, level in parts for _ in range(count)]
    return ChannelLevels(windows=windows, full_scale_samples=full)


def judged(*channels: ChannelLevels):
    return judge_levels(channels, samples=10 * RATE)


@pytest.mark.parametrize(
    ("mean_square", "level"), [(1.0, 0.0), (0.25, -6.0), (1e-5, -50.0), (0.0, -120.0)]
)
def test_levels_are_decibels_below_full_scale(mean_square, level):
    assert dbfs(mean_square) == level


def test_sound_ends_with_its_last_window():
    assert judged(channel((100, -20), (50, -90))).sound_until == 2
    assert judged(channel((100, -20), (50, -90), (1, -20))).sound_until == Fraction(151, 50)


def test_noise_thirty_decibels_below_speech_is_not_sound_but_quiet_speech_is():
    assert judged(channel((100, -15), (50, -47))).sound_until == 2
    assert judged(channel((100, -15), (50, -40))).sound_until == 3


def test_a_click_in_silence_is_still_silence():
    assert judged(channel((200, -90), (9, -10), (200, -90))).sound_until == 0
    assert judged(channel((200, -90), (10, -10), (200, -90))).sound_until == Fraction(210, 50)


def test_a_whisper_above_the_threshold_is_not_silence():
    assert judged(channel((200, -48))).sound_until == 4
    assert judged(channel((200, -51))).sound_until == 0


def test_the_only_channel_with_sound_is_named():
    quiet, loud = channel((200, -80)), channel((200, -20))
    assert judged(quiet, loud).voice_channel == 1
    assert judged(loud, quiet).voice_channel == 0
    assert judged(loud, loud).voice_channel is None
    assert judged(loud).voice_channel is None
    assert judged(quiet, quiet).voice_channel is None


def test_crosstalk_twenty_decibels_down_is_no_second_voice():
    assert judged(channel((200, -41)), channel((200, -20))).voice_channel == 1
    assert judged(channel((200, -38)), channel((200, -20))).voice_channel is None


def test_pauses_do_not_make_a_channel_silent():
    """Two speakers who take turns, one in each channel."""
    first = channel((50, -20), (150, -90))
    second = channel((150, -90), (50, -20))
    assert judged(first, second).voice_channel is None


def test_one_sample_in_a_thousand_at_full_scale_is_the_limit_of_clipping():
    assert not judged(channel((10, -3), full=480)).clipped
    assert judged(channel((10, -3), full=481)).clipped
    assert judged(channel((10, -3)), channel((10, -3), full=481)).clipped


def test_nothing_decoded_is_silence():
    assert judged(channel()).sound_until == 0
    assert judged().sound_until == 0


@given(
    st.lists(
        st.lists(st.floats(0, 1, allow_nan=False), min_size=0, max_size=60), min_size=1, max_size=8
    )
)
def test_sound_never_ends_after_the_file(planes):
    levels = judge_levels(
        [ChannelLevels(windows=plane, full_scale_samples=0) for plane in planes],
        samples=RATE,
    )
    assert 0 <= levels.sound_until <= Fraction(max(map(len, planes)), 50)


@pytest.mark.parametrize(
    ("decoded", "claimed", "cut"),
    [("9", "10", False), ("8.999", "10", True), ("1.83", "20.558", True), ("11", "10", False)],
)
def test_nine_tenths_of_the_stated_length_are_enough(decoded, claimed, cut):
    assert is_truncated(Fraction(decoded), Fraction(claimed)) is cut


def test_a_file_that_states_no_length_is_never_truncated():
    assert not is_truncated(Fraction(1), None)
