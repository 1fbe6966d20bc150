"""The wheel holds the worker and its data files, and works where there is no source tree."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import worker
from tests.packaging.conftest import ROOT, clean_python

# One worker of pytest-xdist builds and installs the wheel for all of these.
pytestmark = pytest.mark.xdist_group("wheel")
REQUEST = ["--image-url", "https://cdn.example/portrait.png"]
REQUEST += ["--audio-url", "https://cdn.example/speech.mp3", "--audio-seconds", "21"]


@pytest.fixture(scope="session")
def names(wheel: Path) -> set[str]:
    """The files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean Python with the wheel installed."""
    python = clean_python(tmp_path_factory.mktemp("installed"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, *options, str(wheel)], check=True, capture_output=True)
    return python


def run(cwd: Path, *command: str | Path) -> str:
    """What the command prints when started outside the repository."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_but_the_worker_is_in_the_wheel(names: set[str]) -> None:
    """The stand-ins, tests and samples never reach a machine that holds real keys."""
    tops = {name.split("/")[0] for name in names}
    assert tops == {"worker", f"talking_head_worker-{worker.__version__}.dist-info"}


def test_every_file_of_the_worker_is_in_the_wheel(names: set[str]) -> None:
    """No module and no data file of the package is left out by a build setting."""
    files = [file for file in (ROOT / "worker").rglob("*.*") if file.suffix != ".pyc"]
    packed = {name for name in names if name.startswith("worker/")}
    assert {str(file.relative_to(ROOT)) for file in files} == {
        name for name in packed if not name.startswith("worker/_data/")
    }


@pytest.mark.parametrize("folder", ["sql", "workflows"])
def test_the_data_files_travel_in_the_wheel(folder: str, wheel: Path) -> None:
    """They are the files of the repository, byte for byte."""
    prefix = f"worker/_data/{folder}/"
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name.removeprefix(prefix): archive.read(name)
            for name in archive.namelist()
            if name.startswith(prefix)
        }
    files = [file for file in (ROOT / folder).rglob("*") if file.is_file()]
    assert packed == {str(file.relative_to(ROOT / folder)): file.read_bytes() for file in files}
    assert packed


def test_the_installed_worker_is_the_one_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    """What the next tests start is not the source tree by accident."""
    place = run(tmp_path, installed, "-c", "import worker; print(worker.__file__)")
    assert Path(place.strip()).is_relative_to(installed.parents[1])


def test_the_installed_worker_starts(installed: Path, tmp_path: Path) -> None:
    """As a module and by its console script."""
    as_module = run(tmp_path, installed, "-m", "worker", "--help")
    as_script = run(tmp_path, installed.parent / "talking-head-worker", "--help")
    assert "migrate" in as_module
    assert "migrate" in as_script


def test_the_installed_worker_finds_its_template(installed: Path, tmp_path: Path) -> None:
    """Without any settings, from the data files inside the package."""
    answer = run(tmp_path, installed, "-m", "worker", "request", "--json", *REQUEST)
    assert json.loads(answer)["input"]["workflow"]


def test_the_worker_finds_its_template_in_the_source_tree(tmp_path: Path) -> None:
    """The same command from a checkout, wherever it is started."""
    answer = run(tmp_path, sys.executable, "-m", "worker", "request", "--json", *REQUEST)
    assert json.loads(answer)["input"]["workflow"]
