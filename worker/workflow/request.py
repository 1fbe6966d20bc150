"""Builds the request for one job from the template and the plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from fractions import Fraction
from math import ceil
from typing import Any

from worker.plan.plan import Plan, rounded
from worker.plan.tiers import LORAS, MODELS
from worker.workflow.names import EMBEDS, VIDEO
from worker.workflow.validation import Template

# In the file's name, not in a folder before it.
_TIER_TOKEN = {
    meaning: re.compile(rf"(?:{'|'.join(tokens)})(?!.*[/\\])", re.IGNORECASE)
    for meaning, tokens in (("model", MODELS), ("lora", LORAS))
}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_SHORTEST_TTL = 10


def build_input(
    template: Template, plan: Plan, *, job_id: str, image_url: str, audio_url: str
) -> dict[str, object]:
    """Return the `input` object: exactly the five keys that the endpoint's handler reads."""
    return {
        "image_url": image_url,
        "audio_url": audio_url,
        "width": plan.width,
        "height": plan.height,
        "workflow": _graph(template, plan, job_id),
    }


def build_body(
    template: Template,
    plan: Plan,
    *,
    job_id: str,
    image_url: str,
    audio_url: str,
    webhook: str | None = None,
) -> dict[str, object]:
    """Return the whole body of POST /run; its policy is in milliseconds."""
    body: dict[str, object] = {
        "input": build_input(
            template, plan, job_id=job_id, image_url=image_url, audio_url=audio_url
        ),
        "policy": {
            "executionTimeout": plan.execution_timeout_seconds * 1000,
            "ttl": max(plan.ttl_seconds, _SHORTEST_TTL) * 1000,
        },
    }
    if webhook is not None:
        body["webhook"] = webhook
    return body


def output_prefix(prefix: object, job_id: str) -> str:
    """Return the start of the video's file name: with the job's id a lost video can be found."""
    name = _NOT_IN_NAMES.sub("_", prefix).strip("_") if isinstance(prefix, str) else ""
    return f"{name or 'infinitetalk'}_{_NOT_IN_NAMES.sub('_', job_id)}"


def _graph(template: Template, plan: Plan, job_id: str) -> dict[str, Any]:
    graph: dict[str, Any] = deepcopy(dict(template.graph))
    video = graph[template.nodes[VIDEO]]["inputs"]
    file_name = output_prefix(video.get("filename_prefix"), job_id)
    values = {**_values(plan), "file_name": file_name}
    for slot in template.slots:
        inputs, value = graph[slot.node]["inputs"], values[slot.meaning]
        if slot.meaning in _TIER_TOKEN:
            # The template may name a folder before the file, which stays.
            inputs[slot.input] = _TIER_TOKEN[slot.meaning].sub(str(value), inputs[slot.input])
        elif value is not None:
            inputs[slot.input] = value
    if plan.prepared:
        # The embeds node cuts its sound to the video's length, but to 16 kHz mono. Prepared audio
        # has that length already, so the file is used and keeps its quality.
        video["audio"] = [template.nodes["LoadAudio"], 0]
    elif _sound_source(graph, video) == "LoadAudio":
        video["audio"] = [template.nodes[EMBEDS], 1]
    return graph


def _values(plan: Plan) -> dict[str, object]:
    """Return the value of each slot, by its meaning; None leaves the template's own."""
    return {
        "width": plan.width,
        "height": plan.height,
        "frames": plan.frames,
        "model": plan.model,
        "lora": plan.lora,
        "steps": plan.steps,
        "seed": plan.seed,
        "prompt": plan.prompt,
        "negative_prompt": plan.negative_prompt,
        "crf": plan.crf,
        "crop_end": _clock(plan.video_duration),
        "trim_seconds": rounded(plan.video_duration),
    }


def _clock(seconds: Fraction) -> str:
    minutes, rest = divmod(ceil(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _sound_source(graph: Mapping[str, Any], video: Mapping[str, Any]) -> object:
    audio = video.get("audio")
    return graph[audio[0]]["class_type"] if isinstance(audio, list) else None
