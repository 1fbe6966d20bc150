"""How commands answer: JSON and nothing else on request, refusals with their code, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import Annotated

import typer

from worker.core.errors import JobFailed, ProblemsFound, WorkerError

FAILED = 1
REFUSED = 2
_DECIMAL = re.compile(r"[+-]?(?:\d{1,60}\.?\d{0,60}|\.\d{1,60})(?:[eE][+-]?\d{1,2})?", re.ASCII)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def print_json(
    value: Mapping[str, object] | Sequence[Mapping[str, object]], *, line: bool = False
) -> None:
    """Print one JSON document, never wrapped; with `line` on one line."""
    typer.echo(json.dumps(value, indent=None if line else 2))


@contextmanager
def refusals(as_json: bool) -> Iterator[None]:
    """Turn our errors into an answer and an exit code: 2 for what is refused, else 1."""
    try:
        yield
    except WorkerError as error:
        answer: dict[str, object] = {"error_code": error.code, "error_message": error.message}
        if isinstance(error, ProblemsFound):
            answer["problems"] = error.problems
        if as_json:
            print_json(answer)
        else:
            typer.echo(f"{error.code}: {error.message}", err=True)
        refused = isinstance(error, JobFailed | ProblemsFound)
        raise typer.Exit(REFUSED if refused else FAILED) from error


def exact_seconds(text: str) -> Fraction:
    """Read seconds as the exact decimal that was written."""
    if not _DECIMAL.fullmatch(text.strip()):
        raise typer.BadParameter(f"{text[:40]!r} is not a decimal number of seconds, such as 20.52")
    return Fraction(Decimal(text.strip()))
