"""The plan says before the render what the video will be, or why there can be none."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plan.policies import GUIDE, PREPARED
from worker.jobs.errors import JobFailed
from worker.jobs.text import safe_prompt
from worker.plan.media_facts import AudioFacts, ImageFacts
from worker.plan.options import RequestedOptions
from worker.plan.plan import Plan, make_plan
from worker.plan.policy import PlanPolicy
from worker.plan.warnings import WARNINGS, PlanWarning, within_bytes

ADVANCE = 56
PORTRAIT = ImageFacts(width=1440, height=2560, format="JPEG")


def planned(
    seconds: str = "21",
    *,
    image: ImageFacts | None = PORTRAIT,
    policy: PlanPolicy = GUIDE,
    drawn: int = 4711,
    heard: str | None = None,
    facts: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> Plan:
    """A plan for some audio; `heard`: until when it has sound, `facts`: more about it."""
    audio = AudioFacts(
        seconds=Fraction(seconds),
        sample_rate=44_100,
        channels=2,
        codec="mp3",
        sound_until=Fraction(heard) if heard else None,
        **facts,
    )
    return make_plan(
        options=RequestedOptions(**options),
        audio=audio,
        image=image,
        advance=ADVANCE,
        policy=policy,
        seed=lambda: drawn,
    )


def codes(plan: Plan) -> list[str]:
    """The codes of a plan's warnings."""
    return [warning.code for warning in plan.warnings]


def test_a_plan_in_the_columns_of_the_row() -> None:
    """What the browser will see, before anything is spent."""
    assert planned(policy=replace(GUIDE, gpu_price_per_second=Decimal("0.00031"))).as_row() == {
        "frames": 513,
        "windows": 7,
        "sampled_windows": 9,
        "video_duration": 20.52,
        "audio_duration": 21.0,
        "render_width": 720,
        "render_height": 1280,
        "seed_used": 4711,
        "estimated_cost_usd": 0.4352,
        "warnings": [
            {
                "code": "audio_trimmed",
                "message": "The last 0.48 s of the audio are not in the video, which is "
                "20.52 s (513 frames) long.",
            }
        ],
    }


def test_time_limits_and_cost_follow_the_work() -> None:
    """Windows really rendered, pixels and steps."""
    plan = planned(
        policy=replace(
            GUIDE, seconds_per_window=Fraction(100), gpu_price_per_second=Decimal("0.001")
        )
    )
    assert plan.expected_seconds == 900
    assert plan.execution_timeout_seconds == 600 + 1350
    assert plan.ttl_seconds == 3600 + 1950 + 1800
    assert plan.estimated_cost_usd == Decimal("0.9000")
    small = planned(
        policy=replace(GUIDE, seconds_per_window=Fraction(100)), width=480, height=832, steps=6
    )
    assert small.expected_seconds == 585
    assert small.estimated_cost_usd is None


@pytest.mark.parametrize("value", [None, 0])
def test_no_seed_or_zero_draws_one(value: object) -> None:
    """The GPU's own seed 0 would give the same video each time."""
    assert planned(drawn=99, seed=value).seed == 99


@pytest.mark.parametrize("value", [1, 999_999])
def test_a_given_seed_is_kept(value: int) -> None:
    """The whole range."""
    assert planned(seed=value).seed == value


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("quality", "ultra", "quality_invalid"), ("quality", 3, "quality_invalid"),
        ("quality", [], "quality_invalid"), ("steps", 3, "steps_invalid"),
        ("steps", 7, "steps_invalid"), ("steps", "4", "steps_invalid"),
        ("steps", True, "steps_invalid"), ("prompt", "x" * 1001, "prompt_invalid"),
        ("prompt", 5, "prompt_invalid"), ("negative_prompt", {}, "prompt_invalid"),
        ("width", 100, "size_invalid"),
    ],
)  # fmt: skip
def test_an_impossible_option_is_refused_with_its_code(
    option: str, value: object, code: str
) -> None:
    """Whatever a row holds."""
    options: dict[str, Any] = {option: value}
    if option == "width":
        options["height"] = 1280
    with pytest.raises(JobFailed) as refusal:
        planned(**options)
    assert refusal.value.code == code


@pytest.mark.parametrize("value", [-1, 1_000_000, "7", 1.5, True, False, [], 0.0])
def test_what_is_no_seed_is_refused(value: object) -> None:
    """Text, fractions, booleans."""
    with pytest.raises(JobFailed) as refusal:
        planned(seed=value)
    assert refusal.value.code == "seed_invalid"


