"""What must not reach the GPU worker as it is; prepared inputs need none of these rules."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from tests.plan.policies import GUIDE, PREPARED
from worker.jobs.errors import JobFailed
from worker.plan.media_facts import AudioFacts, ImageFacts
from worker.plan.options import RequestedOptions
from worker.plan.originals import refuse_originals
from worker.plan.plan import Plan, make_plan
from worker.plan.policy import PlanPolicy

SPEECH = AudioFacts(seconds=Fraction(9), sample_rate=48_000, channels=1, codec="mp3")
PORTRAIT = ImageFacts(width=720, height=1280, format="JPEG")

REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"format": "HEIF"}, "image_unreadable"),
    ({}, {"deep_grey": True}, "image_unreadable"),
    ({"bad_packets": 1}, {}, "audio_unreadable"),
    ({"sample_format": "u8"}, {}, "audio_unreadable"),
    ({"sample_format": "s64"}, {}, "audio_unreadable"),
    ({"sample_format": "dbl"}, {}, "audio_unreadable"),
    ({"cut_sample": True}, {}, "audio_unreadable"),
]


def planned(audio: AudioFacts, image: ImageFacts | None, policy: PlanPolicy) -> Plan:
    """A plan for these inputs."""
    return make_plan(
        options=RequestedOptions(),
        audio=audio,
        image=image,
        advance=56,
        policy=policy,
        seed=lambda: 7,
    )


@pytest.mark.parametrize(("audio", "image", "code"), REFUSED)
def test_what_comfyui_cannot_load_or_spoils_is_refused_as_an_original_and_planned_if_prepared(
    audio: dict[str, Any], image: dict[str, Any], code: str
) -> None:
    """The sentence names the setting that helps."""
    sound, picture = replace(SPEECH, **audio), replace(PORTRAIT, **image)
    with pytest.raises(JobFailed, match="PASS_ORIGINALS") as failed:
        planned(sound, picture, GUIDE)
    assert failed.value.code == code
    assert planned(sound, picture, PREPARED).prepared


@pytest.mark.parametrize("sample_format", ["s16", "s32", "flt"])
@pytest.mark.parametrize("image", [PORTRAIT, None])
def test_ordinary_originals_pass(image: ImageFacts | None, sample_format: str) -> None:
    """16 bits, 24 bits (which FFmpeg decodes to 32) and floats are what LoadAudio knows."""
    refuse_originals(replace(SPEECH, sample_format=sample_format), image)


@pytest.mark.parametrize(
    ("codec", "seconds", "accepted"),
    [
        ("aac", "60.0107", True),
        ("mp3", "60.192", True),
        ("aac", "60.201", False),
        ("pcm_s16le", "60.001", False),
        ("flac", "60.001", False),
        ("pcm_s16le", "60", True),
    ],
)
def test_what_encoders_add_does_not_make_a_recording_of_60_seconds_too_long(
    codec: str, seconds: str, accepted: bool
) -> None:
    """Lossless codecs add nothing."""
    sound = replace(SPEECH, codec=codec, seconds=Fraction(seconds))
    if accepted:
        assert planned(sound, PORTRAIT, GUIDE).frames == 1089
        return
    with pytest.raises(JobFailed) as failed:
        planned(sound, PORTRAIT, GUIDE)
    assert failed.value.code == "audio_too_long"
