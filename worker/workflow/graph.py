"""A ComfyUI graph in API format: nodes, links, and what leads where."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from worker.workflow.contracts import is_whole
from worker.workflow.names import CONSTANTS


class Link(NamedTuple):
    """Where an input comes from: a node's id and the number of its output."""

    node: str
    output: int


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the graph; `kind` is its class, `title` its name in the editor."""

    id: str
    kind: str
    inputs: Mapping[str, object]
    title: object = None

    def link(self, name: str) -> Link | None:
        """Return where the input comes from; None if it holds a value or nothing."""
        return as_link(self.inputs.get(name))

    @property
    def label(self) -> str:
        """The node's name in messages."""
        return f"node {self.id} ({self.kind})"


Graph = Mapping[str, Node]
"""Nodes by id."""


def as_link(value: object) -> Link | None:
    """Return the value as a link if it has the form of a link."""
    if isinstance(value, list) and len(value) == 2:
        node, output = value
        if isinstance(node, str) and is_whole(output):
            return Link(node, output)
    return None


def as_node(key: str, value: object) -> Node | None:
    """Return an entry of the workflow as a node if it has the form of a node."""
    if isinstance(value, dict):
        kind, inputs = value.get("class_type"), value.get("inputs")
        if isinstance(kind, str) and kind and isinstance(inputs, dict):
            meta = value.get("_meta")
            return Node(key, kind, inputs, meta.get("title") if isinstance(meta, dict) else None)
    return None


def literal(graph: Graph, node: Node, name: str) -> object:
    """Return an input's value, read through a constant node; else the link itself."""
    link = node.link(name)
    source = graph.get(link.node) if link else None
    if source is not None and source.kind in CONSTANTS:
        return source.inputs.get("value")
    return node.inputs.get(name)


def nodes_of(raw: Mapping[str, object]) -> dict[str, Node]:
    """Return the entries that are nodes, by id."""
    nodes = {key: as_node(key, value) for key, value in raw.items()}
    return {key: node for key, node in nodes.items() if node is not None}


def form_problems(raw: Mapping[str, object]) -> Iterator[str]:
    """Yield a problem for each entry that is not a node."""
    if not raw:
        yield "The workflow holds no nodes."
    for key, value in raw.items():
        if as_node(key, value) is None:
            yield f"{key[:60]!r} is not a node: it needs class_type (text) and inputs (an object)."


def cycle_problems(graph: Graph) -> Iterator[str]:
    """Yield a problem if the links form a cycle; the first cycle found is enough."""
    done: set[str] = set()
    for start in graph:
        path: list[tuple[str, Iterator[str]]] = [(start, iter(_sources(graph, start)))]
        on_path = {start}
        while path:
            current, sources = path[-1]
            following = next((source for source in sources if source not in done), None)
            if following is None:
                done.add(current)
                on_path.discard(current)
                path.pop()
            elif following in on_path:
                node = graph[current]
                name = next(name for name in node.inputs if _leads_to(node, name, following))
                yield (
                    f"{node.label}, input {name}: found a link that closes a cycle through "
                    f"{graph[following].label}, wanted one that leads from the files to the video."
                )
                return
            else:
                on_path.add(following)
                path.append((following, iter(_sources(graph, following))))


def upstream(graph: Graph, start: str) -> set[str]:
    """Return the ids of all nodes that `start` depends on, and its own."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(_sources(graph, current))
    return found


def shown(value: object) -> str:
    """Return a value found in the workflow as short text for a message."""
    link = as_link(value)
    if link is not None:
        return f"a link from node {link.node[:40]}"
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        return "something that cannot be shown"
    return text if len(text) <= 80 else text[:79] + "…"


def _sources(graph: Graph, key: str) -> list[str]:
    links = (as_link(value) for value in graph[key].inputs.values())
    return [link.node for link in links if link is not None and link.node in graph]


def _leads_to(node: Node, name: str, source: str) -> bool:
    link = node.link(name)
    return link is not None and link.node == source
