"""The ways in which the guard treats an input: set per job, pinned, linked, compared, or free."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from worker.workflow.contracts import is_number, is_whole

GUIDE = "the guide fixes it; other values bring blur, colour drift or poor lip-sync"
LENGTH = "the frame plan depends on it"

_SEPARATOR = re.compile(r"[/\\]")


@dataclass(frozen=True, slots=True)
class Pinned:
    """The value that an input must have: one that `holds`, called `wanted` in messages.

    `may_lack`: the node takes such a value by itself if the input is left out. `firm`: no
    deviation can be permitted. `limit`: a wider rule that holds also for a permitted deviation.
    """

    wanted: str
    holds: Callable[[object], bool]
    why: str
    may_lack: bool = False
    firm: bool = False
    limit: Pinned | None = None


@dataclass(frozen=True, slots=True)
class PerJob:
    """The worker sets the input for each job; `template` is what the file must hold even so."""

    meaning: str
    template: Pinned | None = None


class Output(NamedTuple):
    """One output of a node class: what an input may be linked to."""

    kind: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Linked:
    """The outputs that an input may be linked to: the type alone does not tell what they mean."""

    sources: tuple[Output, ...]
    why: str
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Compared:
    """The number must be above or below that of another input, or ComfyUI refuses the graph.

    The input that must be above reports for both.
    """

    other: str
    above: bool


@dataclass(frozen=True, slots=True)
class Free:
    """Any value that the node's contract accepts is good, for the reason given.

    `needed`: it must be there, because the node has no default for it.
    """

    why: str
    needed: bool = False


Treatment = PerJob | Pinned | Linked | Compared | Free


def pin(wanted: object, why: str, *, firm: bool = False, limit: Pinned | None = None) -> Pinned:
    """Return a pin to one value, which must be sent."""
    text = str(wanted).lower() if isinstance(wanted, bool) else str(wanted)
    return Pinned(text or "an empty text", _is(wanted), why, firm=firm, limit=limit)


def default(wanted: object, why: str) -> Pinned:
    """Return a pin to the value that the node takes by itself if the input is left out."""
    return replace(pin(wanted, why), may_lack=True)


def among(wanted: tuple[object, ...], why: str) -> Pinned:
    """Return a pin to one of several values."""
    *others, last = (str(value) for value in wanted)
    return Pinned(f"{', '.join(others)} or {last}", lambda found: found in wanted, why)


def between(low: int, high: int, why: str, *, firm: bool = False) -> Pinned:
    """Return a pin to a whole number from `low` to `high`."""
    return Pinned(
        f"{low} to {high}", lambda found: is_whole(found) and low <= found <= high, why, firm=firm
    )


def file(name: str, why: str) -> Pinned:
    """Return a pin to a file of that name, in whatever folder."""
    return Pinned(
        name, lambda found: isinstance(found, str) and _SEPARATOR.split(found)[-1] == name, why
    )


def matching(pattern: re.Pattern[str], wanted: str, why: str, *, firm: bool = False) -> Pinned:
    """Return a pin to a text that the whole pattern fits."""
    return Pinned(
        wanted,
        lambda found: isinstance(found, str) and pattern.fullmatch(found) is not None,
        why,
        firm=firm,
    )


def link(*sources: Output | str, why: str, needed: bool = True) -> Linked:
    """Return a rule for a link; a class name alone means its output 0."""
    outputs = (Output(source) if isinstance(source, str) else source for source in sources)
    return Linked(tuple(outputs), why, needed)


def nothing(why: str) -> Linked:
    """Return a rule for an input that stays without a link."""
    return Linked((), why, needed=False)


def _is(wanted: object) -> Callable[[object], bool]:
    if is_number(wanted):
        return lambda found: is_number(found) and found == wanted
    return lambda found: type(found) is type(wanted) and found == wanted
