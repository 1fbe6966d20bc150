"""What the ComfyUI nodes of a template require, accept and return.

The contracts come from node_contracts.json, which has the shape of ComfyUI's `/object_info`. Its
choices and limits are those that two states of the node packs (November 2025 and February 2026)
both accept. FILE, which ComfyUI does not have, stands for the name of a file on the endpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

_LITERAL_TYPES = frozenset({"FILE", "STRING", "BOOLEAN", "INT", "FLOAT"})


@dataclass(frozen=True, slots=True, kw_only=True)
class InputContract:
    """What one input accepts: links of `types`, and a value of the first of them or a choice."""

    types: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    def accepts(self, value: object) -> bool:
        """Return whether the input may hold this value instead of a link."""
        if self.choices:
            return isinstance(value, str) and value in self.choices
        match self.types[0]:
            case "FILE":
                return isinstance(value, str) and value != ""
            case "STRING":
                return isinstance(value, str)
            case "BOOLEAN":
                return isinstance(value, bool)
            case "INT":
                return is_whole(value) and self._in_range(value)
            case "FLOAT":
                return is_number(value) and self._in_range(value)
        return False

    def _in_range(self, value: float) -> bool:
        return (self.minimum is None or value >= self.minimum) and (
            self.maximum is None or value <= self.maximum
        )

    def __str__(self) -> str:
        """What is accepted, for messages."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        types = " or ".join(self.types)
        if self.types[0] not in _LITERAL_TYPES:
            return f"a link ({types})"
        least = "" if self.minimum is None else f" from {self.minimum}"
        return types + least + ("" if self.maximum is None else f" to {self.maximum}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContract:
    """All inputs of a node class, the names of the required ones, and what it returns.

    `outputs` are types, `output_names` what the node calls them: only the name tells a width from
    a height.
    """

    inputs: Mapping[str, InputContract]
    required: tuple[str, ...]
    outputs: tuple[str, ...]
    output_names: tuple[str, ...]


Contracts = Mapping[str, NodeContract]
"""Contracts by node class."""


def read_contracts(data: bytes | str) -> Contracts:
    """Return the contracts of a JSON file in the shape of `/object_info`."""
    return {kind: _node_contract(declared) for kind, declared in json.loads(data).items()}


def _node_contract(declared: Mapping[str, Any]) -> NodeContract:
    required = declared["input"]["required"]
    optional = declared["input"].get("optional", {})
    return NodeContract(
        inputs={name: _input_contract(*spec) for name, spec in (required | optional).items()},
        required=tuple(required),
        outputs=tuple(declared["output"]),
        output_names=tuple(declared["output_name"]),
    )


def _input_contract(
    accepted: str | Sequence[str], limits: Mapping[str, float] | None = None
) -> InputContract:
    if not isinstance(accepted, str):
        return InputContract(choices=tuple(accepted))
    limits = limits or {}
    return InputContract(
        types=tuple(accepted.split(",")), minimum=limits.get("min"), maximum=limits.get("max")
    )


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether the value is a JSON number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether the value is a whole JSON number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)
