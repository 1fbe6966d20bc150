"""Judges a graph as ComfyUI would, from recorded /object_info files and nothing of the worker."""

import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data" / "comfyui"
FORMAT_INPUTS = {"pix_fmt", "crf", "save_metadata", "trim_to_audio"}


def object_info(state: str) -> dict[str, Any]:
    """The node contracts of one state of the node packs: nov2025 or feb2026."""
    return json.loads((DATA / f"object_info_{state}.json").read_text())


def findings(graph: dict[str, Any], info: dict[str, Any]) -> list[str]:
    """What ComfyUI, or a node at run time, would not accept."""
    found = []
    for key, node in graph.items():
        contract = info.get(node["class_type"])
        if contract is None:
            found.append(f"{key}: unknown class {node['class_type']}")
            continue
        required, optional = contract["input"]["required"], contract["input"].get("optional", {})
        found += [f"{key}.{name} is missing" for name in required if name not in node["inputs"]]
        for name, value in node["inputs"].items():
            spec = required.get(name) or optional.get(name)
            if spec is None:
                if not (node["class_type"] == "VHS_VideoCombine" and name in FORMAT_INPUTS):
                    found.append(f"{key}.{name} is not an input")
                continue
            wanted = contract.get("x_link_types", {}).get(name, [spec[0]])
            problem = value_problem(value, spec, wanted, graph, info)
            if problem:
                found.append(f"{key}.{name}: {problem}")
    return found


def value_problem(
    value: Any, spec: list[Any], wanted: list[Any], graph: dict[str, Any], info: dict[str, Any]
) -> str | None:
    """What is wrong with one value or link."""
    kind, limits = spec[0], spec[1] if len(spec) > 1 else {}
    if isinstance(value, list):
        source = graph.get(value[0])
        if source is None:
            return f"no node {value[0]}"
        given = info[source["class_type"]]["output"]
        if value[1] >= len(given) or given[value[1]] not in wanted:
            return f"wanted {wanted}, linked to {source['class_type']} {value[1]}"
        return None
    if isinstance(kind, list):
        return None if value in kind or not kind else f"{value} is not in {kind}"
    types = {"INT": (int,), "FLOAT": (int, float), "STRING": (str,), "BOOLEAN": (bool,)}
    if kind not in types:
        return f"wanted a link of {kind}"
    if not isinstance(value, types[kind]) or (kind != "BOOLEAN" and isinstance(value, bool)):
        return f"{value!r} is no {kind}"
    if kind in {"INT", "FLOAT"} and not (
        limits.get("min", value) <= value <= limits.get("max", value)
    ):
        return f"{value} is outside {limits}"
    return None
