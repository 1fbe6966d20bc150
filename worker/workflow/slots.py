"""Finds the inputs of a template that the worker sets for each job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from worker.workflow.graph import Graph, Node
from worker.workflow.pins import EMBEDS, I2V, LORA, LORA_NAME, MODEL, MODEL_NAME, SAMPLER, VIDEO

RESIZERS = frozenset({"ImageScale", "ImageResizeKJv2"})
_CONSTANT = "INTConstant"
_SIDES = ("width", "height")


class Slot(NamedTuple):
    """One input that the worker sets, and what it means: width, frames, seed and so on."""

    meaning: str
    node: str
    input: str


def find_slots(graph: Graph, main: Mapping[str, Node]) -> tuple[tuple[Slot, ...], list[str]]:
    """Return the slots, and a problem for each input that cannot be set.

    `main` holds the nodes that the worker works with, by class.
    """
    found = list(_search(graph, main))
    slots = {slot for slot in found if isinstance(slot, Slot)}
    return tuple(sorted(slots)), [problem for problem in found if isinstance(problem, str)]


def _search(graph: Graph, main: Mapping[str, Node]) -> Iterator[Slot | str]:
    """Yield a slot, or the problem with it, for each input that a job sets."""
    for side in _SIDES:
        yield from _follow(graph, main[I2V], side, side)
        yield from _image_size(graph, main[I2V], side)
    yield from _follow(graph, main[EMBEDS], "num_frames", "frames")
    yield from _follow(graph, main[SAMPLER], "steps", "steps")
    yield from _follow(graph, main[SAMPLER], "seed", "seed")
    yield from _prompts(graph, main[SAMPLER])
    yield Slot("crf", main[VIDEO].id, "crf")
    for meaning, kind, pattern in (("model", MODEL, MODEL_NAME), ("lora", LORA, LORA_NAME)):
        name = main[kind].inputs.get(meaning)
        if isinstance(name, str) and pattern.fullmatch(name):
            yield Slot(meaning, main[kind].id, meaning)
    for node in graph.values():
        if node.kind == "AudioCrop":
            yield Slot("crop_end", node.id, "end_time")
        if node.kind == "TrimAudioDuration":
            yield Slot("trim_seconds", node.id, "duration")


def _follow(
    graph: Graph, node: Node, name: str, meaning: str, seen: frozenset[str] = frozenset()
) -> Iterator[Slot | str]:
    """Find where the value of an input is set: here, in a constant, or where a size is read.

    `seen` holds the nodes on the way here: a cycle is reported elsewhere.
    """
    link = node.link(name)
    if link is None:
        yield Slot(meaning, node.id, name)
        return
    source = graph.get(link.node)
    if source is None or source.id in seen:
        return
    seen = seen | {source.id}
    if source.kind == _CONSTANT:
        yield Slot(meaning, source.id, "value")
    elif source.kind == "GetImageSize" and meaning in _SIDES:
        image = source.link("image")
        scaler = graph.get(image.node) if image else None
        if scaler is not None and scaler.kind in RESIZERS:
            yield from _follow(graph, scaler, meaning, meaning, seen | {scaler.id})
        else:
            yield (
                f"{source.label} reads the size of an image that no node scales, so the worker "
                f"cannot set the size; put an ImageScale before it."
            )
    elif source.kind in RESIZERS and meaning in _SIDES:
        yield from _follow(graph, source, meaning, meaning, seen)
    else:
        yield (
            f"{node.label}, input {name}: linked to {source.label}, so the worker cannot set it; "
            f"use a number or an INTConstant."
        )


def _image_size(graph: Graph, node: Node, side: str) -> Iterator[Slot | str]:
    """Find the size in the scaler of the start image, which must scale to the same size."""
    seen: frozenset[str] = frozenset()
    link = node.link("start_image")
    while link is not None and link.node not in seen:
        seen = seen | {link.node}
        source = graph.get(link.node)
        if source is None:
            return
        if source.kind in RESIZERS:
            yield from _follow(graph, source, side, side, seen)
            return
        link = source.link("image")


def _prompts(graph: Graph, sampler: Node) -> Iterator[Slot | str]:
    """Find the texts behind the sampler's text embeddings."""
    link = sampler.link("text_embeds")
    encoder = graph.get(link.node) if link else None
    if encoder is None:
        return
    for meaning, name in (
        ("prompt", "positive_prompt"),
        ("negative_prompt", "negative_prompt"),
    ):
        if isinstance(encoder.inputs.get(name), str):
            yield Slot(meaning, encoder.id, name)
        else:
            yield f"{encoder.label}, input {name}: wanted text."
