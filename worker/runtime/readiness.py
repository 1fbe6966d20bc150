"""What stands in the way right now: each part reports its problem here, /readyz reads it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["degraded", "down"]
Status = Literal["ok", "degraded", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One reason for people; `down` means that jobs cannot move."""

    severity: Severity
    reason: str


class Readiness:
    """Problems by the name of the part that reported them."""

    def __init__(self) -> None:
        self._problems: dict[str, Problem] = {}

    def report(self, part: str, reason: str, *, severity: Severity = "degraded") -> bool:
        """Report a problem; True when it is new, so that a long outage is logged once."""
        new = part not in self._problems
        self._problems[part] = Problem(severity=severity, reason=reason)
        return new

    def clear(self, part: str) -> bool:
        """Say that the part works again; True when that is new."""
        return self._problems.pop(part, None) is not None

    def show(self, part: str, reason: str | None) -> None:
        """Report a degraded part, or clear it where there is no reason."""
        if reason is None:
            self.clear(part)
        else:
            self.report(part, reason)

    @property
    def status(self) -> Status:
        """The worst of all."""
        severities = {problem.severity for problem in self._problems.values()}
        return "down" if "down" in severities else "degraded" if severities else "ok"

    @property
    def reasons(self) -> list[str]:
        """One sentence per problem."""
        return [f"{part}: {problem.reason}" for part, problem in sorted(self._problems.items())]
