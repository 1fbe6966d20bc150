"""Frame counts are exact, aligned, and never longer than the audio."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plan.policies import GUIDE
from worker.jobs.errors import JobFailed
from worker.plan.frames import FramePlan, in_seconds, plan_frames, sampled_windows

GUIDE_COUNTS = [
    (81, "3.24"), (153, "6.12"), (225, "9.00"), (297, "11.88"), (369, "14.76"),
    (441, "17.64"), (513, "20.52"), (585, "23.40"), (657, "26.28"), (729, "29.16"),
    (801, "32.04"), (873, "34.92"), (945, "37.80"), (1017, "40.68"), (1089, "43.56"),
]  # fmt: skip
ONE_SAMPLE = Fraction(1, 48_000)
LENGTHS = st.fractions(Fraction(81, 25), 60, max_denominator=192_000)


def planned(audio: Fraction | str, *, advance: int = 72, **changes: Any) -> FramePlan:
    """The frames of an audio under the guide's policy, with some of its choices changed."""
    return plan_frames(Fraction(audio), policy=replace(GUIDE, **changes), advance=advance)


def test_the_guides_fifteen_counts_are_all_that_are_planned() -> None:
    """81 + (n - 1) x 72 up to 1089, from every tenth of a second."""
    counts = {planned(Fraction(tenths, 10)).frames for tenths in range(33, 601)}
    assert sorted(counts) == [frames for frames, _ in GUIDE_COUNTS]


@pytest.mark.parametrize(("frames", "seconds"), GUIDE_COUNTS)
def test_audio_of_exactly_a_count_gets_that_count(frames: int, seconds: str) -> None:
    """37.80 s is among them: in floats 37.8 x 25 is below 945."""
    plan = planned(seconds)
    assert plan.frames == frames
    assert plan.windows == (frames - 9) // 72
    assert plan.video_duration == Fraction(seconds)
    assert plan.seconds_cut == plan.seconds_padded == 0


@pytest.mark.parametrize(("frames", "seconds"), GUIDE_COUNTS[1:])
def test_one_sample_less_gets_the_count_before(frames: int, seconds: str) -> None:
    """Never longer than the audio, not even by a sample."""
    assert planned(Fraction(seconds) - ONE_SAMPLE).frames == frames - 72
    assert planned(Fraction(seconds) + ONE_SAMPLE).frames == frames


@pytest.mark.parametrize(
    ("seconds", "frames"),
    [("3.24", 81), ("5", 81), ("7", 153), ("9", 225), ("17", 369), ("21", 513), ("30", 729),
     ("44", 1089)],
)  # fmt: skip
def test_the_guides_eight_cases(seconds: str, frames: int) -> None:
    """L638 to L645 of the guide."""
    assert planned(seconds).frames == frames


def test_audio_too_short_for_one_window_is_refused() -> None:
    """One sample below 3.24 s."""
    with pytest.raises(JobFailed, match=r"3\.239979 s.*at least 3\.24") as refusal:
        planned(Fraction("3.24") - ONE_SAMPLE)
    assert refusal.value.code == "audio_too_short"


def test_audio_beyond_the_limit_is_refused() -> None:
    """60 s pass, one sample more does not."""
    assert planned("60").frames == 1089
    with pytest.raises(JobFailed, match=r"60\.00002.*maximum of 60\.00 s") as refusal:
        planned(Fraction(60) + ONE_SAMPLE)
    assert refusal.value.code == "audio_too_long"


def test_audio_beyond_the_longest_video_is_cut_and_the_cut_is_reported() -> None:
    """44 to 60 s become 43.56 s."""
    plan = planned("50")
    assert (plan.frames, plan.seconds_cut) == (1089, Fraction("6.44"))


def test_overlong_audio_can_be_refused_instead() -> None:
    """OVERLONG_AUDIO=reject."""
    assert planned("43.56", overlong_audio="reject").frames == 1089
    with pytest.raises(JobFailed, match=r"43\.56 s \(1089 frames\)") as refusal:
        planned("43.57", overlong_audio="reject")
    assert refusal.value.code == "audio_too_long"


@pytest.mark.parametrize(("limit", "frames"), [(1160, 1089), (1161, 1161), (5000, 1449)])
def test_the_cap_can_be_raised_along_the_formula(limit: int, frames: int) -> None:
    """A MAX_FRAMES that is not aligned means the aligned count below it."""
    assert planned("60", max_frames=limit).frames == frames


@pytest.mark.parametrize(
    ("frames", "windows"),
    [(81, 1), (153, 3), (225, 4), (297, 5), (369, 7), (441, 8), (513, 9), (585, 10), (657, 12),
     (729, 13), (801, 14), (873, 16), (945, 17), (1017, 18), (1089, 19)],
)  # fmt: skip
def test_the_gpu_renders_more_windows_than_the_guide_counts(frames: int, windows: int) -> None:
    """With the pinned overlap of 25 frames a window advances by 56, not by 72."""
    assert sampled_windows(frames, 56) == windows
    assert sampled_windows(frames, 72) == (frames - 9) // 72


def test_counts_can_follow_the_templates_advance() -> None:
    """FRAME_ALIGNMENT=template: 21 s become 473 frames, and no window is padded."""
    plan = planned("21", frame_alignment="template", advance=56)
    assert (plan.frames, plan.sampled_windows, plan.windows) == (473, 8, 6)


def test_padding_takes_the_next_count_and_reports_the_silence() -> None:
    """No word is lost, unless the longest video is too short for them."""
    plan = planned("21", audio_fit="pad", prepared=True)
    assert (plan.frames, plan.seconds_padded, plan.seconds_cut) == (585, Fraction("2.4"), 0)
    assert planned("20.52", audio_fit="pad", prepared=True).frames == 513
    assert planned("50", audio_fit="pad", prepared=True).seconds_cut == Fraction("6.44")


@given(audio=LENGTHS, advance=st.sampled_from([72, 56]), most=st.integers(81, 3000))
def test_a_count_is_aligned_fits_and_no_larger_one_does(
    audio: Fraction, advance: int, most: int
) -> None:
    """For every length and every cap."""
    plan = planned(audio, max_frames=most, frame_alignment="template", advance=advance)
    assert (plan.frames - 81) % advance == 0
    assert 81 <= plan.frames <= most
    assert plan.video_duration <= audio
    assert plan.video_duration + plan.seconds_cut == audio
    larger = plan.frames + advance
    assert larger > most or Fraction(larger, 25) > audio


@given(audio=LENGTHS)
def test_padding_is_less_than_a_window_and_cuts_nothing(audio: Fraction) -> None:
    """Where the cap allows it."""
    plan = planned(audio, audio_fit="pad", prepared=True, max_frames=3000)
    assert plan.seconds_cut == 0
    assert plan.video_duration - plan.seconds_padded == audio
    assert plan.seconds_padded < Fraction(72, 25)


@given(frames=st.integers(81, 5000), advance=st.integers(1, 80))
def test_the_sampled_windows_just_reach_the_last_frame(frames: int, advance: int) -> None:
    """As the loop of the node pack does."""
    windows = sampled_windows(frames, advance)
    assert 81 + (windows - 1) * advance >= frames
    assert windows == 1 or 81 + (windows - 2) * advance < frames


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("21", "21.00"),
        ("20.52", "20.52"),
        ("9.055011", "9.055"),
        ("0.1", "0.10"),
        ("3.2399", "3.239"),
    ],
)
def test_seconds_are_written_for_people(value: str, text: str) -> None:
    """Rounded down, so that what is too short never looks long enough."""
    assert in_seconds(Fraction(value)) == text
