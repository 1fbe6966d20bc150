"""The lock files agree with the project and with each other."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.conftest import ROOT

PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?P<rest>.*)$", re.MULTILINE)


def pins(lock: str) -> dict[str, set[str]]:
    """The pinned versions by package name."""
    found: dict[str, set[str]] = {}
    for match in PIN.finditer((ROOT / lock).read_text("utf-8")):
        found.setdefault(match["name"], set()).add(match["version"])
    return found


def unmet(requirements: list[str], lock: str) -> list[str]:
    """The requirements that no pin of the lock file satisfies."""
    locked = pins(lock)
    return [
        text
        for text in requirements
        if not any(
            Requirement(text).specifier.contains(version, prereleases=True)
            for version in locked.get(canonicalize_name(Requirement(text).name), ())
        )
    ]


def test_the_pins_satisfy_the_project() -> None:
    """`make lock` was run after the last change of a dependency."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    runtime, development = project["project"]["dependencies"], project["dependency-groups"]["dev"]
    assert unmet(runtime, "requirements.lock") == []
    assert unmet(runtime + development, "requirements-dev.lock") == []


def test_the_image_gets_what_was_tested() -> None:
    """The runtime pins are the development pins."""
    tested = pins("requirements-dev.lock")
    different = {
        name: (versions, tested.get(name))
        for name, versions in pins("requirements.lock").items()
        if tested.get(name) != versions
    }
    assert different == {}
