"""The values of a template that make the video good, and that no job may change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from worker.plan.tiers import CRF_RANGE
from worker.workflow.graph import Graph, Node, is_number, literal, shown

I2V = "WanVideoImageToVideoMultiTalk"
MODEL = "WanVideoModelLoader"
LORA = "WanVideoLoraSelect"
SAMPLER = "WanVideoSampler"
EMBEDS = "MultiTalkWav2VecEmbeds"
VIDEO = "VHS_VideoCombine"
BLOCK_SWAP = "WanVideoBlockSwap"

MODEL_NAME = re.compile(r"(?:.*[/\\])?wan2\.1-i2v-14b-480p-(Q4_0|Q5_0|Q6_K)\.gguf", re.IGNORECASE)
LORA_NAME = re.compile(
    r"(?:.*[/\\])?lightx2v_I2V_14B_480p_cfg_step_distill_(rank64|rank256)_bf16\.safetensors",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned input; `firm`: no deviation is possible, because the worker's sums rest on it."""

    kind: str
    name: str
    wanted: str
    holds: Callable[[object], bool]
    why: str
    firm: bool = False


def _is(wanted: object) -> Callable[[object], bool]:
    if isinstance(wanted, bool) or not is_number(wanted):
        return lambda found: type(found) is type(wanted) and found == wanted
    return lambda found: is_number(found) and found == wanted


def _ends(name: str) -> Callable[[object], bool]:
    return lambda found: isinstance(found, str) and re.split(r"[/\\]", found)[-1] == name


def _between(low: int, high: int) -> Callable[[object], bool]:
    return lambda found: isinstance(found, int) and _is_in(found, low, high)


def _is_in(found: int, low: int, high: int) -> bool:
    return not isinstance(found, bool) and low <= found <= high


def _pin(kind: str, name: str, wanted: object, why: str, *, firm: bool = False) -> Pin:
    text = str(wanted).lower() if isinstance(wanted, bool) else str(wanted)
    return Pin(kind, name, text, _is(wanted), why, firm)


_GUIDE = "the guide fixes it; other values bring blur, colour drift or poor lip-sync"
_LENGTH = "the frame plan rests on it"
_GGUF = "a GGUF model fails with anything else"

PINS: tuple[Pin, ...] = (
    Pin(
        MODEL,
        "model",
        "wan2.1-i2v-14b-480p-Q4_0.gguf, -Q5_0.gguf or -Q6_K.gguf",
        lambda found: isinstance(found, str) and MODEL_NAME.fullmatch(found) is not None,
        "the quality tiers choose among these",
    ),
    _pin(MODEL, "base_precision", "fp16_fast", _GUIDE),
    _pin(MODEL, "attention_mode", "sageattn", _GUIDE),
    _pin(MODEL, "quantization", "disabled", _GGUF),
    Pin(
        LORA,
        "lora",
        "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors or _rank256_",
        lambda found: isinstance(found, str) and LORA_NAME.fullmatch(found) is not None,
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
    _pin(I2V, "frame_window_size", 81, _LENGTH, firm=True),
    _pin(I2V, "motion_frame", 25, _GUIDE),
    _pin(I2V, "colormatch", "mkl", _GUIDE),
    _pin(I2V, "mode", "infinitetalk", _GUIDE),
    _pin("ImageScale", "upscale_method", "lanczos", _GUIDE),
    _pin(SAMPLER, "scheduler", "dpm++_sde", _GUIDE),
    _pin(SAMPLER, "add_noise_to_samples", True, _GUIDE),
    _pin(SAMPLER, "cfg", 1.0, _GUIDE),
    _pin(SAMPLER, "shift", 11.0, _GUIDE),
    _pin(EMBEDS, "fps", 25, _LENGTH, firm=True),
    _pin(EMBEDS, "normalize_loudness", True, _GUIDE),
    _pin(BLOCK_SWAP, "blocks_to_swap", 20, _GUIDE),
    _pin(BLOCK_SWAP, "prefetch_blocks", 1, _GUIDE),
    _pin(VIDEO, "frame_rate", 25, _LENGTH, firm=True),
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

# Optional in the contracts, yet without them the graph renders something else or nothing.
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
        """Classes that the contracts do not know but the endpoint has."""
        return frozenset(item[6:] for item in self.listed if item.startswith("class:"))

    def permit(self, node: Node, name: str) -> str | None:
        """Return the entry that permits another value for this input."""
        names = (f"{node.kind}.{name}", f"{node.id}.{name}")
        return next((item for item in names if item in self.listed), None)


def check_pins(
    graph: Graph, deviations: Deviations, problems: list[str], notes: list[str]
) -> set[str]:
    """Add a problem, or a note if permitted, for each pin that does not hold; return used entries.

    Missing nodes are no matter of pins.
    """
    used: set[str] = set()
    for node, pin in _pinned(graph):
        found = literal(graph, node, pin.name) if pin.name in node.inputs else "nothing"
        if pin.name in node.inputs and pin.holds(found):
            continue
        what = shown(found) if pin.name in node.inputs else "nothing"
        text = f"{node.label}, input {pin.name}: found {what}, wanted {pin.wanted}"
        entry = None if pin.firm else deviations.permit(node, pin.name)
        if entry is None:
            problems.append(f"{text} ({pin.why}).")
        else:
            used.add(entry)
            notes.append(f"Deviation permitted: {text}.")
    return used


def check_needed_links(graph: Graph, problems: list[str]) -> None:
    """Add a problem for each link without which no right video comes out."""
    for kind, name in NEEDED_LINKS:
        for node in graph.values():
            if node.kind == kind and node.link(name) is None and not _cached_prompt(node, name):
                problems.append(f"{node.label}, input {name}: wanted a link, found none.")


def check_block_swap(graph: Graph, problems: list[str]) -> None:
    """Add a problem for a block count that the 40 blocks of the model do not have."""
    for node in graph.values():
        value = literal(graph, node, "blocks_to_swap")
        if node.kind == BLOCK_SWAP and is_number(value) and not _between(0, 40)(value):
            problems.append(
                f"{node.label}, input blocks_to_swap: found {shown(value)}; the model has 40 "
                f"blocks, and ComfyUI refuses more than 48 (also the 60 of the guide's table)."
            )


def _pinned(graph: Graph) -> Iterable[tuple[Node, Pin]]:
    by_kind: Mapping[str, list[Pin]] = {
        kind: [pin for pin in PINS if pin.kind == kind] for kind in {pin.kind for pin in PINS}
    }
    return ((node, pin) for node in graph.values() for pin in by_kind.get(node.kind, ()))


def _cached_prompt(node: Node, name: str) -> bool:
    return name == "t5" and node.inputs.get("use_disk_cache") is True
