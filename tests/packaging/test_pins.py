"""The lock files are complete, agree with each other and with what is installed."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import cast

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from devstack.runpod.workers import INTERPRETER
from tests.packaging.conftest import ROOT
from tests.packaging.lock import LOCKS, MACHINES, Pin, read

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
RUNTIME = PROJECT["project"]["dependencies"]
ASKED = {
    "requirements.lock": RUNTIME,
    "requirements-dev.lock": RUNTIME + PROJECT["dependency-groups"]["dev"],
    "requirements-endpoint.lock": PROJECT["dependency-groups"]["endpoint"],
}
# The packages of the runtime lock are installed among those of the development lock.
PYTHONS = {
    "requirements.lock": sys.executable,
    "requirements-dev.lock": sys.executable,
    "requirements-endpoint.lock": str(INTERPRETER),
}
# What `python -m venv` brings, and ourselves.
UNPINNED = {"pip", "setuptools", "talking-head-worker"}
HERE = cast("dict[str, str]", default_environment())
LIST = """
import importlib.metadata, json
found = [(d.name, d.version, d.requires or []) for d in importlib.metadata.distributions()]
print(json.dumps(found))
"""

Requirements = Mapping[str, Sequence[Requirement]]


def pins(lock: str) -> list[Pin]:
    """What a lock file pins."""
    return read((ROOT / lock).read_text("utf-8"))


@cache
def installed(python: str) -> list[tuple[str, str, list[str]]]:
    """Name, version and requirements of every package that the interpreter finds."""
    done = subprocess.run([python, "-I", "-c", LIST], check=True, capture_output=True, text=True)
    return [
        (canonicalize_name(name), version, need) for name, version, need in json.loads(done.stdout)
    ]


@cache
def requirements(lock: str) -> Requirements:
    """What the installed packages of a lock file say that they need."""
    return {name: [*map(Requirement, need)] for name, _, need in installed(PYTHONS[lock])}


def unmet(
    locked: Iterable[Pin], needs: Requirements, asked: Iterable[str], environment: dict[str, str]
) -> list[str]:
    """The requirements that no pin satisfies in such an environment.

    Checked are `asked`, and what every package needs, with the extras that others ask of it.
    """
    present = {pin.name: pin for pin in locked if pin.applies(environment)}
    missing: set[str] = set()
    todo = [(name, "") for name in present]
    seen = set(todo)

    def check(text: str, requirement: Requirement, extra: str) -> None:
        marker = requirement.marker
        if marker is not None and not marker.evaluate({**environment, "extra": extra}):
            return
        name = canonicalize_name(requirement.name)
        pin = present.get(name)
        if pin is None or not requirement.specifier.contains(pin.version, prereleases=True):
            missing.add(f"{text} needs {requirement}")
            return
        found = {(name, wanted) for wanted in requirement.extras} - seen
        seen.update(found)
        todo.extend(found)

    for text in asked:
        check("pyproject.toml", Requirement(text), "")
    while todo:
        name, extra = todo.pop()
        for requirement in needs.get(name, ()):
            check(f"{name}[{extra}]" if extra else name, requirement, extra)
    return sorted(missing)


@pytest.mark.parametrize("lock", ["requirements-dev.lock", "requirements-endpoint.lock"])
def test_exactly_the_lock_file_is_installed(lock: str) -> None:
    """No leftover of an older lock file, nothing that pip chose by itself."""
    locked = {pin.name: pin.version for pin in pins(lock) if pin.applies(HERE)}
    found = {name: version for name, version, _ in installed(PYTHONS[lock])}
    found = {name: found[name] for name in found if name in locked or name not in UNPINNED}
    assert found == locked, "remove .venv and .venv-endpoint, and run make setup"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_holds_all_that_its_packages_need(lock: str) -> None:
    """With every extra, for every Python and platform: no later release can be pulled in."""
    locked, needs = pins(lock), requirements(lock)
    assert {pin.name for pin in locked if pin.applies(HERE)} <= needs.keys()
    for machine in MACHINES:
        assert unmet(locked, needs, ASKED[lock], machine.environment) == [], str(machine)


@pytest.mark.parametrize("lock", LOCKS)
def test_no_package_of_a_lock_file_can_be_left_out(lock: str) -> None:
    """Each one is needed by another or asked for, and the check above would miss it."""
    locked, needs = pins(lock), requirements(lock)
    unnoticed = [
        pin.name
        for pin in locked
        if not any(
            unmet([p for p in locked if p != pin], needs, ASKED[lock], machine.environment)
            for machine in MACHINES
            if pin.applies(machine.environment)
        )
    ]
    assert unnoticed == []


def pin(name: str, version: str, marker: str | None = None) -> Pin:
    """A pin without hashes."""
    return Pin(name=name, version=version, marker=marker, hashes=())


WHOLE = [
    pin("cloud", "1.0"),
    pin("model", "2.14.3"),
    pin("email", "2.4", "python_version < '3.13'"),
    pin("dns", "2.9"),
]
NEEDS = {
    "cloud": [Requirement("model[email]>=2")],
    "model": [Requirement("email>=2; extra == 'email' and python_version < '3.13'")],
    "email": [Requirement("dns")],
}
OLD, NEW = MACHINES[0].environment, MACHINES[-1].environment


@pytest.mark.parametrize(
    ("locked", "environment", "expected"),
    [
        (WHOLE, OLD, []),
        (WHOLE, NEW, []),
        (WHOLE[:2] + WHOLE[3:], OLD, ["model[email] needs email"]),
        (WHOLE[:2] + WHOLE[3:], NEW, []),
        (WHOLE[:3], OLD, ["email needs dns"]),
        ([WHOLE[0], pin("model", "1.9"), *WHOLE[2:]], OLD, ["cloud needs model"]),
        ([WHOLE[0], pin("model", "2", "sys_platform == 'win32'")], OLD, ["cloud needs model"]),
        (WHOLE[1:], OLD, ["pyproject.toml needs cloud"]),
    ],
)
def test_a_gap_is_seen(locked: list[Pin], environment: dict[str, str], expected: list[str]) -> None:
    """Also behind an extra, for another Python, of a wrong version, or at the root."""
    found = unmet(locked, NEEDS, ["cloud==1.0"], environment)
    assert len(found) == len(expected)
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True))


def test_the_image_gets_what_was_tested() -> None:
    """The runtime pins are the development pins."""
    tested = {pin.name: pin for pin in pins("requirements-dev.lock")}
    different = [
        pin
        for pin in pins("requirements.lock")
        if replace(pin, marker=None) != replace(tested[pin.name], marker=None)
    ]
    assert different == []


def test_the_tests_use_no_faster_parts_than_the_image() -> None:
    """uvicorn and httpx take these when they are installed, and would behave otherwise."""
    chosen = {"brotli", "brotlicffi", "httptools", "uvloop", "watchfiles", "zstandard"}
    only_here = {p.name for p in pins("requirements-dev.lock")} - {
        p.name for p in pins("requirements.lock")
    }
    assert only_here & chosen == set()
