"""Writes and reads the lock files: exact versions, and the hashes of the wheels that we install.

`make lock` starts this with the tools that the Makefile pins. uv resolves and keeps the versions
that a lock file has (unless told `--upgrade`). It cannot leave out the hashes of source archives,
Windows, PyPy and so on, which are nine of ten, so that is done here.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[2]
# Each lock file and what of pyproject.toml goes into it.
LOCKS = {
    "requirements.lock": ["pyproject.toml"],
    "requirements-dev.lock": [
        *["pyproject.toml", "--group", "dev", "--constraint", "requirements.lock"]
    ],
    "requirements-endpoint.lock": ["--group", "endpoint"],
}
PYTHONS = [(3, 11), (3, 12), (3, 13), (3, 14)]
GLIBC_MINOR = 36  # Debian 12
MACOS = (14, 0)
HEAD = (
    "# Written by `make lock`. The hashes are those of the wheels for CPython "
    f"{PYTHONS[0][0]}.{PYTHONS[0][1]} to {PYTHONS[-1][0]}.{PYTHONS[-1][1]} on Linux "
    f"(glibc 2.{GLIBC_MINOR}\n# or newer; x86_64, aarch64) and macOS {MACOS[0]} or newer (arm64).\n"
)
PIN = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?: ; (?P<marker>.+?))? \\$"
    r"(?P<hashes>(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One version of one package, and where it is installed."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...] = field(repr=False)

    def applies(self, environment: dict[str, str]) -> bool:
        """Whether the package is installed in such an environment."""
        return self.marker is None or Marker(self.marker).evaluate(environment)

    def __str__(self) -> str:
        where = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}=={self.version}{where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A Python on a platform that the lock files are made for."""

    python: tuple[int, int]
    system: str
    processor: str

    @property
    def environment(self) -> dict[str, str]:
        """What markers are evaluated against."""
        version = ".".join(map(str, self.python))
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{version}.0",
            "os_name": "posix",
            "platform_machine": self.processor,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": self.system,
            "platform_version": "",
            "python_full_version": f"{version}.0",
            "python_version": version,
            "sys_platform": self.system.lower(),
        }

    def __str__(self) -> str:
        return f"Python {self.python[0]}.{self.python[1]}, {self.system} {self.processor}"


@cache
def tags_of(machine: Machine) -> frozenset[Tag]:
    """The tags of the wheels that pip takes there."""
    if machine.system == "Darwin":
        platforms = list(mac_platforms(MACOS, machine.processor))
    else:
        names = ["linux", "manylinux1", "manylinux2010", "manylinux2014"]
        names += [f"manylinux_2_{minor}" for minor in range(5, GLIBC_MINOR + 1)]
        platforms = [f"{name}_{machine.processor}" for name in names]
    interpreter = f"cp{machine.python[0]}{machine.python[1]}"
    return frozenset(cpython_tags(machine.python, [interpreter], platforms)) | frozenset(
        compatible_tags(machine.python, interpreter, platforms)
    )


MACHINES = [
    Machine(python=python, system=system, processor=processor)
    for python in PYTHONS
    for system, processor in (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64"))
]


def read(text: str) -> list[Pin]:
    """The pins of a lock file's text."""
    return [
        Pin(
            name=found["name"],
            version=found["version"],
            marker=found["marker"],
            hashes=tuple(re.findall("[0-9a-f]{64}", found["hashes"])),
        )
        for found in PIN.finditer(text)
    ]


def written(pins: Sequence[Pin]) -> str:
    """The text of a lock file."""
    blocks = [" \\\n    --hash=sha256:".join([str(pin), *pin.hashes]) for pin in pins]
    return HEAD + "\n".join(blocks) + "\n"


def narrowed(package: dict[str, Any]) -> Pin | None:
    """The pin of a resolved package with our machines' wheels; None when no machine takes it."""
    pin = Pin(
        name=package["name"],
        version=package["version"],
        marker=package.get("marker"),
        hashes=(),
    )
    kept: set[str] = set()
    wanted = [machine for machine in MACHINES if pin.applies(machine.environment)]
    for machine in wanted:
        taken = {
            wheel["hashes"]["sha256"]
            for wheel in package.get("wheels", ())
            if parse_wheel_filename(wheel["url"].rsplit("/", 1)[1])[3] & tags_of(machine)
        }
        if not taken:
            raise SystemExit(f"{pin} has no wheel for {machine}.")
        kept |= taken
    if not wanted:
        return None
    return Pin(name=pin.name, version=pin.version, marker=pin.marker, hashes=tuple(sorted(kept)))


def resolve(lock: str, arguments: Sequence[str]) -> list[Pin]:
    """What uv makes of pyproject.toml and of the versions that the lock file has."""
    file = ROOT / lock
    present = read(file.read_text("utf-8")) if file.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder) / "pylock.toml"
        packages = [f'[[packages]]\nname = "{p.name}"\nversion = "{p.version}"' for p in present]
        head = 'lock-version = "1.0"\ncreated-by = "make lock"'
        resolved.write_text("\n".join([head, *packages, ""]), "utf-8")
        command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", *LOCKS[lock]]
        command += ["--universal", "--python-version", f"{PYTHONS[0][0]}.{PYTHONS[0][1]}"]
        command += ["--quiet", "--output-file", str(resolved), *arguments]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise SystemExit(f"{lock} stays as it is.")
        found = tomllib.loads(resolved.read_text("utf-8"))["packages"]
    return [pin for package in found if (pin := narrowed(package))]


def main(arguments: Sequence[str]) -> None:
    """Write every lock file; the arguments go to uv."""
    for lock in LOCKS:
        (ROOT / lock).write_text(written(resolve(lock, arguments)), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
