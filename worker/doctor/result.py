"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a check found; `fix` says what to do, empty when there is nothing to do."""

    name: str
    level: Level
    message: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the form that --json prints; programs read its keys, so they stay as they are."""
        return {
            "name": self.name,
            "level": self.level,
            "message": self.message,
            "fix": self.fix,
        }


def ok(name: str, message: str) -> Result:
    """Return a result that needs no action."""
    return Result(name=name, level="ok", message=message)


def warn(name: str, message: str, fix: str = "") -> Result:
    """Return a result for what works, but not as well as it could."""
    return Result(name=name, level="warn", message=message, fix=fix)


def fail(name: str, message: str, fix: str) -> Result:
    """Return a result for what stops jobs, or makes them unsafe."""
    return Result(name=name, level="fail", message=message, fix=fix)
