"""Every small change of a graph: of each value, link and node, and what was changed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.workflow.templates import Graph, shipped
from worker.runtime.data_files import node_contracts

CONTRACTS = node_contracts()
GONE = object()
NUMBERS = (0, 1, 2, 3, 7, 39, 64, 1000, -1, -2, 10**7)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A changed graph; `input` is empty if a whole node was changed."""

    node: str
    input: str
    graph: Graph
    change: str


def changed(node: str, name: str, value: object) -> Mutation:
    """The shipped graph with another value in one input, or without the input."""
    graph = shipped()
    if value is GONE:
        del graph[node]["inputs"][name]
    else:
        graph[node]["inputs"][name] = value
    return Mutation(node, name, graph, "left out" if value is GONE else repr(value))


def of_every_input() -> Iterator[Mutation]:
    """Other values of the same type and of other types, every other link, and its absence."""
    for key, node in shipped().items():
        for name, value in node["inputs"].items():
            for other in (*_others(node["class_type"], name, value), None, [], {"a": 1}, GONE):
                if other != value or type(other) is not type(value):
                    yield changed(key, name, other)


def of_absent_inputs() -> Iterator[Mutation]:
    """Every optional input that the graph does not use, and one that no node has."""
    for key, node in shipped().items():
        for name, contract in CONTRACTS[node["class_type"]].inputs.items():
            if name not in node["inputs"]:
                for other in (*contract.choices, *NUMBERS, True, False, "other", *_links()):
                    yield changed(key, name, other)
        yield changed(key, "surprise", 1)
        yield changed(key, "surprise", ["5", 0])


def of_every_node() -> Iterator[Mutation]:
    """Each node removed, removed with its links, and bypassed as the editor does it."""
    for key in shipped():
        gone = shipped()
        del gone[key]
        yield Mutation(key, "", gone, "removed")
        yield Mutation(key, "", _rewired(key, {}), "removed with its links")
        node = shipped()[key]
        contract = CONTRACTS[node["class_type"]]
        through: dict[int, Any] = {}
        for output, kind in enumerate(contract.outputs):
            for name, value in node["inputs"].items():
                if isinstance(value, list) and kind in contract.inputs[name].types:
                    through.setdefault(output, value)
        yield Mutation(key, "", _rewired(key, through), "bypassed")


def with_duplicates() -> Iterator[tuple[str, Graph]]:
    """Each node copied: idle, and taking over one link of the original's."""
    for key, node in shipped().items():
        idle = shipped()
        idle["90"] = node
        yield key, idle
        for consumer, other in shipped().items():
            for name, value in other["inputs"].items():
                if isinstance(value, list) and value[0] == key:
                    graph = shipped()
                    graph["90"] = node
                    graph[consumer]["inputs"][name] = ["90", value[1]]
                    yield key, graph


def _others(kind: str, name: str, value: object) -> Iterator[object]:
    yield from CONTRACTS[kind].inputs[name].choices
    yield from _links()
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value / 2, 2 * value + 3, *NUMBERS, True, str(value))
    elif isinstance(value, str):
        yield from ("", "other", value + "x", value.upper(), f"folder/{value}", 5, True)
    else:
        yield from (*NUMBERS, True, "other")


def _links() -> Iterator[list[object]]:
    """Links to every output of every node, to outputs that do not exist, and to no node."""
    for key, node in shipped().items():
        for output in range(-1, len(CONTRACTS[node["class_type"]].outputs) + 1):
            yield [key, output]
    yield ["99", 0]


def _rewired(key: str, through: dict[int, Any]) -> Graph:
    """The graph without a node; what was linked to its outputs is linked through, or not at all."""
    graph = shipped()
    del graph[key]
    for node in graph.values():
        for name, value in list(node["inputs"].items()):
            if isinstance(value, list) and value[0] == key:
                del node["inputs"][name]
                if value[1] in through:
                    node["inputs"][name] = through[value[1]]
    return graph
