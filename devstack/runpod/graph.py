"""What ComfyUI checks before it accepts a graph, and what would only fail on the GPU."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Graph = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """ComfyUI's answer to POST /prompt: the output nodes that would run, and the problems."""

    outputs: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Return whether ComfyUI accepts it: one valid output is enough, others are left out."""
        return bool(self.outputs)


@cache
def contracts() -> dict[str, Any]:
    """Return the node classes on the endpoint, in the form of ComfyUI's /object_info."""
    text = Path(__file__).with_name("object_info.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def validate(graph: Graph) -> Verdict:
    """Check a graph in API format by the rules of ComfyUI's own validation."""
    known = contracts()
    for node_id, node in graph.items():
        kind = node.get("class_type") if isinstance(node, dict) else None
        if kind is None:
            return Verdict(outputs=(), problems=(f"node {node_id}: class_type is missing",))
        if kind not in known:
            return Verdict(outputs=(), problems=(f"node {node_id}: unknown class {kind}",))
    ends = [node_id for node_id, node in graph.items() if known[node["class_type"]]["output_node"]]
    if not ends:
        return Verdict(outputs=(), problems=("prompt has no outputs",))
    found: dict[str, list[str]] = {}
    good = tuple(end for end in ends if not _branch_problems(graph, end, found, ()))
    return Verdict(outputs=good, problems=tuple(text for texts in found.values() for text in texts))


def _branch_problems(
    graph: Graph, node_id: str, found: dict[str, list[str]], path: tuple[str, ...]
) -> list[str]:
    """Return the problems of a node and of all nodes it depends on."""
    if node_id in path:
        return [f"node {node_id}: depends on itself"]
    node = graph[node_id]
    given = node.get("inputs")
    if not isinstance(given, dict):
        found[node_id] = [f"node {node_id}: has no inputs"]
        return found[node_id]
    if node_id not in found:
        found[node_id] = _node_problems(graph, node_id, given)
    problems = list(found[node_id])
    for value in given.values():
        if _is_link(value) and value[0] in graph:
            problems += _branch_problems(graph, value[0], found, (*path, node_id))
    return problems


def _node_problems(graph: Graph, node_id: str, given: dict[str, Any]) -> list[str]:
    contract = contracts()[graph[node_id]["class_type"]]
    problems = []
    for section in ("required", "optional"):
        for name, spec in contract["input"].get(section, {}).items():
            if name in given:
                problem = _value_problem(graph, contract, name, spec, given[name])
            else:
                problem = "is missing" if section == "required" else None
            if problem:
                problems.append(f"node {node_id}: input {name} {problem}")
    return problems


def _is_link(value: object) -> bool:
    return isinstance(value, list)


def _value_problem(
    graph: Graph, contract: dict[str, Any], name: str, spec: list[Any], value: Any
) -> str | None:
    if _is_link(value):
        return _link_problem(graph, contract, name, spec, value)
    wanted = spec[0]
    # A class with its own check for an input (a file must exist) skips the general checks.
    if name in contract.get("x_validate_inputs_args", ()):
        return None
    if isinstance(wanted, list):
        return None if value in wanted else f"{value!r} is not in the list {wanted}"
    if wanted in ("INT", "FLOAT"):
        return _number_problem(wanted, spec[1] if len(spec) > 1 else {}, value)
    if wanted in ("STRING", "BOOLEAN"):
        return None
    return f"must be linked to a {wanted}"


def _number_problem(wanted: str, limits: dict[str, Any], value: Any) -> str | None:
    try:
        number = int(value) if wanted == "INT" else float(value)
    except (TypeError, ValueError, OverflowError):
        return f"{value!r} is not a number"
    if "min" in limits and number < limits["min"]:
        return f"{number} is smaller than {limits['min']}"
    if "max" in limits and number > limits["max"]:
        return f"{number} is bigger than {limits['max']}"
    return None


def _link_problem(
    graph: Graph, contract: dict[str, Any], name: str, spec: list[Any], link: list[Any]
) -> str | None:
    if len(link) != 2 or not isinstance(link[0], str) or link[0] not in graph:
        return f"{link} is not a link to a node"
    outputs = contracts()[graph[link[0]]["class_type"]]["output"]
    if not isinstance(link[1], int) or not 0 <= link[1] < len(outputs):
        return f"{link} names an output that does not exist"
    own = "COMBO" if isinstance(spec[0], list) else spec[0]
    accepted = contract.get("x_link_types", {}).get(name, [own])
    if outputs[link[1]] in accepted or "*" in (outputs[link[1]], own):
        return None
    return f"is linked to a {outputs[link[1]]}, wants {own}"


def gpu_problems(graph: Graph) -> list[str]:
    """Return faults that pass validation and fail on the GPU, where production then hangs."""
    problems = []
    for node_id, node in graph.items():
        kind, given = node["class_type"], node["inputs"]
        gguf = any(str(given.get(name, "")).endswith(".gguf") for name in ("model", "lora"))
        if kind == "WanVideoModelLoader" and gguf and given.get("quantization") != "disabled":
            problems.append(f"node {node_id}: quantization must be disabled for GGUF models")
        if kind == "WanVideoLoraSelect" and given.get("merge_loras", True) is not False:
            problems.append(f"node {node_id}: merge_loras is not possible with GGUF models")
        if kind == "WanVideoVAELoader" and "precision" not in given:
            problems.append(f"node {node_id}: precision has no default")
        if kind == "WanVideoTextEncode" and "t5" not in given and not given.get("use_disk_cache"):
            problems.append(f"node {node_id}: no text encoder")
        if kind == "ImageScale":
            problems += [
                f"node {node_id}: {side} {given[side]} gives latents that do not match"
                for side in ("width", "height")
                if not _is_link(given[side]) and int(given[side]) % 16 >= 8
            ]
    return problems


def first_of(graph: Graph, kind: str) -> dict[str, Any] | None:
    """Return the inputs of the first node of a class, in the order of the graph."""
    for node in graph.values():
        if node.get("class_type") == kind:
            inputs: dict[str, Any] = node["inputs"]
            return inputs
    return None
