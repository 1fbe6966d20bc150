"""What stands in the way right now: each part notes its trouble here, /readyz reads it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["degraded", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One reason for people; `down` means that jobs cannot move."""

    severity: Severity
    reason: str


class Board:
    """Trouble by the name of the part that noted it."""

    def __init__(self) -> None:
        self._troubles: dict[str, Trouble] = {}

    def note(self, part: str, reason: str, *, severity: Severity = "degraded") -> bool:
        """Note trouble; True when it is news, so that a long outage is logged once."""
        trouble = Trouble(severity=severity, reason=reason)
        news = part not in self._troubles
        self._troubles[part] = trouble
        return news

    def clear(self, part: str) -> bool:
        """The part works again; True when that is news."""
        return self._troubles.pop(part, None) is not None

    @property
    def status(self) -> Literal["ok", "degraded", "down"]:
        """The worst of all."""
        severities = {one.severity for one in self._troubles.values()}
        return "down" if "down" in severities else "degraded" if severities else "ok"

    @property
    def reasons(self) -> list[str]:
        """One sentence per trouble."""
        return [f"{part}: {one.reason}" for part, one in sorted(self._troubles.items())]
