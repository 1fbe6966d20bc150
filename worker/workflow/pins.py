"""The values of a template that make the video good; only a permitted deviation changes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worker.plan.frames import FIRST_WINDOW, FRAME_RATE
from worker.plan.tiers import CRF_RANGE, LORAS, MODELS
from worker.workflow.contracts import is_number, is_whole
from worker.workflow.graph import Graph, Node, literal, shown

I2V = "WanVideoImageToVideoMultiTalk"
MODEL = "WanVideoModelLoader"
LORA = "WanVideoLoraSelect"
SAMPLER = "WanVideoSampler"
EMBEDS = "MultiTalkWav2VecEmbeds"
VIDEO = "VHS_VideoCombine"
BLOCK_SWAP = "WanVideoBlockSwap"

MODEL_NAME = re.compile(
    rf"(?:.*[/\\])?wan2\.1-i2v-14b-480p-({'|'.join(MODELS)})\.gguf", re.IGNORECASE
)
LORA_NAME = re.compile(
    r"(?:.*[/\\])?lightx2v_I2V_14B_480p_cfg_step_distill_"
    rf"({'|'.join(LORAS)})_bf16\.safetensors",
    re.IGNORECASE,
)
_BLOCKS = 40


@dataclass(frozen=True, slots=True)
class Pin:
    """The value that one input of a node class must have.

    `wanted` names it in messages, `why` gives the reason. `firm`: no deviation may be permitted,
    because the frame arithmetic depends on the value.
    """

    kind: str
    name: str
    wanted: str
    holds: Callable[[object], bool]
    why: str
    firm: bool = False


def _is(wanted: object) -> Callable[[object], bool]:
    if is_number(wanted):
        return lambda found: is_number(found) and found == wanted
    return lambda found: type(found) is type(wanted) and found == wanted


def _matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda found: isinstance(found, str) and pattern.fullmatch(found) is not None


def _ends(name: str) -> Callable[[object], bool]:
    return lambda found: isinstance(found, str) and re.split(r"[/\\]", found)[-1] == name


def _between(low: int, high: int) -> Callable[[object], bool]:
    return lambda found: is_whole(found) and low <= found <= high


def _pin(kind: str, name: str, wanted: object, why: str, *, firm: bool = False) -> Pin:
    text = str(wanted).lower() if isinstance(wanted, bool) else str(wanted)
    return Pin(kind, name, text, _is(wanted), why, firm)


_GUIDE = "the guide fixes it; other values bring blur, colour drift or poor lip-sync"
_LENGTH = "the frame plan depends on it"
_GGUF = "a GGUF model fails with anything else"

PINS: tuple[Pin, ...] = (
    Pin(
        MODEL,
        "model",
        "wan2.1-i2v-14b-480p-Q4_0.gguf, -Q5_0.gguf or -Q6_K.gguf",
        _matches(MODEL_NAME),
        "the quality tiers choose among these",
    ),
    _pin(MODEL, "base_precision", "fp16_fast", _GUIDE),
    _pin(MODEL, "attention_mode", "sageattn", _GUIDE),
    _pin(MODEL, "quantization", "disabled", _GGUF),
    Pin(
        LORA,
        "lora",
        "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors or _rank256_",
        _matches(LORA_NAME),
        "the quality tiers choose among these",
    ),
    _pin(LORA, "strength", 1.0, _GUIDE),
    _pin(LORA, "merge_loras", False, _GGUF),
    Pin(
        "MultiTalkModelLoader",
        "model",
        "Wan2_1-InfiniteTalk_Single_Q8.gguf",
        _ends("Wan2_1-InfiniteTalk_Single_Q8.gguf"),
        _GUIDE,
    ),
    _pin(I2V, "frame_window_size", FIRST_WINDOW, _LENGTH, firm=True),
    _pin(I2V, "motion_frame", 25, _GUIDE),
    _pin(I2V, "colormatch", "mkl", _GUIDE),
    _pin(I2V, "mode", "infinitetalk", _GUIDE),
    _pin("ImageScale", "upscale_method", "lanczos", _GUIDE),
    _pin(SAMPLER, "scheduler", "dpm++_sde", _GUIDE),
    _pin(SAMPLER, "add_noise_to_samples", True, _GUIDE),
    _pin(SAMPLER, "cfg", 1.0, _GUIDE),
    _pin(SAMPLER, "shift", 11.0, _GUIDE),
    _pin(EMBEDS, "fps", FRAME_RATE, _LENGTH, firm=True),
    _pin(EMBEDS, "normalize_loudness", True, _GUIDE),
    _pin(BLOCK_SWAP, "blocks_to_swap", 20, _GUIDE),
    _pin(BLOCK_SWAP, "prefetch_blocks", 1, _GUIDE),
    _pin(VIDEO, "frame_rate", FRAME_RATE, _LENGTH, firm=True),
    _pin(VIDEO, "format", "video/h264-mp4", _GUIDE),
    _pin(VIDEO, "pix_fmt", "yuv420p", _GUIDE),
    _pin(VIDEO, "trim_to_audio", True, "the frames of the padded tail would stay in the video"),
    _pin(VIDEO, "pingpong", False, _LENGTH),
    _pin(VIDEO, "loop_count", 0, _LENGTH),
    Pin(
        VIDEO,
        "crf",
        f"{CRF_RANGE[0]} to {CRF_RANGE[1]}",
        _between(*CRF_RANGE),
        "the guide's range",
    ),
    Pin(
        "Wav2VecModelLoader",
        "model",
        "wav2vec2-chinese-base_fp16.safetensors",
        _ends("wav2vec2-chinese-base_fp16.safetensors"),
        _GUIDE,
    ),
    Pin(
        "WanVideoVAELoader",
        "precision",
        "a precision",
        lambda found: isinstance(found, str),
        "the node has no default for it",
    ),
)

# Optional in the contracts, but without them the graph renders something else or nothing.
NEEDED_LINKS: tuple[tuple[str, str], ...] = (
    (MODEL, "block_swap_args"),
    (MODEL, "lora"),
    (MODEL, "multitalk_model"),
    (I2V, "start_image"),
    (I2V, "clip_embeds"),
    (SAMPLER, "text_embeds"),
    (SAMPLER, "multitalk_embeds"),
    ("WanVideoTextEncode", "t5"),
    (VIDEO, "audio"),
)


@dataclass(frozen=True, slots=True)
class Deviations:
    """What the operator permits: "Class.input", "id.input" or "class:Class"."""

    listed: frozenset[str]

    @property
    def foreign(self) -> frozenset[str]:
        """Classes that have no contract here, but that the endpoint knows."""
        prefix = "class:"
        return frozenset(
            entry.removeprefix(prefix) for entry in self.listed if entry.startswith(prefix)
        )

    def permit(self, node: Node, name: str) -> str | None:
        """Return the entry that permits another value for this input; None if there is none."""
        names = (f"{node.kind}.{name}", f"{node.id}.{name}")
        return next((entry for entry in names if entry in self.listed), None)


@dataclass(frozen=True, slots=True)
class BrokenPin:
    """A pinned input with another value; `permitted_by` is the deviation that allows it."""

    text: str
    why: str
    permitted_by: str | None


def broken_pins(graph: Graph, deviations: Deviations) -> Iterator[BrokenPin]:
    """Yield every pin that does not hold; pins of nodes that are not there do not count."""
    for node in graph.values():
        for pin in PINS:
            if pin.kind != node.kind:
                continue
            missing = pin.name not in node.inputs
            found = literal(graph, node, pin.name)
            if not missing and pin.holds(found):
                continue
            yield BrokenPin(
                f"{node.label}, input {pin.name}: found {'nothing' if missing else shown(found)}, "
                f"wanted {pin.wanted}",
                pin.why,
                None if pin.firm else deviations.permit(node, pin.name),
            )


def link_problems(graph: Graph) -> Iterator[str]:
    """Yield a problem for each missing link that the video needs."""
    for kind, name in NEEDED_LINKS:
        for node in graph.values():
            if node.kind == kind and node.link(name) is None and not _cached_prompt(node, name):
                yield f"{node.label}, input {name}: found no link, wanted one."


def block_swap_problems(graph: Graph) -> Iterator[str]:
    """Yield a problem for each block count that is larger than the model's."""
    for node in graph.values():
        value = literal(graph, node, "blocks_to_swap")
        if node.kind == BLOCK_SWAP and is_number(value) and not _between(0, _BLOCKS)(value):
            yield (
                f"{node.label}, input blocks_to_swap: found {shown(value)}; the model has "
                f"{_BLOCKS} blocks, and ComfyUI refuses more than 48 (also the 60 of the guide's "
                f"table)."
            )


def _cached_prompt(node: Node, name: str) -> bool:
    return name == "t5" and node.inputs.get("use_disk_cache") is True
