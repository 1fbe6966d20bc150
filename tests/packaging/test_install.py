"""What installs the lock files installs them as they are, and all tools have a version."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from devstack.runpod import workers
from tests.packaging.conftest import ROOT
from tests.packaging.lock import LOCKS


def commands(*targets: str) -> list[str]:
    """What `make` would run if nothing were there yet."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", *targets],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return re.split(r"\n|;|&&|\|\|", done.stdout.replace("\\\n", " "))


def installs(*targets: str) -> list[str]:
    """The pip commands among them that install."""
    found = [line for line in commands(*targets) if re.search(r" pip\b.* install ", line)]
    assert found
    return found


def test_setup_resolves_nothing() -> None:
    """Whatever came out since: the lock files are installed whole, as wheels with known hashes."""
    *locked, own = installs("setup")
    assert own.strip().endswith("install --no-build-isolation --no-deps --editable .")
    assert len(locked) == 2
    for line in locked:
        assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(line.split())
    installed = {line.split()[-1] for line in locked}
    assert installed == {"requirements-dev.lock", "requirements-endpoint.lock"}


def test_setup_checks_what_it_installed() -> None:
    """`pip check`, in both environments."""
    run = "\n".join(commands("setup"))
    assert re.search(r"\$folder/bin/python -m pip (--\S+ )*check ", run)
    assert "for folder in .venv .venv-endpoint" in run


@pytest.mark.parametrize("target", ["lock", "audit"])
def test_tools_have_exact_versions(target: str) -> None:
    """The same command writes the same lock files next year."""
    (line,) = installs(target)
    packages = line.split("--only-binary=:all:")[1].split()
    assert packages
    assert [name for name in packages if not re.fullmatch(r"[a-z-]+==[0-9.]+", name)] == []


def test_every_lock_file_is_written_and_audited() -> None:
    """A new one cannot be forgotten."""
    assert {path.name for path in ROOT.glob("requirements*")} == set(LOCKS)
    assert any("for lock in requirements*.lock" in line for line in commands("audit"))


def test_the_endpoint_s_environment_runs_the_handler() -> None:
    """With the official SDK, which our own environment does not have."""
    program = "import devstack.handler, runpod.serverless"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    subprocess.run([workers.INTERPRETER, "-c", program], env=environment, check=True)


async def test_a_missing_environment_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The stand-in does not start workers that die one after the other."""
    monkeypatch.setattr(workers, "INTERPRETER", tmp_path / "missing")
    idle = workers.Workers(
        endpoint_url="http://127.0.0.1:9", storage=None, data_dir=tmp_path, on_gone=print
    )
    with pytest.raises(RuntimeError, match="make setup"):
        idle.start(1)
    idle.start(0)
    await idle.close()
