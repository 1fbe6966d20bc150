"""What the daemon and a decoder tell each other: one small JSON message in each direction."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, Literal, TypeVar

from worker.jobs.errors import CODES, JobFailed
from worker.media.first_look import Kind
from worker.plan.media_facts import MOST_SECONDS, AudioFacts, ImageFacts
from worker.plan.policy import ImageFit
from worker.plan.sizes import Size

T = TypeVar("T")
Reason = Literal["memory", "machine", "cpu", "time", "crash", "answer"]

MOST_BYTES = 16 * 1024
"""The longest message."""
LAYERS = ("landlock", "seccomp")
"""The parts of the confinement that a kernel may lack."""

_LONGEST_TEXT = 500
_LARGEST_COUNT = 1_000_000_000
_FRACTION = re.compile(r"([0-9]{1,12})/([0-9]{1,9})")
_NAME = re.compile(r"[A-Za-z0-9_]{1,32}")


class DecoderFailure(Exception):
    """A decoder ended, or did not answer as agreed: the file or the process is at fault."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Generic[T]):
    """One piece of work: its name and options for the decoder, and how its result is read."""

    name: str
    kind: Kind
    options: Mapping[str, Any]
    read: Callable[[object], T]


def probe_image_task(*, max_pixels: int) -> Task[ImageFacts]:
    """Return the task of decoding an image for its facts."""
    options = {"max_pixels": max_pixels}
    return Task(name="probe_image", kind="image", options=options, read=_image_facts)


def probe_audio_task(*, max_seconds: Fraction = MOST_SECONDS) -> Task[AudioFacts]:
    """Return the task of decoding an audio file of at most `max_seconds` for its facts."""
    options = {"max_seconds": _fraction_text(max_seconds.limit_denominator(1000))}
    return Task(name="probe_audio", kind="audio", options=options, read=read_audio_facts)


def render_image_task(*, size: Size, fit: ImageFit, max_pixels: int) -> Task[None]:
    """Return the task of writing a prepared image into the second file."""
    options = {"size": list(size), "fit": fit, "max_pixels": max_pixels}
    return Task(name="render_image", kind="image", options=options, read=_nothing)


def render_audio_task(facts: AudioFacts, *, seconds: Fraction) -> Task[None]:
    """Return the task of writing prepared audio of exactly `seconds` into the second file."""
    options = {"facts": facts_as_json(facts), "seconds": _fraction_text(seconds)}
    return Task(name="render_audio", kind="audio", options=options, read=_nothing)


def request(task: Task[Any]) -> bytes:
    """Return the message that hands a task over."""
    return json.dumps({"task": task.name, "options": dict(task.options)}).encode()


def read_answer(data: bytes, task: Task[T]) -> T:
    """Return the result of a task.

    Raise JobFailed if the decoder refused the file, and DecoderFailure if it had too little memory,
    could not write, or the message is not one that a decoder sends.
    """
    try:
        answer = _json(data)
        if answer.keys() == {"error"}:
            refused = _error(answer["error"], task.kind)
        elif answer == {"failure": "memory"}:
            raise DecoderFailure("memory")
        elif answer == {"failure": "machine"}:
            raise DecoderFailure("machine", "its output could not be written")
        elif answer.keys() == {"result"}:
            return task.read(answer["result"])
        else:
            raise ValueError("unknown message")
    except (ValueError, RecursionError) as error:
        raise DecoderFailure("answer", type(error).__name__) from None
    raise refused


def hello(lacking: tuple[str, ...]) -> bytes:
    """Return a decoder's first message: it is ready, without these layers of confinement."""
    return json.dumps({"lacking": list(lacking)}).encode()


def read_hello(data: bytes) -> tuple[str, ...]:
    """Return the layers of confinement that a new decoder lacks; raise ValueError for others."""
    lacking = _fields(_json(data), "lacking")[0]
    if type(lacking) is not list or not all(name in LAYERS for name in lacking):
        raise ValueError("not a hello")
    return tuple(lacking)


def facts_as_json(facts: AudioFacts | ImageFacts) -> dict[str, Any]:
    """Return facts with exact fractions as text."""
    return {
        name: _fraction_text(value) if isinstance(value, Fraction) else value
        for name in type(facts).__dataclass_fields__
        for value in (getattr(facts, name),)
    }


def read_audio_facts(value: object) -> AudioFacts:
    """Return the facts of `facts_as_json`; raise ValueError for anything else."""
    facts = _object(value, *AudioFacts.__dataclass_fields__)
    until, voice = facts["sound_until"], facts["voice_channel"]
    return AudioFacts(
        seconds=read_fraction(facts["seconds"]),
        sample_rate=_count(facts["sample_rate"], 1),
        channels=_count(facts["channels"], 1),
        codec=_name(facts["codec"]),
        sound_until=None if until is None else read_fraction(until),
        clipped=_flag(facts["clipped"]),
        voice_channel=None if voice is None else _count(voice, 0),
        bad_packets=_count(facts["bad_packets"], 0),
        sample_format=_name(facts["sample_format"]),
        cut_sample=_flag(facts["cut_sample"]),
        seconds_missing=read_fraction(facts["seconds_missing"]),
        end_marked=_flag(facts["end_marked"]),
    )


def read_fraction(value: object) -> Fraction:
    """Return an exact number of seconds; raise ValueError if it is none."""
    match = _FRACTION.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[2]) == 0:
        raise ValueError("not a fraction")
    return Fraction(int(match[1]), int(match[2]))


def _image_facts(value: object) -> ImageFacts:
    width, height, kind, alpha, animated, deep = _fields(value, *ImageFacts.__dataclass_fields__)
    return ImageFacts(
        width=_count(width, 1),
        height=_count(height, 1),
        format=_name(kind),
        has_alpha=_flag(alpha),
        animated=_flag(animated),
        deep_grey=_flag(deep),
    )


def _nothing(value: object) -> None:
    if value is not None:
        raise ValueError("a result where none is expected")


def _error(value: object, kind: Kind) -> JobFailed:
    code, message = _fields(value, "code", "message")
    if not isinstance(code, str) or code not in CODES or not code.startswith(f"{kind}_"):
        raise ValueError("an unknown code")
    if not isinstance(message, str) or not 0 < len(message) <= _LONGEST_TEXT:
        raise ValueError("no message")
    return JobFailed(code, "".join(sign if sign.isprintable() else " " for sign in message))


def _json(data: bytes) -> dict[str, Any]:
    value = json.loads(data) if len(data) <= MOST_BYTES else None
    if type(value) is not dict:
        raise ValueError("not a message")
    return value


def _object(value: object, *names: str) -> dict[str, Any]:
    """Return an object that has exactly these keys."""
    if type(value) is not dict or value.keys() != set(names):
        raise ValueError("other keys than agreed")
    return value


def _fields(value: object, *names: str) -> list[Any]:
    """Return the values of an object that has exactly these keys, in their order."""
    checked = _object(value, *names)
    return [checked[name] for name in names]


def _count(value: object, least: int) -> int:
    if type(value) is not int or not least <= value <= _LARGEST_COUNT:
        raise ValueError("not a count")
    return value


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError("neither true nor false")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("not a name")
    return value


def _fraction_text(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"
