"""A ComfyUI graph in API format, and whether it keeps the node contracts."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from worker.workflow.contracts import NODES

_CONSTANTS = frozenset({"INTConstant", "PrimitiveFloat"})


class Link(NamedTuple):
    """Where an input comes from: a node's id and the number of its output."""

    node: str
    output: int


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the graph."""

    id: str
    kind: str
    inputs: Mapping[str, object]

    def link(self, name: str) -> Link | None:
        """Return where the input comes from; None if it holds a value or nothing."""
        return as_link(self.inputs.get(name))

    @property
    def label(self) -> str:
        """How messages name the node."""
        return f"node {self.id} ({self.kind})"


Graph = Mapping[str, Node]


def as_link(value: object) -> Link | None:
    """Return the value as a link if it has a link's form."""
    if isinstance(value, list) and len(value) == 2:
        node, output = value
        if isinstance(node, str) and isinstance(output, int) and not isinstance(output, bool):
            return Link(node, output)
    return None


def literal(graph: Graph, node: Node, name: str) -> object:
    """Return an input's value, through constant nodes if it is linked to one; else the link."""
    link = node.link(name)
    source = graph.get(link.node) if link else None
    if source is not None and source.kind in _CONSTANTS:
        return source.inputs.get("value")
    return node.inputs.get(name)


def nodes_of(raw: Mapping[str, object], problems: list[str]) -> dict[str, Node]:
    """Return the nodes that have a node's form, and add a problem for each that has not."""
    if not raw:
        problems.append("The workflow holds no nodes.")
    nodes: dict[str, Node] = {}
    for key, value in raw.items():
        kind = value.get("class_type") if isinstance(value, dict) else None
        inputs = value.get("inputs") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind and isinstance(inputs, dict):
            nodes[key] = Node(key, kind, inputs)
        else:
            problems.append(
                f"{key[:60]!r} is not a node: it needs class_type (text) and inputs (an object)."
            )
    return nodes


def check_contracts(graph: Graph, foreign: Container[str], problems: list[str]) -> None:
    """Add a problem for every input that a node's contract does not allow."""
    for node in graph.values():
        contract = NODES.get(node.kind)
        if contract is None:
            if node.kind not in foreign:
                problems.append(
                    f"{node.label} is of a class that this service does not know; if the "
                    f"endpoint has it, list the deviation class:{node.kind}."
                )
            continue
        for name in contract.needs:
            if name not in node.inputs:
                problems.append(f"{node.label} lacks the input {name}.")
        known = {**contract.needs, **contract.takes}
        for name, wanted in known.items():
            if name in node.inputs:
                found = _input_problem(graph, node, name, wanted)
                if found:
                    problems.append(f"{node.label}, input {name}: {found}.")
        for name in node.inputs:
            if name not in known and as_link(node.inputs[name]) is not None:
                problems.append(f"{node.label} has no input {name} to link to.")


def check_cycles(graph: Graph, problems: list[str]) -> None:
    """Add a problem if links run in a circle."""
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
                problems.append(f"The links run in a circle through {graph[following].label}.")
                return
            else:
                on_path.add(following)
                path.append((following, iter(_sources(graph, following))))


def upstream(graph: Graph, start: str) -> set[str]:
    """Return the ids of every node that `start` needs, itself included."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(_sources(graph, current))
    return found


def shown(value: object) -> str:
    """Write a found value for a message, shortened."""
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


def _input_problem(graph: Graph, node: Node, name: str, wanted: str) -> str | None:
    value = node.inputs[name]
    head = wanted.partition(" ")[0]
    kinds = head.split(",")
    link = as_link(value)
    if link is not None:
        return _link_problem(graph, link, kinds)
    check = _LITERALS.get("CHOICE" if "|" in head else kinds[0])
    if check is None:
        return f"wanted a link ({head}), found {shown(value)}"
    if not check(value, wanted):
        return f"wanted {wanted}, found {shown(value)}"
    return None


def _link_problem(graph: Graph, link: Link, kinds: list[str]) -> str | None:
    source = graph.get(link.node)
    if source is None:
        return f"linked to node {link.node[:40]}, which does not exist"
    contract = NODES.get(source.kind)
    if contract is None:
        return None
    if not 0 <= link.output < len(contract.gives):
        return f"{source.label} has no output {link.output}"
    given = contract.gives[link.output]
    if given not in kinds:
        return f"wanted {' or '.join(kinds)}, but output {link.output} of {source.label} is {given}"
    return None


def is_number(value: object) -> bool:
    """Whether the value is a JSON number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _within(value: object, wanted: str) -> bool:
    low, _, high = wanted.partition(" ")[2].partition("..")
    if not isinstance(value, int | float):
        return False
    return (not low or value >= float(low)) and (not high or value <= float(high))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_LITERALS: dict[str, Callable[[object, str], bool]] = {
    "FILE": lambda value, _: isinstance(value, str) and bool(value),
    "STRING": lambda value, _: isinstance(value, str),
    "BOOLEAN": lambda value, _: isinstance(value, bool),
    "INT": lambda value, wanted: _is_whole(value) and _within(value, wanted),
    "FLOAT": lambda value, wanted: is_number(value) and _within(value, wanted),
    "CHOICE": lambda value, wanted: isinstance(value, str) and value in wanted.split("|"),
}
