"""Finds the inputs of a template that the worker sets for each job."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping
from typing import NamedTuple

from worker.workflow.graph import Graph, Node
from worker.workflow.inputs import INPUTS
from worker.workflow.names import CONSTANTS, RESIZERS, SAMPLER
from worker.workflow.treatment import PerJob

_SIZES = {
    ("GetImageSize", 0): "width",
    ("GetImageSize", 1): "height",
    ("ImageResizeKJv2", 1): "width",
    ("ImageResizeKJv2", 2): "height",
}
_FILE_NAMES = ("model", "lora")
_PROMPTS = (("prompt", "positive_prompt"), ("negative_prompt", "negative_prompt"))
# The endpoint's handler writes the request's size into constants with exactly these titles.
_TITLES = {"Width": "width", "Height": "height"}


class Slot(NamedTuple):
    """One input that the worker sets, and what it means: width, frames, seed and so on."""

    meaning: str
    node: str
    input: str


def find_slots(
    graph: Graph, main: Mapping[str, Node], needed: Container[str]
) -> tuple[tuple[Slot, ...], list[str]]:
    """Return the slots, and a problem for each input that cannot be set.

    `main` holds the nodes that the worker works with, by class; `needed` the ids of the nodes that
    the video depends on.
    """
    found = list(_search(graph, main, needed))
    slots = {slot for slot in found if isinstance(slot, Slot)}
    problems = [problem for problem in found if isinstance(problem, str)]
    return tuple(sorted(slots)), [*problems, *_constant_problems(graph, slots)]


def _search(graph: Graph, main: Mapping[str, Node], needed: Container[str]) -> Iterator[Slot | str]:
    """Yield a slot, or the problem with it, for each input that a job sets."""
    for node in graph.values():
        for name, treatment in INPUTS.get(node.kind, {}).items():
            if isinstance(treatment, PerJob) and name in node.inputs and node.id in needed:
                yield from _follow(graph, node, name, treatment)
    yield from _unknown_encoder(graph, main[SAMPLER])


def _follow(graph: Graph, node: Node, name: str, treatment: PerJob) -> Iterator[Slot | str]:
    """Find where the value of an input is set: here, in a constant, or where a size is read."""
    link, meaning = node.link(name), treatment.meaning
    if link is None:
        rule = treatment.template
        # A file that only a deviation permits has no tier in its name, so it stays as it is.
        if meaning not in _FILE_NAMES or rule is None or rule.holds(node.inputs[name]):
            yield Slot(meaning, node.id, name)
        return
    source = graph.get(link.node)
    if source is None:
        return
    side = _SIZES.get((source.kind, link.output))
    if source.kind in CONSTANTS:
        yield Slot(meaning, source.id, "value")
    elif side is None or meaning not in _SIZES.values():
        yield (
            f"{node.label}, input {name}: found output {link.output} of {source.label}, which the "
            f"worker cannot set, wanted a value or an INTConstant."
        )
    elif side != meaning:
        yield (
            f"{node.label}, input {name}: found output {link.output} ({side}) of {source.label}, "
            f"wanted its {meaning}."
        )
    elif source.kind not in RESIZERS and not _scaled(graph, source):
        yield (
            f"{source.label}, input image: found an image that no node scales, so the worker "
            f"cannot set the size, wanted the output of an ImageScale."
        )


def _scaled(graph: Graph, node: Node) -> bool:
    image = node.link("image")
    source = graph.get(image.node) if image else None
    return source is not None and source.kind in RESIZERS


def _unknown_encoder(graph: Graph, sampler: Node) -> Iterator[Slot | str]:
    """Find the texts of an encoder that has no contract here."""
    link = sampler.link("text_embeds")
    encoder = graph.get(link.node) if link else None
    if encoder is None or encoder.kind in INPUTS:
        return
    for meaning, name in _PROMPTS:
        if isinstance(encoder.inputs.get(name), str):
            yield Slot(meaning, encoder.id, name)
        else:
            yield f"{encoder.label}, input {name}: wanted text."


def _constant_problems(graph: Graph, slots: Collection[Slot]) -> Iterator[str]:
    """Yield a problem for each constant that a job sets for one input and that feeds another."""
    for node in graph.values():
        for name in node.inputs:
            link = node.link(name)
            source = graph.get(link.node) if link else None
            treatment = INPUTS.get(node.kind, {}).get(name)
            if source is None or source.kind not in CONSTANTS or treatment is None:
                continue
            own = treatment.meaning if isinstance(treatment, PerJob) else None
            for meaning in _meanings(source, slots):
                if meaning != own:
                    yield (
                        f"{node.label}, input {name}: found {source.label}, which each job sets to "
                        f"its {meaning}, wanted a constant of its own."
                    )


def _meanings(constant: Node, slots: Collection[Slot]) -> list[str]:
    """Return what is written into a constant: for its slots, or because of its title."""
    titled = _TITLES.get(constant.title) if isinstance(constant.title, str) else None
    written = {slot.meaning for slot in slots if slot.node == constant.id}
    return sorted(written | ({titled} if titled and constant.kind == "INTConstant" else set()))
