"""Decides everything about a video before anything is spent; the result is one value, the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil

from worker.jobs.errors import JobFailed
from worker.plan.frames import FRAME, FramePlan, in_seconds, plan_frames
from worker.plan.media_facts import AudioFacts, ImageFacts
from worker.plan.options import (
    RequestedOptions,
    crf_of,
    knob_of,
    prompt_of,
    quality_of,
    seed_of,
    steps_of,
)
from worker.plan.originals import refuse_originals
from worker.plan.policy import PlanPolicy
from worker.plan.sizes import plan_size
from worker.plan.tiers import LORAS, MODELS, TIERS
from worker.plan.warnings import PlanWarning, plan_warnings, within_bytes

# Pixels times steps of the render that `seconds_per_window` is measured with.
_REFERENCE_WORK = 1280 * 720 * 4
_MAX_WARNING_BYTES = 1500
# RunPod's policy, in seconds: what a run may take beyond its expected time, at most six days,
# and what it may live beyond the queue's deadline and that.
_STARTUP_SECONDS = 600
_LONGEST_RUN = 6 * 24 * 3600
_TTL_RESERVE = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be rendered, how long that takes, and what it costs.

    Durations are in seconds, the size in pixels, the cost in US dollars (None without a price).
    """

    audio_duration: Fraction
    frames: int
    windows: int
    sampled_windows: int
    video_duration: Fraction
    seconds_cut: Fraction
    seconds_padded: Fraction
    width: int
    height: int
    steps: int
    quality: str
    model: str
    lora: str
    crf: int | None
    seed: int
    prompt: str | None
    negative_prompt: str | None
    prepared: bool
    execution_timeout_seconds: int
    ttl_seconds: int
    expected_seconds: int
    estimated_cost_usd: Decimal | None
    warnings: tuple[PlanWarning, ...]

    def as_row(self) -> dict[str, object]:
        """Return the plan as columns of `video_jobs`."""
        cost = self.estimated_cost_usd
        return {
            "frames": self.frames,
            "windows": self.windows,
            "sampled_windows": self.sampled_windows,
            "video_duration": rounded(self.video_duration),
            "audio_duration": rounded(self.audio_duration),
            "render_width": self.width,
            "render_height": self.height,
            "seed_used": self.seed,
            "estimated_cost_usd": None if cost is None else float(cost),
            "warnings": [warning.as_json() for warning in self.warnings],
        }

    def as_json(self) -> dict[str, object]:
        """Return the whole plan; where a column holds the same value, under the column's name."""
        return self.as_row() | {
            "seconds_cut": rounded(self.seconds_cut),
            "seconds_padded": rounded(self.seconds_padded),
            "quality": self.quality,
            "steps": self.steps,
            "model": self.model,
            "lora": self.lora,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "inputs": "prepared" if self.prepared else "original",
            "expected_seconds": self.expected_seconds,
            "execution_timeout_seconds": self.execution_timeout_seconds,
            "ttl_seconds": self.ttl_seconds,
        }


def make_plan(
    *,
    options: RequestedOptions,
    audio: AudioFacts,
    image: ImageFacts | None,
    advance: int,
    policy: PlanPolicy,
    seed: Callable[[], int],
) -> Plan:
    """Return the plan for a job; raise JobFailed if its inputs or options cannot be rendered.

    `advance` is the number of frames from one window of the template to the next. `seed` draws a
    number from 1 to 999999.
    """
    if not policy.prepared:
        refuse_originals(audio, image)
    quality = quality_of(options.quality)
    tier = TIERS[quality]
    steps = steps_of(options.steps, tier.steps)
    size = plan_size(options.width, options.height, image=image, policy=policy)
    prompt = prompt_of(options.prompt, "prompt")
    negative_prompt = prompt_of(options.negative_prompt, "negative_prompt")
    frames = _frames(audio, advance, policy)
    work = Fraction(size.width * size.height * steps, _REFERENCE_WORK)
    render = policy.seconds_per_window * frames.sampled_windows * work
    timeout = min(ceil(_STARTUP_SECONDS + Fraction(3, 2) * render), _LONGEST_RUN)
    warnings = plan_warnings(
        frames=frames,
        size=size,
        audio=audio,
        image=image,
        policy=policy,
        prompt_changed=prompt.changed or negative_prompt.changed,
    )
    return Plan(
        audio_duration=audio.seconds,
        frames=frames.frames,
        windows=frames.windows,
        sampled_windows=frames.sampled_windows,
        video_duration=frames.video_duration,
        seconds_cut=frames.seconds_cut,
        seconds_padded=frames.seconds_padded,
        width=size.width,
        height=size.height,
        steps=steps,
        quality=quality,
        model=knob_of(options.model, "model", MODELS, tier.model, policy),
        lora=knob_of(options.lora, "lora", LORAS, tier.lora, policy),
        crf=crf_of(options.crf, policy),
        seed=seed_of(options.seed, seed),
        prompt=prompt.text,
        negative_prompt=negative_prompt.text,
        prepared=policy.prepared,
        execution_timeout_seconds=timeout,
        ttl_seconds=policy.queue_deadline_seconds + timeout + _TTL_RESERVE,
        expected_seconds=ceil(render),
        estimated_cost_usd=_cost(policy.gpu_price_per_second, render),
        warnings=within_bytes(warnings, _MAX_WARNING_BYTES),
    )


def rounded(seconds: Fraction) -> float:
    """Return seconds as a JSON number, rounded to the microsecond."""
    return float(round(seconds, 6))


def _frames(audio: AudioFacts, advance: int, policy: PlanPolicy) -> FramePlan:
    frames = plan_frames(audio.seconds, policy=policy, advance=advance, padding=audio.padding)
    if policy.audio_fit == "reject" and frames.seconds_cut >= FRAME:
        raise JobFailed(
            "audio_not_aligned",
            f"The audio is {in_seconds(audio.seconds)} s long; the nearest shorter video is "
            f"{in_seconds(frames.video_duration)} s ({frames.frames} frames), and this service "
            f"does not cut audio. Cut the recording to that length.",
        )
    return frames


def _cost(price: Decimal | None, seconds: Fraction) -> Decimal | None:
    """Return US dollars, rounded to four decimals."""
    if price is None:
        return None
    cost = Fraction(price) * seconds
    return (Decimal(round(cost * 10_000)) / 10_000).quantize(Decimal("0.0001"))
