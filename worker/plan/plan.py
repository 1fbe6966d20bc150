"""Decides everything about a video before anything is spent: one value, the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil

from worker.jobs.errors import JobFailed, Notice
from worker.plan.frames import FramePlan, in_seconds, plan_frames
from worker.plan.media_facts import AudioFacts, ImageFacts
from worker.plan.options import Wishes as Wishes
from worker.plan.options import crf_of, knob_of, prompt_of, quality_of, seed_of, steps_of
from worker.plan.policy import PlanPolicy
from worker.plan.sizes import plan_size
from worker.plan.tiers import LORAS, MODELS, TIERS
from worker.plan.warnings import plan_notices, within_bytes

_REFERENCE_WORK = 1280 * 720 * 4
_MAX_WARNING_BYTES = 1500
_LONGEST_RUN = 6 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be rendered, how long that takes, and what it costs; durations in seconds."""

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
    image_fit: str
    prepared: bool
    execution_timeout_seconds: int
    ttl_seconds: int
    expected_seconds: int
    estimated_cost_usd: Decimal | None
    warnings: tuple[Notice, ...]

    def as_row(self) -> dict[str, object]:
        """The plan as columns of `video_jobs`."""
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
            "warnings": [notice.as_json() for notice in self.warnings],
        }

    def as_json(self) -> dict[str, object]:
        """The whole plan; where a column holds the same thing, under the column's name."""
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
    wishes: Wishes,
    audio: AudioFacts,
    image: ImageFacts | None,
    advance: int,
    policy: PlanPolicy,
    seed: Callable[[], int],
) -> Plan:
    """Plan one video; JobFailed says what is wrong with the row.

    `advance`: frames from one window to the next. `seed` draws 1 to 999999.
    """
    quality = quality_of(wishes.quality)
    tier = TIERS[quality]
    steps = steps_of(wishes.steps, tier.steps)
    size = plan_size(
        wishes.width,
        wishes.height,
        image=image,
        policy=policy.size_policy,
        max_pixels=policy.max_pixels,
    )
    prompt, prompt_changed = prompt_of(wishes.prompt, "prompt")
    negative, negative_changed = prompt_of(wishes.negative_prompt, "negative_prompt")
    frames = _frames(audio.seconds, advance, policy)
    work = Fraction(size.width * size.height * steps, _REFERENCE_WORK)
    render = Fraction(str(policy.seconds_per_window)) * frames.sampled_windows * work
    timeout = min(ceil(600 + Fraction(3, 2) * render), _LONGEST_RUN)
    notices = plan_notices(
        frames=frames,
        size=size,
        audio=audio,
        image=image,
        policy=policy,
        prompt_changed=prompt_changed or negative_changed,
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
        model=knob_of(wishes.model, "model", MODELS, tier.model, policy),
        lora=knob_of(wishes.lora, "lora", LORAS, tier.lora, policy),
        crf=crf_of(wishes.crf, policy),
        seed=seed_of(wishes.seed, seed),
        prompt=prompt,
        negative_prompt=negative,
        image_fit=policy.image_fit,
        prepared=policy.prepared,
        execution_timeout_seconds=timeout,
        ttl_seconds=policy.queue_deadline_seconds + timeout + 1800,
        expected_seconds=ceil(render),
        estimated_cost_usd=_cost(policy, render),
        warnings=within_bytes(notices, _MAX_WARNING_BYTES),
    )


def rounded(value: Fraction) -> float:
    """Return seconds as JSON carries them: to the microsecond."""
    return float(round(value, 6))


def _frames(audio: Fraction, advance: int, policy: PlanPolicy) -> FramePlan:
    frames = plan_frames(
        audio,
        max_audio_seconds=Fraction(str(policy.max_audio_seconds)),
        max_frames=policy.max_frames,
        overlong=policy.overlong_audio,
        alignment=policy.frame_alignment,
        advance=advance,
        pad=policy.pads,
    )
    if policy.audio_fit == "reject" and frames.seconds_cut >= Fraction(1, 25):
        raise JobFailed(
            "audio_not_aligned",
            f"The audio has {in_seconds(audio)} s; the nearest shorter video has "
            f"{in_seconds(frames.video_duration)} s ({frames.frames} frames), and this service "
            f"does not cut. Cut the recording to that length.",
        )
    return frames


def _cost(policy: PlanPolicy, render: Fraction) -> Decimal | None:
    if policy.gpu_price_per_second is None:
        return None
    cost = Fraction(str(policy.gpu_price_per_second)) * render
    return (Decimal(round(cost * 10_000)) / 10_000).quantize(Decimal("0.0001"))
