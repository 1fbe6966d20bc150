"""Finds the data files that travel with the worker: in the wheel, or in the repository's root."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from worker.workflow.contracts import Contracts, read_contracts

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "_data", _PACKAGE.parent)


def data_file(*parts: str, places: tuple[Path, ...] = _PLACES) -> Path:
    """Return the path of a data file or folder, such as ("workflows", "infinitetalk.json")."""
    for place in places:
        path = place.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"{'/'.join(parts)} is missing from this installation")


def workflow_file(chosen: str = "") -> Path:
    """Return the path of the operator's own template, or of the shipped one."""
    return Path(chosen) if chosen else data_file("workflows", "infinitetalk.json")


@cache
def node_contracts() -> Contracts:
    """Return the contracts of the ComfyUI nodes, read once from the package."""
    return read_contracts((_PACKAGE / "workflow" / "node_contracts.json").read_bytes())
