"""The daemon believes a decoder nothing that does not have exactly the agreed form."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.jobs.errors import JobFailed
from worker.media.decoder.messages import (
    MOST_BYTES,
    DecoderFailure,
    facts_as_json,
    hello,
    probe_audio_task,
    probe_image_task,
    read_answer,
    read_audio_facts,
    read_hello,
    render_audio_task,
)
from worker.plan.media_facts import AudioFacts, ImageFacts

IMAGE, AUDIO = probe_image_task(max_pixels=10), probe_audio_task()
PICTURE = ImageFacts(width=3, height=4, format="WEBP", has_alpha=True)
SPEECH = AudioFacts(
    seconds=Fraction(905216, 44100),
    sample_rate=44_100,
    channels=2,
    codec="pcm_s16le",
    sound_until=Fraction(0),
    voice_channel=1,
)


def message(value: object) -> bytes:
    return json.dumps(value).encode()


def test_facts_arrive_exactly():
    assert read_answer(message({"result": facts_as_json(PICTURE)}), IMAGE) == PICTURE
    assert read_answer(message({"result": facts_as_json(SPEECH)}), AUDIO) == SPEECH
    assert read_audio_facts(facts_as_json(SPEECH)) == SPEECH
    assert read_answer(b'{"result": null}', render_audio_task(SPEECH, seconds=Fraction(3))) is None


def test_a_refusal_arrives_without_control_characters():
    data = message({"error": {"code": "image_unreadable", "message": "No\x1b[31m picture."}})
    with pytest.raises(JobFailed) as failed:
        read_answer(data, IMAGE)
    assert (failed.value.code, failed.value.message) == ("image_unreadable", "No [31m picture.")


def changed(**fields: object) -> bytes:
    return message({"result": facts_as_json(PICTURE) | fields})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[" * MOST_BYTES,
        b'{"result": ' + b" " * MOST_BYTES + b"null}",
        b'{"result": null}',
        b"{}",
        b"null",
        changed(width=0),
        changed(width=True),
        changed(width=3.0),
        changed(width=10**12),
        changed(format="WEBP; drop"),
        changed(has_alpha=1),
        changed(more=1),
        message({"result": facts_as_json(PICTURE), "error": None}),
        message({"error": {"code": "audio_unreadable", "message": "Of another kind."}}),
        message({"error": {"code": "image_invented", "message": "Unknown."}}),
        message({"error": {"code": "image_unreadable", "message": "x" * 501}}),
        message({"error": {"code": "image_unreadable", "message": ""}}),
        message({"error": {"code": ["image_unreadable"], "message": "x"}}),
    ],
)
def test_anything_else_is_the_decoders_fault(data):
    with pytest.raises(DecoderFailure) as failed:
        read_answer(data, IMAGE)
    assert failed.value.reason == "answer"


@pytest.mark.parametrize("seconds", ["1", "1/0", "-1/2", "1/2/3", "9" * 13 + "/1", 2, "٣/٤", None])
def test_seconds_are_an_exact_fraction_of_plain_digits(seconds):
    data = message({"result": facts_as_json(SPEECH) | {"seconds": seconds}})
    with pytest.raises(DecoderFailure):
        read_answer(data, AUDIO)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
ANSWERS = st.fixed_dictionaries({}, optional={"result": JSON, "error": JSON, "failure": JSON})


@given(st.one_of(st.binary(max_size=200), ANSWERS.map(message), JSON.map(message)))
def test_no_message_leads_to_another_error(data):
    with pytest.raises((DecoderFailure, JobFailed)):
        read_answer(data, IMAGE)
    with pytest.raises((DecoderFailure, JobFailed)):
        read_answer(data, AUDIO)


def test_a_hello_names_only_known_layers():
    assert read_hello(hello(())) == ()
    assert read_hello(hello(("seccomp",))) == ("seccomp",)
    for data in (b"", b"ready", b'{"lacking": ["everything"]}', b'{"lacking": {}}', b"[]"):
        with pytest.raises(ValueError):
            read_hello(data)
