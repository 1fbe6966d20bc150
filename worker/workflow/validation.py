"""Refuses a workflow template that would waste GPU time: checked at start, before any claim."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from worker.jobs.errors import WorkflowInvalid
from worker.plan.frames import FIRST_WINDOW, GUIDE_ADVANCE
from worker.workflow.contracts import Contracts, is_whole
from worker.workflow.document import read_graph
from worker.workflow.graph import (
    Graph,
    Node,
    contract_problems,
    cycle_problems,
    form_problems,
    literal,
    nodes_of,
    upstream,
)
from worker.workflow.pins import (
    EMBEDS,
    I2V,
    LORA,
    MODEL,
    SAMPLER,
    VIDEO,
    BrokenPin,
    Deviations,
    block_swap_problems,
    broken_pins,
    link_problems,
)
from worker.workflow.slots import RESIZERS, Slot, find_slots

_HANDLER_NODES = ("LoadImage", "LoadAudio", VIDEO)
_MAIN_NODES = (*_HANDLER_NODES, I2V, SAMPLER, EMBEDS, MODEL, LORA)
_OTHER_OUTPUTS = re.compile(r"(?:Preview|Save)[A-Z].*")
_SOUND_SOURCES = frozenset({EMBEDS, "TrimAudioDuration", "AudioCrop", "AudioSeparation"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A workflow that may be used; `graph` is shared: copy it before changing anything.

    `sha256` is that of the graph, however the file is formatted. `advance`: frames from one
    window to the next. `nodes`: the id of each node that the worker works with, by class.
    `notes`: what an operator should know, logged once at start.
    """

    graph: Mapping[str, object]
    sha256: str
    advance: int
    nodes: Mapping[str, str]
    slots: tuple[Slot, ...]
    notes: tuple[str, ...] = ()


def load_template(
    data: bytes | str, contracts: Contracts, *, deviations: Iterable[str] = ()
) -> Template:
    """Return the checked template of a file; raise WorkflowInvalid with every problem.

    `deviations` names pinned inputs that may differ ("Class.input" or "id.input") and node
    classes that have no contract ("class:Name").
    """
    raw = read_graph(data)
    graph = nodes_of(raw)
    allowed = Deviations(frozenset(entry.strip() for entry in deviations if entry.strip()))
    broken = list(broken_pins(graph, allowed))
    not_single = list(_main_node_problems(graph))
    problems = [
        *form_problems(raw),
        *contract_problems(graph, contracts, allowed.foreign),
        *cycle_problems(graph),
        *not_single,
        *_output_problems(graph),
        *_sound_problems(graph, allowed),
        *(f"{pin.text} ({pin.why})." for pin in broken if pin.permitted_by is None),
        *block_swap_problems(graph),
        *link_problems(graph),
        *_audio_crop_problems(graph),
    ]
    if not_single:
        raise WorkflowInvalid(problems)
    by_kind = {node.kind: node for node in graph.values()}
    main = {kind: by_kind[kind] for kind in _MAIN_NODES}
    slots, not_settable = find_slots(graph, main)
    advance = _advance(graph, main[I2V])
    problems += [*_reach_problems(graph, main), *not_settable]
    if advance is None:
        problems.append(
            f"{main[I2V].label}, input motion_frame: wanted a whole number from 1 to 80."
        )
    if advance is None or problems:
        raise WorkflowInvalid(list(dict.fromkeys(problems)))
    return Template(
        graph=raw,
        sha256=_digest(raw),
        advance=advance,
        nodes={kind: node.id for kind, node in main.items()},
        slots=slots,
        notes=tuple(_notes(graph, main, advance, broken, allowed)),
    )


def _main_node_problems(graph: Graph) -> Iterator[str]:
    for kind in _MAIN_NODES:
        ids = [node.id for node in graph.values() if node.kind == kind]
        if len(ids) == 1:
            continue
        where = f" (nodes {', '.join(ids)})" if ids else ""
        why = ": the endpoint's handler uses only the first" if kind in _HANDLER_NODES else ""
        yield f"There must be exactly one {kind}, found {len(ids)}{where}{why if ids else ''}."


def _output_problems(graph: Graph) -> Iterator[str]:
    for node in graph.values():
        if _OTHER_OUTPUTS.fullmatch(node.kind):
            yield (
                f"{node.label} is a second output: ComfyUI would then run a broken graph in part, "
                f"and the endpoint's handler would stop early. Remove it."
            )


def _sound_problems(graph: Graph, allowed: Deviations) -> Iterator[str]:
    for node in graph.values():
        link = node.link("audio") if node.kind == VIDEO else None
        source = graph.get(link.node) if link else None
        if source is None or source.kind in _SOUND_SOURCES | allowed.foreign:
            continue
        if allowed.permit(node, "audio") is None:
            yield (
                f"{node.label}, input audio: found a link from {source.label}, wanted the sound "
                f"of {EMBEDS} (output 1), which ends with the planned frames."
            )


def _audio_crop_problems(graph: Graph) -> Iterator[str]:
    for node in graph.values():
        start = node.inputs.get("start_time")
        if node.kind == "AudioCrop" and isinstance(start, str) and start.strip("0:. "):
            yield (
                f"{node.label}, input start_time: found {start[:20]!r}, wanted 0:00 (the plan "
                f"counts from the start of the audio)."
            )
        if node.kind == "TrimAudioDuration" and node.inputs.get("start_index") not in (0, 0.0):
            yield f"{node.label}, input start_index: wanted 0."


def _reach_problems(graph: Graph, main: Mapping[str, Node]) -> Iterator[str]:
    needed = upstream(graph, main[VIDEO].id)
    for node in main.values():
        if node.id not in needed:
            yield f"{node.label} has no effect on the video: no link leads from it to the output."
    for source, target in ((main["LoadAudio"], main[EMBEDS]), (main["LoadImage"], main[I2V])):
        if source.id not in upstream(graph, target.id):
            yield f"{source.label} does not reach {target.label}."


def _advance(graph: Graph, node: Node) -> int | None:
    overlap = literal(graph, node, "motion_frame")
    return FIRST_WINDOW - overlap if is_whole(overlap) and 1 <= overlap < FIRST_WINDOW else None


def _notes(
    graph: Graph,
    main: Mapping[str, Node],
    advance: int,
    broken: Collection[BrokenPin],
    allowed: Deviations,
) -> Iterator[str]:
    """Yield what an operator should know about a template that passed; `broken` is permitted."""
    for pin in broken:
        yield f"Deviation permitted: {pin.text}."
    idle = sorted(graph.keys() - upstream(graph, main[VIDEO].id))
    if idle:
        yield f"ComfyUI will ignore nodes that the video does not need: {', '.join(idle)}."
    if advance != GUIDE_ADVANCE:
        yield (
            f"The template's windows advance by {advance} frames, the guide's list of frame counts "
            f"by {GUIDE_ADVANCE}. With FRAME_ALIGNMENT=guide the GPU renders more windows than "
            f"the guide counts and pads the last one; FRAME_ALIGNMENT=template avoids that. "
            f"See docs/guide.md."
        )
    if not any(node.kind in RESIZERS for node in graph.values()):
        yield "No node scales the image; it must be prepared to the render size (MEDIA_BUCKET)."
    used = {pin.permitted_by for pin in broken} | {f"class:{node.kind}" for node in graph.values()}
    unused = sorted(entry for entry in allowed.listed - used if not entry.endswith(".audio"))
    if unused:
        yield f"Permitted deviations that the template does not need: {', '.join(unused)}."


def _digest(raw: Mapping[str, object]) -> str:
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
