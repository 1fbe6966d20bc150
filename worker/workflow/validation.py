"""Refuses a workflow template that would waste a GPU: checked once at start, before any claim."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from worker.jobs.errors import WorkflowInvalid
from worker.plan.frames import FIRST_WINDOW, GUIDE_ADVANCE
from worker.workflow.document import read_graph
from worker.workflow.graph import (
    Graph,
    Node,
    check_contracts,
    check_cycles,
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
    Deviations,
    check_block_swap,
    check_needed_links,
    check_pins,
)
from worker.workflow.slots import RESIZERS, Slots, find_slots

_HANDLER_NODES = ("LoadImage", "LoadAudio", VIDEO)
_MAIN_NODES = (I2V, SAMPLER, EMBEDS, MODEL, LORA)
_OTHER_OUTPUTS = re.compile(r"(?:Preview|Save)[A-Z].*")
_SOUND_SOURCES = frozenset({EMBEDS, "TrimAudioDuration", "AudioCrop", "AudioSeparation"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A workflow that may be used; `graph` is shared: copy it before changing anything.

    `advance`: frames from one window to the next. `nodes`: the id of each node that the worker
    works with, by class. `notes`: what an operator should know, logged once at start.
    """

    graph: Mapping[str, object]
    sha256: str
    advance: int
    nodes: Mapping[str, str]
    slots: Slots
    notes: tuple[str, ...] = ()
    deviations: tuple[str, ...] = field(default=())


def load_template(
    data: bytes | str,
    *,
    deviations: Iterable[str] = (),
    node_ids: Mapping[str, str] | None = None,
) -> Template:
    """Check a template file; WorkflowInvalid lists every problem.

    `deviations` names pinned inputs that may differ ("Class.input" or "id.input") and node
    classes that the contracts do not know ("class:Name"); `node_ids` says which node of a class
    is meant where there are several.
    """
    problems: list[str] = []
    notes: list[str] = []
    raw = read_graph(data)
    graph = nodes_of(raw, problems)
    allowed = Deviations(frozenset(item.strip() for item in deviations if item.strip()))
    check_contracts(graph, allowed.foreign, problems)
    check_cycles(graph, problems)
    only = _main_nodes(graph, node_ids or {}, problems)
    _check_outputs(graph, problems)
    _check_sound(graph, allowed, problems)
    used = check_pins(graph, allowed, problems, notes)
    check_block_swap(graph, problems)
    check_needed_links(graph, problems)
    _check_audio_crop(graph, problems)
    if len(only) < len(_HANDLER_NODES) + len(_MAIN_NODES):
        raise WorkflowInvalid(problems)
    _check_reach(graph, only, problems, notes)
    slots = find_slots(graph, only, problems)
    advance = _advance(graph, only[I2V], problems)
    if problems:
        raise WorkflowInvalid(problems)
    notes.extend(_notes(graph, advance, allowed, used))
    return Template(
        graph=raw,
        sha256=_digest(raw),
        advance=advance,
        nodes={kind: node.id for kind, node in only.items()},
        slots=slots,
        notes=tuple(notes),
        deviations=tuple(sorted(allowed.listed)),
    )


def _main_nodes(graph: Graph, node_ids: Mapping[str, str], problems: list[str]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for kind in (*_HANDLER_NODES, *_MAIN_NODES):
        nodes = [node for node in graph.values() if node.kind == kind]
        chosen = [node for node in nodes if node.id == node_ids.get(kind)]
        if kind in _MAIN_NODES and chosen:
            nodes = chosen
        if len(nodes) == 1:
            found[kind] = nodes[0]
            continue
        where = f" (nodes {', '.join(node.id for node in nodes)})" if nodes else ""
        reason = ": the endpoint's handler uses only the first" if kind in _HANDLER_NODES else ""
        problems.append(
            f"There must be exactly one {kind}, found {len(nodes)}{where}{reason if nodes else ''}."
        )
    return found


def _check_outputs(graph: Graph, problems: list[str]) -> None:
    for node in graph.values():
        if _OTHER_OUTPUTS.fullmatch(node.kind):
            problems.append(
                f"{node.label} is a second output: ComfyUI then runs a broken graph in part, and "
                f"the endpoint's handler stops early. Remove it."
            )


def _check_sound(graph: Graph, allowed: Deviations, problems: list[str]) -> None:
    for node in graph.values():
        link = node.link("audio") if node.kind == VIDEO else None
        source = graph.get(link.node) if link else None
        if source is None or source.kind in _SOUND_SOURCES | allowed.foreign:
            continue
        if allowed.permit(node, "audio") is None:
            problems.append(
                f"{node.label}, input audio: found a link from {source.label}, wanted the sound "
                f"of {EMBEDS} (output 1), which ends with the planned frames."
            )


def _check_audio_crop(graph: Graph, problems: list[str]) -> None:
    for node in graph.values():
        start = node.inputs.get("start_time")
        if node.kind == "AudioCrop" and isinstance(start, str) and start.strip("0:. "):
            problems.append(
                f"{node.label}, input start_time: found {start[:20]!r}, wanted 0:00 (the plan "
                f"counts from the audio's start)."
            )
        first = node.inputs.get("start_index")
        if node.kind == "TrimAudioDuration" and first not in (0, 0.0):
            problems.append(f"{node.label}, input start_index: wanted 0.")


def _check_reach(
    graph: Graph, only: Mapping[str, Node], problems: list[str], notes: list[str]
) -> None:
    needed = upstream(graph, only[VIDEO].id)
    for node in only.values():
        if node.id not in needed:
            problems.append(f"{node.label} has no part in the video: no link leads from it there.")
    heard = upstream(graph, only[EMBEDS].id)
    if only["LoadAudio"].id not in heard:
        problems.append(f"{only['LoadAudio'].label} does not reach {only[EMBEDS].label}.")
    seen = upstream(graph, only[I2V].id)
    if only["LoadImage"].id not in seen:
        problems.append(f"{only['LoadImage'].label} does not reach {only[I2V].label}.")
    idle = sorted(key for key in graph if key not in needed and graph[key] not in only.values())
    if idle:
        notes.append(f"ComfyUI will ignore nodes that the video does not need: {', '.join(idle)}.")


def _advance(graph: Graph, node: Node, problems: list[str]) -> int:
    overlap = literal(graph, node, "motion_frame")
    if isinstance(overlap, int) and not isinstance(overlap, bool) and 1 <= overlap < FIRST_WINDOW:
        return FIRST_WINDOW - overlap
    problems.append(f"{node.label}, input motion_frame: wanted a whole number from 1 to 80.")
    return GUIDE_ADVANCE


def _notes(graph: Graph, advance: int, allowed: Deviations, used: set[str]) -> Iterable[str]:
    if advance != GUIDE_ADVANCE:
        yield (
            f"The template's windows advance by {advance} frames, the guide's list of frame counts "
            f"by {GUIDE_ADVANCE}. With FRAME_ALIGNMENT=guide the GPU renders more windows than "
            f"the guide counts and pads the last one; FRAME_ALIGNMENT=template avoids that. "
            f"See docs/guide.md."
        )
    if not any(node.kind in RESIZERS for node in graph.values()):
        yield "No node scales the image; it must be prepared to the render size (MEDIA_BUCKET)."
    links = {item for item in allowed.listed if item.endswith(".audio")}
    unused = allowed.listed - used - links - {f"class:{node.kind}" for node in graph.values()}
    if unused:
        yield f"Permitted deviations that the template does not need: {', '.join(sorted(unused))}."


def _digest(raw: Mapping[str, object]) -> str:
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
