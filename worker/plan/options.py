"""What a row asks for, and the checks that anything which may stand there must pass."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from worker.jobs.errors import JobFailed
from worker.jobs.text import safe_prompt
from worker.plan.policy import PlanPolicy
from worker.plan.tiers import CRF_RANGE, STEPS_RANGE, TIERS

MAX_PROMPT = 1000
MAX_SEED = 999_999


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a row asks for, as it stands there: anything may be in it."""

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


def quality_of(value: object) -> str:
    """Return the tier; JobFailed `quality_invalid`."""
    return _choice(value, "hd", TIERS, "quality_invalid", "quality")


def _choice(value: object, default: str, known: Collection[str], code: str, name: str) -> str:
    if value is None:
        return default
    if isinstance(value, str) and value in known:
        return value
    raise JobFailed(code, f"The {name} must be one of: {', '.join(known)}.")


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def steps_of(value: object, default: int) -> int:
    """Return the steps; JobFailed `steps_invalid`."""
    low, high = STEPS_RANGE
    if value is None:
        return default
    if isinstance(value, int) and _whole(value, low, high):
        return value
    raise JobFailed("steps_invalid", f"The steps must be a whole number from {low} to {high}.")


def seed_of(value: object, draw: Callable[[], int]) -> int:
    """Return the seed, drawn for None and 0; JobFailed `seed_invalid`."""
    drawn = draw() if value is None or (value == 0 and _whole(value, 0, 0)) else value
    if isinstance(drawn, int) and _whole(drawn, 1, MAX_SEED):
        return drawn
    raise JobFailed(
        "seed_invalid",
        f"The seed must be a whole number from 0 to {MAX_SEED}; 0 or nothing draws one.",
    )


def prompt_of(value: object, name: str) -> tuple[str | None, bool]:
    """Return a prompt as plain words, or None, and whether words were changed; `prompt_invalid`."""
    if value is None:
        return None, False
    if not isinstance(value, str) or len(value) > MAX_PROMPT:
        raise JobFailed(
            "prompt_invalid", f"The {name} must be text of at most {MAX_PROMPT} characters."
        )
    safe = safe_prompt(value)
    return safe or None, safe != " ".join(value.split())


def knob_of(
    value: object, name: str, known: Collection[str], default: str, policy: PlanPolicy
) -> str:
    """Return what an open knob is set to; JobFailed `knob_invalid`."""
    # A knob that is not open is the app's own note in its metadata, and none of our business.
    if name not in policy.open_knobs:
        return default
    return _choice(value, default, known, "knob_invalid", name)


def crf_of(value: object, policy: PlanPolicy) -> int | None:
    """Return the crf if the job may set it; JobFailed `knob_invalid`."""
    low, high = CRF_RANGE
    if value is None or "crf" not in policy.open_knobs:
        return None
    if isinstance(value, int) and _whole(value, low, high):
        return value
    raise JobFailed("knob_invalid", f"The crf must be a whole number from {low} to {high}.")
