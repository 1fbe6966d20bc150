"""Runs commands as a user would, with media files."""

import json
import math
import struct
import wave
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import typer
from PIL import Image
from typer.testing import CliRunner

from devstack.postgres import Postgres
from tests.commands.backend import Backend, running_backend
from worker.commands import plan, workflow


class Answer:
    """Output and exit code of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """Parse stdout, which must be a single JSON document."""
        return json.loads(self.out)


@pytest.fixture
def run() -> Callable[..., Answer]:
    """Return a function that runs a command."""
    app = typer.Typer(add_completion=False)
    plan.register(app)
    workflow.register(app)

    def start(*arguments: str) -> Answer:
        done = CliRunner().invoke(app, list(arguments))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Answer(done.exit_code, done.stdout, done.stderr)

    return start


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Seven seconds of a tone; the path has spaces and is longer than a terminal line."""
    folder = tmp_path / ("a long folder name " * 6).strip()
    folder.mkdir()
    path = folder / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        tone = (int(12_000 * math.sin(index / 6)) for index in range(7 * 8000))
        file.writeframes(b"".join(struct.pack("<h", value) for value in tone))
    return path


@pytest.fixture
def landscape(tmp_path: Path) -> Path:
    """A picture that is wider than high."""
    path = tmp_path / "picture.png"
    Image.new("RGB", (1600, 900), "grey").save(path)
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all local stacks of these tests; each has its own database."""
    server = Postgres()
    server.start()
    yield server
    server.remove()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Backend]:
    """A project, an endpoint and a webhook in good order, for the tests of a file."""
    async with running_backend(postgres, tmp_path_factory.mktemp("backend")) as part:
        yield part
