"""The promises of the project's front door: its commands, its size, its shape."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import worker
from tests.conftest import OURS
from tests.packaging.conftest import ROOT
from worker.settings import Settings

TARGETS = ["setup", "demo", "test", "check", "audit", "bench", "schema", "e2e", "chaos", "docker"]
TARGETS += ["docs", "lock", "help", "alerts", "attack", "fuzz"]
SUBJECTS = ("jobs", "plan", "workflow")
PURE = [
    *(file for name in SUBJECTS for file in sorted((ROOT / "worker" / name).rglob("*.py"))),
    ROOT / "worker" / "ports.py",
]
WORLDLY = {"asyncio", "io", "logging", "os", "pathlib", "random", "secrets", "shutil", "signal"}
WORLDLY |= {"socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "uuid"}


def test_the_readme_stays_short() -> None:
    """Everything longer has its place in docs/."""
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_every_target_is_there_and_says_what_it_does() -> None:
    """`make` alone lists them."""
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^  make (\S+) +\S", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(TARGETS)


def test_demo_passes_the_user_s_own_files() -> None:
    """Names with spaces too."""
    command = ["make", "--dry-run", "demo", "IMAGE=my face.png", "AUDIO=a.mp3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'devstack demo --image "my face.png" --audio "a.mp3"' in done.stdout


def test_continuous_integration_runs_what_a_developer_runs() -> None:
    """`make check` and `make test`, and it can be started as it is."""
    script = ROOT / ".ci" / "run"
    commands = re.findall(r"^make .*?(\w+)$", script.read_text("utf-8"), re.MULTILINE)
    assert commands == ["check", "test"]
    assert os.access(script, os.X_OK)


def test_the_version_is_the_same_everywhere() -> None:
    """In the package and in the project's data."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["version"] == worker.__version__


def test_no_setting_of_the_machine_reaches_a_test() -> None:
    """conftest.py clears every name that the worker reads."""
    names = [name.upper() for name in Settings.model_fields]
    assert [name for name in names if not OURS.fullmatch(name)] == []


@pytest.mark.parametrize("file", PURE, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_pure_subject_is_pure(file: Path) -> None:
    """Only the standard library, and of it nothing that touches the world outside."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    inside = tuple(f"worker.{name}" for name in SUBJECTS)
    roots = {name.split(".")[0] for name in names if not name.startswith(inside)}
    assert roots <= set(sys.stdlib_module_names) - WORLDLY
