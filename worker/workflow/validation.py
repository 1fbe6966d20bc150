"""Refuses a workflow template that would waste GPU time: checked at start, before any claim."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from worker.jobs.errors import WorkflowInvalid
from worker.plan.frames import FIRST_WINDOW, GUIDE_ADVANCE
from worker.workflow.contracts import Contracts, is_whole
from worker.workflow.document import read_graph
from worker.workflow.graph import (
    Graph,
    Node,
    cycle_problems,
    form_problems,
    literal,
    nodes_of,
    upstream,
)
from worker.workflow.guard import Deviations, Finding, Guard
from worker.workflow.names import EMBEDS, I2V, LORA, MODEL, RESIZERS, SAMPLER, VIDEO
from worker.workflow.slots import Slot, find_slots

_HANDLER_NODES = ("LoadImage", "LoadAudio", VIDEO)
_MAIN_NODES = (*_HANDLER_NODES, I2V, SAMPLER, EMBEDS, MODEL, LORA)
_OTHER_OUTPUTS = re.compile(r"(?:Preview|Save)[A-Z].*")


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

    `deviations` names inputs that may differ ("Class.input" or "id.input") and node classes that
    have no contract ("class:Name").
    """
    raw = read_graph(data)
    graph = nodes_of(raw)
    allowed = Deviations(frozenset(entry.strip() for entry in deviations if entry.strip()))
    findings = [*Guard(graph, contracts, allowed).findings(), *_uncut_sound(graph, allowed)]
    not_single = list(_main_node_problems(graph))
    problems = [
        *form_problems(raw),
        *(str(finding) for finding in findings if finding.permitted_by is None),
        *cycle_problems(graph),
        *not_single,
        *_output_problems(graph),
    ]
    if not_single:
        raise WorkflowInvalid(problems)
    by_kind = {node.kind: node for node in graph.values()}
    main = {kind: by_kind[kind] for kind in _MAIN_NODES}
    needed = upstream(graph, main[VIDEO].id)
    slots, not_settable = find_slots(graph, main, needed)
    problems += [*_reach_problems(graph, main, needed), *not_settable]
    advance = _advance(graph, main[I2V])
    if problems or advance is None:
        # Only a deviation that links the overlap to an unknown node leaves nothing else to say.
        unread = f"{main[I2V].label}, input motion_frame: wanted a whole number from 1 to 80."
        raise WorkflowInvalid(list(dict.fromkeys(problems or [unread])))
    return Template(
        graph=raw,
        sha256=_digest(raw),
        advance=advance,
        nodes={kind: node.id for kind, node in main.items()},
        slots=slots,
        notes=tuple(_notes(graph, needed, advance, findings, allowed)),
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


def _uncut_sound(graph: Graph, allowed: Deviations) -> Iterator[Finding]:
    """Yield a finding if separated voices reach the video without a cut to the planned frames.

    AudioCrop cuts only at whole seconds: up to a second too late.
    """
    for node in graph.values():
        link = node.link("audio") if node.kind == VIDEO else None
        source = graph.get(link.node) if link else None
        passed: set[str] = set()
        while source and source.kind == "AudioSeparation" and source.id not in passed:
            passed.add(source.id)
            link = source.link("audio")
            source = graph.get(link.node) if link else None
        if passed and source is not None and source.kind in ("LoadAudio", "AudioCrop"):
            yield Finding(
                f"{node.label}, input audio: found the uncut sound of {source.label}, wanted one "
                f"that ends with the planned frames, as output 1 of {EMBEDS} does",
                permitted_by=allowed.permit(node, "audio"),
            )


def _reach_problems(
    graph: Graph, main: Mapping[str, Node], needed: Container[str]
) -> Iterator[str]:
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
    needed: set[str],
    advance: int,
    permitted: Collection[Finding],
    allowed: Deviations,
) -> Iterator[str]:
    """Yield what an operator should know about a template that passed with these deviations."""
    for finding in permitted:
        yield f"Deviation permitted: {finding.text}."
    for kind in sorted(allowed.foreign & {node.kind for node in graph.values()}):
        yield f"Class permitted without a check of its inputs and of what it returns: {kind}."
    idle = sorted(graph.keys() - needed)
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
        yield (
            "No node scales the image: it must be prepared to the render size "
            "(leave PASS_ORIGINALS off)."
        )
    used = {finding.permitted_by for finding in permitted}
    unused = sorted(allowed.listed - used - {f"class:{node.kind}" for node in graph.values()})
    if unused:
        yield f"Permitted deviations that the template does not need: {', '.join(unused)}."


def _digest(raw: Mapping[str, object]) -> str:
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