@pytest.mark.parametrize(
    ("knob", "good", "bad"), [("model", "Q6_K", "Q8"), ("lora", "rank256", ""), ("crf", 15, 24)]
)
def test_an_open_knob_takes_only_values_of_its_list(knob: str, good: Any, bad: Any) -> None:
    """Everything else cannot be reached from a row."""
    policy = replace(GUIDE, open_knobs=frozenset({knob}))
    assert getattr(planned(policy=policy, **{knob: good}), knob) == good
    with pytest.raises(JobFailed) as refusal:
        planned(policy=policy, **{knob: bad})
    assert refusal.value.code == "knob_invalid"


@pytest.mark.parametrize(("knob", "value"), [("model", "Q4_0"), ("lora", []), ("crf", "x")])
def test_a_knob_that_is_not_open_changes_nothing(knob: str, value: Any) -> None:
    """The app may keep what it likes in its metadata."""
    assert planned(**{knob: value}) == planned()


@pytest.mark.parametrize("steps", [4, 5, 6])
def test_steps_override_the_tiers_own(steps: int) -> None:
    """In the guide's range."""
    assert planned(quality="fullhd", steps=steps).steps == steps


def test_cut_speech_is_told_apart_from_cut_silence() -> None:
    """If the level was measured."""
    assert codes(planned("21", heard="20.5")) == ["audio_trimmed"]
    assert codes(planned("21", heard="20.9")) == ["audio_trimmed", "speech_cut"]


def test_a_cut_of_less_than_a_frame_is_not_worth_a_word() -> None:
    """Encoders leave such tails."""
    assert codes(planned("20.55")) == []


def test_padding_needs_prepared_inputs_and_says_so() -> None:
    """AUDIO_FIT=pad."""
    padded = planned(policy=replace(GUIDE, audio_fit="pad", prepared=True))
    assert (padded.frames, padded.seconds_padded, codes(padded)) == (
        585,
        Fraction("2.4"),
        ["audio_padded"],
    )
    cut = planned(policy=replace(GUIDE, audio_fit="pad"))
    assert (cut.frames, codes(cut)) == (513, ["audio_trimmed", "audio_not_padded"])


def test_the_policy_reject_refuses_a_cut_and_names_the_length() -> None:
    """AUDIO_FIT=reject."""
    policy = replace(GUIDE, audio_fit="reject")
    assert planned("20.53", policy=policy).frames == 513
    with pytest.raises(JobFailed, match=r"20\.52 s \(513 frames\)") as refusal:
        planned("21", policy=policy)
    assert refusal.value.code == "audio_not_aligned"


def test_a_small_or_differently_shaped_image_is_told() -> None:
    """Before the GPU is paid."""
    assert codes(planned("9", image=ImageFacts(width=300, height=540, format="PNG"))) == [
        "image_small"
    ]
    wide = ImageFacts(width=4000, height=3000, format="PNG")
    assert codes(planned("9", image=wide, width=720, height=1280)) == ["image_cropped"]
    fitted = replace(GUIDE, image_fit="blur", prepared=True)
    assert codes(planned("9", image=wide, width=720, height=1280, policy=fitted)) == []
    unfitted = replace(GUIDE, image_fit="blur")
    assert codes(planned("9", image=wide, width=720, height=1280, policy=unfitted)) == [
        "image_not_fitted",
        "image_cropped",
    ]


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"clipped": True}, "audio_clipped"),
        ({"bad_packets": 3}, "audio_damaged"),
        ({"voice_channel": 1}, "audio_one_channel"),
        ({"voice_channel": 2}, "audio_one_channel"),
        ({"seconds_missing": Fraction(1, 2)}, "audio_incomplete"),
        ({"end_marked": False}, "audio_incomplete"),
    ],
)
def test_the_plan_warns_of_what_is_wrong_with_the_sound(facts: dict[str, Any], code: str) -> None:
    """Whatever is rendered from it."""
    plan = planned("9", facts=facts, policy=PREPARED if "bad_packets" in facts else GUIDE)
    assert codes(plan) == [code]
    if facts.get("voice_channel") == 2:
        assert "no. 3" in plan.warnings[0].message


def test_the_plan_warns_of_silence_and_of_pictures_that_will_look_different() -> None:
    """Both are rendered all the same."""
    image = replace(PORTRAIT, animated=True, has_alpha=True)
    plan = planned("9", heard="0", image=image)
    assert codes(plan) == ["audio_silent", "image_animated", "image_transparent"]


def test_a_voice_in_the_first_channel_alone_is_not_worth_a_warning() -> None:
    """The model listens to it."""
    assert codes(planned("9", facts={"voice_channel": 0})) == []


def test_a_voice_that_preparing_moves_to_the_first_channel_is_not_worth_a_warning() -> None:
    """Only an original keeps it where nobody listens."""
    assert codes(planned("9", facts={"voice_channel": 1}, policy=PREPARED)) == []


