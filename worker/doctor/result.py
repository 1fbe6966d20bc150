"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a check found; `fix` says what to do, empty when there is nothing to do.

    `waits_for`: the check or setting that must be fixed before this check can be made.
    """

    name: str
    level: Level
    message: str
    fix: str = ""
    waits_for: str = ""

    @property
    def skipped(self) -> bool:
        """Whether the check was not made."""
        return bool(self.waits_for)

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


def skipped(name: str, first: str) -> Result:
    """Return the result of a check that was not made: `first` must be fixed before."""
    return Result(
        name=name, level="warn", message="Not checked.", fix=f"Fix {first} first.", waits_for=first
    )
