"""One finding of a check, and how findings are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a check found; `mend` is the sentence that says what to do, empty when all is well."""

    name: str
    level: Level
    message: str
    mend: str = ""

    def as_json(self) -> dict[str, str]:
        """The form that --json prints."""
        return {
            "name": self.name,
            "level": self.level,
            "message": self.message,
            "mend": self.mend,
        }


def ok(name: str, message: str) -> Result:
    """All is well."""
    return Result(name=name, level="ok", message=message)


def warn(name: str, message: str, mend: str = "") -> Result:
    """It works, but not as well as it could."""
    return Result(name=name, level="warn", message=message, mend=mend)


def fail(name: str, message: str, mend: str) -> Result:
    """Jobs will not get through, or not safely."""
    return Result(name=name, level="fail", message=message, mend=mend)