def test_the_delay_of_an_encoder_is_not_worth_a_warning() -> None:
    """Headers and decoders differ by some packets."""
    assert codes(planned("9", facts={"seconds_missing": Fraction(49, 100)})) == []


def test_the_warning_about_transparent_parts_says_what_they_become() -> None:
    """White where the image is prepared; ComfyUI drops the transparency, mostly to black."""
    image = replace(PORTRAIT, has_alpha=True)
    for policy, word in ((GUIDE, "black"), (PREPARED, "white")):
        (warning,) = planned("9", image=image, policy=policy).warnings
        assert (warning.code, word in warning.message) == ("image_transparent", True)


def test_the_requested_and_the_rendered_size_are_told_apart() -> None:
    """1920x1080 is snapped; 800x800 can be rendered, but nobody tested it."""
    adjusted = planned("9", image=None, width=1920, height=1080)
    assert codes(adjusted) == ["size_adjusted", "size_untested"]
    assert "1920x1072 instead of 1920x1080" in adjusted.warnings[0].message
    assert codes(planned("9", image=None, width=800, height=800)) == ["size_untested"]
    assert codes(planned("9", width=480, height=832)) == []


def test_the_plan_says_whether_inputs_are_made_to_measure() -> None:
    """Without a bucket the originals pass through."""
    assert planned().as_json()["inputs"] == "original"
    assert planned(policy=replace(GUIDE, prepared=True)).as_json()["inputs"] == "prepared"


def test_every_warning_that_a_plan_makes_has_a_meaning() -> None:
    """All of them, provoked."""
    small = ImageFacts(width=300, height=200, format="PNG", has_alpha=True, animated=True)
    unprepared = replace(GUIDE, audio_fit="pad", image_fit="blur")
    plans = [
        planned("50", image=None, heard="49", policy=unprepared, prompt="a|b"),
        planned("9", image=small, width=1080, height=1920, policy=unprepared),
        planned("9", heard="0", facts={"clipped": True, "end_marked": False, "voice_channel": 1}),
        planned("9", facts={"bad_packets": 1}, policy=PREPARED),
        planned("21", policy=replace(GUIDE, audio_fit="pad", prepared=True)),
    ]
    assert {code for plan in plans for code in codes(plan)} == set(WARNINGS)


def test_warnings_fit_into_their_column() -> None:
    """The row's limit is in bytes."""
    warnings = [PlanWarning(f"code_{number}", "ü" * 400) for number in range(20)]
    kept = within_bytes(warnings, 2900)
    assert 0 < len(kept) < 20
    assert len(json.dumps([warning.as_json() for warning in kept]).encode()) <= 2900


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@given(
    options=st.fixed_dictionaries(
        dict.fromkeys(("width", "height", "quality", "prompt", "seed", "steps", "model"), ANY)
    ),
    seconds=st.fractions(0, 100),
)
def test_any_row_is_planned_or_refused_with_a_known_code(
    options: dict[str, Any], seconds: Fraction
) -> None:
    """No row makes the worker stumble."""
    audio = AudioFacts(seconds=seconds, sample_rate=48_000, channels=1, codec="opus")
    with suppress(JobFailed):
        plan = make_plan(
            options=RequestedOptions(**options), audio=audio, image=None, advance=ADVANCE,
            policy=GUIDE, seed=lambda: 1,
        )  # fmt: skip
        json.dumps(plan.as_json(), allow_nan=False).encode()


SIGNS = st.text(alphabet=st.sampled_from("ab |[](): .12\n\x00\ud800é"), max_size=60)


@given(text=SIGNS | st.text())
def test_a_safe_prompt_holds_nothing_that_the_encoder_parses(text: str) -> None:
    """Whatever was written; and it is stable and storable."""
    safe = safe_prompt(text)
    assert "|" not in safe
    assert not re.search(r"\[\d+\]", safe)
    assert not re.search(r"\((.*?):([\d\.]+)\)", safe)
    assert safe_prompt(safe) == safe
    assert "\x00" not in safe
    assert safe.encode().decode() == safe


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a person speaks", "a person speaks"),
        ("one | two", "one , two"),
        ("[1] first [2] second", "1 first 2 second"),
        ("(smiling:1.3), at 10:30", "(smiling), at 10:30"),
        ("((deep:1.1):1.2)", "((deep))"),
        ("  two\n lines\t", "two lines"),
    ],
)
def test_prompts_become_plain_words(text: str, safe: str) -> None:
    """And ordinary punctuation stays."""
    assert safe_prompt(text) == safe


def test_a_changed_prompt_is_told() -> None:
    """White space alone is not."""
    assert "prompt_adjusted" in codes(planned(prompt="a (b:1.5)"))
    assert "prompt_adjusted" not in codes(planned(prompt=" a   b "))
    assert planned(prompt="   ").prompt is None
