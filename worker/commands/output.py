"""Output of the commands: JSON, lines that are never wrapped, errors, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from worker.jobs.errors import (
    JobFailed,
    ProblemsFound,
    StoreRefused,
    StoreUnavailable,
    WorkerError,
)
from worker.jobs.text import visible

FAILED = 1
REFUSED = 2
_DECIMAL = re.compile(r"[+-]?(?:\d{1,60}\.?\d{0,60}|\.\d{1,60})(?:[eE][+-]?\d{1,2})?", re.ASCII)

JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON.")]


def print_json(
    value: Mapping[str, object] | Sequence[Mapping[str, object]], *, line: bool = False
) -> None:
    """Print one JSON document; with `line` on a single line."""
    typer.echo(json.dumps(value, indent=None if line else 2))


class NoSuchFile(WorkerError):
    """A file named on the command line cannot be read."""

    code = "no_such_file"


REFUSALS = (JobFailed, NoSuchFile, ProblemsFound, StoreRefused)


def local_file(given: str) -> Path:
    """Return the path of a readable file; raise NoSuchFile otherwise."""
    path = Path(given)
    try:
        if path.is_dir():
            raise NoSuchFile(f"{given} is a folder, not a file.")
        with path.open("rb"):
            return path
    except OSError as error:
        if isinstance(error, FileNotFoundError) and "://" in given:
            raise NoSuchFile(
                f"{given} is neither a file nor an https:// or storage:// URL."
            ) from error
        reason = (error.strerror or type(error).__name__).lower()
        reason = "no such file" if isinstance(error, FileNotFoundError) else reason
        raise NoSuchFile(f"{given}: {reason}.") from error


def print_lines(lines: Sequence[Text | str]) -> None:
    """Print lines without wrapping, so that long values can be copied."""
    console = Console(highlight=False, markup=False, emoji=False)
    for line in lines:
        console.print(line if isinstance(line, Text) else visible(line), soft_wrap=True)


@contextmanager
def refusals(as_json: bool) -> Iterator[None]:
    """Turn our errors into output and an exit code: 2 for a refusal, otherwise 1."""
    try:
        yield
    except WorkerError as error:
        if as_json:
            answer: dict[str, object] = {"error_code": error.code, "error_message": error.message}
            if isinstance(error, ProblemsFound):
                answer["problems"] = error.problems
            print_json(answer)
        else:
            _print_error(error)
        raise typer.Exit(REFUSED if isinstance(error, REFUSALS) else FAILED) from error


def _print_error(error: WorkerError) -> None:
    if isinstance(error, ProblemsFound) and len(error.problems) > 1:
        problems = [visible(problem) for problem in error.problems]
        typer.echo("\n  ".join([f"{error.code}:", *problems]), err=True)
        return
    typer.echo(f"{error.code}: {visible(error.message)}", err=True)
    if isinstance(error, StoreUnavailable):
        typer.echo("Run `python -m worker doctor --only supabase` to find the cause.", err=True)


def exact_seconds(text: str) -> Fraction:
    """Parse seconds as an exact decimal."""
    if not _DECIMAL.fullmatch(text.strip()):
        raise typer.BadParameter(f"{text[:40]!r} is not a decimal number of seconds, such as 20.52")
    return Fraction(Decimal(text.strip()))
