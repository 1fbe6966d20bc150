"""Reads a workflow file: strict JSON, and the graph in it, which may be inside a request."""

from __future__ import annotations

import json
from math import isfinite

from worker.jobs.errors import WorkflowInvalid
from worker.jobs.text import storable

_MAX_DEPTH = 12
_EXPORT_ADVICE = (
    'In ComfyUI use "Workflow > Export (API)" (older versions: "Save (API Format)", after '
    "enabling dev mode) and use that file."
)


def read_graph(data: bytes | str) -> dict[str, object]:
    """Return the raw graph of a template file; raise WorkflowInvalid if it has none."""
    document = _parse(data)
    if not isinstance(document, dict):
        raise WorkflowInvalid(["The workflow is not a JSON object of nodes."])
    wrapped = document.get("input")
    inner = wrapped.get("workflow") if isinstance(wrapped, dict) else document.get("prompt")
    graph = inner if isinstance(inner, dict) and "class_type" not in inner else document
    if isinstance(graph.get("nodes"), list):
        raise WorkflowInvalid(
            [f"The workflow is in the format of ComfyUI's editor. {_EXPORT_ADVICE}"]
        )
    return graph


def _parse(data: bytes | str) -> object:
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data.removeprefix("\ufeff")
        found = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique
        )
        _check_depth(found)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeError:
        raise WorkflowInvalid(["The workflow is not UTF-8 text."]) from None
    except RecursionError:
        raise WorkflowInvalid(["The workflow is nested too deeply."]) from None
    except ValueError as error:
        raise WorkflowInvalid(
            [f"The workflow is not valid JSON: {storable(str(error))}."]
        ) from None
    return found


def _check_depth(document: object) -> None:
    waiting = [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise RecursionError
        if isinstance(value, dict | list):
            parts = value.values() if isinstance(value, dict) else value
            waiting.extend((part, depth + 1) for part in parts)


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text[:40]} is too large")
    return number


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} appears twice")
    return found
