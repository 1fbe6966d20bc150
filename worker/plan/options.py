"""What a row asks for, and the checks of every value that it may hold."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from worker.jobs.errors import JobFailed
from worker.jobs.text import safe_prompt
from worker.plan.policy import PlanPolicy
from worker.plan.tiers import CRF_RANGE, STEPS_RANGE, TIERS

MAX_PROMPT = 1000
MAX_SEED = 999_999


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOptions:
    """The options of a row, unchecked: each may be of any type."""

    width: object = None
    height: object = None
    quality: object = None
    prompt: object = None
    negative_prompt: object = None
    seed: object = None
    steps: object = None
    model: object = None
    lora: object = None
    crf: object = None


class Prompt(NamedTuple):
    """A prompt as plain words, None for the template's own; `changed`: signs were removed."""

    text: str | None
    changed: bool


def quality_of(value: object) -> str:
    """Return the quality tier; raise JobFailed `quality_invalid`."""
    return _choice(value, "hd", TIERS, "quality_invalid", "quality")


def steps_of(value: object, default: int) -> int:
    """Return the number of steps; raise JobFailed `steps_invalid`."""
    if value is None:
        return default
    return _whole(value, *STEPS_RANGE, "steps_invalid", "steps")


def seed_of(value: object, draw: Callable[[], int]) -> int:
    """Return the seed, drawn if it is None or 0; raise JobFailed `seed_invalid`."""
    if value is None:
        return draw()
    return _whole(value, 0, MAX_SEED, "seed_invalid", "seed", "; 0 or no value: random") or draw()


def prompt_of(value: object, name: str) -> Prompt:
    """Return the prompt; raise JobFailed `prompt_invalid`."""
    if value is None:
        return Prompt(None, changed=False)
    if not isinstance(value, str) or len(value) > MAX_PROMPT:
        raise JobFailed(
            "prompt_invalid", f"The {name} must be text of at most {MAX_PROMPT} characters."
        )
    safe = safe_prompt(value)
    return Prompt(safe or None, changed=safe != " ".join(value.split()))


def knob_of(
    value: object, name: str, known: Collection[str], default: str, policy: PlanPolicy
) -> str:
    """Return the value of the knob `name` if it is open; raise JobFailed `knob_invalid`."""
    # The app may use the key of a closed knob in its metadata for its own purposes.
    if name not in policy.open_knobs:
        return default
    return _choice(value, default, known, "knob_invalid", name)


def crf_of(value: object, policy: PlanPolicy) -> int | None:
    """Return the crf if that knob is open; raise JobFailed `knob_invalid`."""
    if value is None or "crf" not in policy.open_knobs:
        return None
    return _whole(value, *CRF_RANGE, "knob_invalid", "crf")


def _choice(value: object, default: str, known: Collection[str], code: str, name: str) -> str:
    if value is None:
        return default
    if isinstance(value, str) and value in known:
        return value
    raise JobFailed(code, f"The {name} must be one of: {', '.join(known)}.")


def _whole(value: object, low: int, high: int, code: str, name: str, hint: str = "") -> int:
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise JobFailed(code, f"The {name} must be a whole number from {low} to {high}{hint}.")
