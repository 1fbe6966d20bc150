"""Finds the inputs of a template that the worker sets for each job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from worker.workflow.graph import Graph, Node
from worker.workflow.pins import EMBEDS, I2V, LORA, LORA_NAME, MODEL, MODEL_NAME, SAMPLER, VIDEO

RESIZERS = frozenset({"ImageScale", "ImageResizeKJv2"})
_CONSTANTS = frozenset({"INTConstant"})
_SIDES = ("width", "height")


class Slot(NamedTuple):
    """One input that the worker sets."""

    node: str
    input: str


@dataclass(frozen=True, slots=True)
class Slots:
    """Every input that the worker sets, by what it means; empty where the template has none."""

    found: Mapping[str, tuple[Slot, ...]] = field(default_factory=dict)

    def __getitem__(self, meaning: str) -> tuple[Slot, ...]:
        return self.found.get(meaning, ())


def find_slots(graph: Graph, only: Mapping[str, Node], problems: list[str]) -> Slots:
    """Find what a job sets, and add a problem for what cannot be set; `only`: node by class."""
    search = _Search(graph, problems)
    for side in _SIDES:
        search.follow(only[I2V], side, side, set())
        search.size_of_image(only[I2V], side)
    search.follow(only[EMBEDS], "num_frames", "frames", set())
    search.follow(only[SAMPLER], "steps", "steps", set())
    search.follow(only[SAMPLER], "seed", "seed", set())
    search.prompts(only[SAMPLER])
    search.add("filename_prefix", only[VIDEO], "filename_prefix")
    search.add("crf", only[VIDEO], "crf")
    for meaning, kind, pattern in (("model", MODEL, MODEL_NAME), ("lora", LORA, LORA_NAME)):
        name = only[kind].inputs.get(meaning)
        if isinstance(name, str) and pattern.fullmatch(name):
            search.add(meaning, only[kind], meaning)
    for node in graph.values():
        if node.kind == "AudioCrop":
            search.add("crop_end", node, "end_time")
        if node.kind == "TrimAudioDuration":
            search.add("trim_seconds", node, "duration")
    return Slots({meaning: tuple(sorted(slots)) for meaning, slots in search.found.items()})


class _Search:
    def __init__(self, graph: Graph, problems: list[str]) -> None:
        self._graph = graph
        self._problems = problems
        self.found: dict[str, set[Slot]] = {}

    def add(self, meaning: str, node: Node, name: str) -> None:
        """Note one slot."""
        self.found.setdefault(meaning, set()).add(Slot(node.id, name))

    def follow(self, node: Node, name: str, meaning: str, seen: set[str]) -> None:
        """Find the value behind an input, through constants, size readers and resizers."""
        link = node.link(name)
        if link is None:
            self.add(meaning, node, name)
            return
        source = self._graph.get(link.node)
        if source is None or source.id in seen:
            return
        seen = seen | {source.id}
        if source.kind in _CONSTANTS:
            self.add(meaning, source, "value")
        elif source.kind == "GetImageSize" and meaning in _SIDES:
            image = source.link("image")
            scaler = self._graph.get(image.node) if image else None
            if scaler is None or scaler.kind not in RESIZERS:
                self._problems.append(
                    f"{source.label} reads the size of an image that no node scales; the size "
                    f"could not be set. Put an ImageScale before it."
                )
            else:
                self.follow(scaler, meaning, meaning, seen | {scaler.id})
        elif source.kind in RESIZERS and meaning in _SIDES:
            self.follow(source, meaning, meaning, seen)
        else:
            self._problems.append(
                f"{node.label}, input {name}: linked to {source.label}, so the worker cannot set "
                f"it; use a number or an INTConstant."
            )

    def size_of_image(self, node: Node, side: str) -> None:
        """Find the scaler of the start image: it must scale to the same size."""
        seen: set[str] = set()
        link = node.link("start_image")
        while link is not None and link.node not in seen:
            seen.add(link.node)
            source = self._graph.get(link.node)
            if source is None:
                return
            if source.kind in RESIZERS:
                self.follow(source, side, side, set(seen))
                return
            link = source.link("image")

    def prompts(self, sampler: Node) -> None:
        """Find the texts behind the sampler's text embeddings."""
        link = sampler.link("text_embeds")
        encoder = self._graph.get(link.node) if link else None
        if encoder is None:
            return
        for meaning in ("prompt", "negative_prompt"):
            name = "positive_prompt" if meaning == "prompt" else meaning
            if isinstance(encoder.inputs.get(name), str):
                self.add(meaning, encoder, name)
            else:
                self._problems.append(f"{encoder.label}, input {name}: wanted text.")
