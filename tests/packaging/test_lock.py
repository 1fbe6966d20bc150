"""How `make lock` writes the lock files: exact versions with the hashes of our machines' wheels."""

from typing import Any, cast

import pytest
from packaging.markers import default_environment

from tests.packaging.conftest import ROOT
from tests.packaging.lock import LOCKS, MACHINES, narrowed, read, written


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_names_no_host(lock: str) -> None:
    """The person who installs chooses the index."""
    assert "://" not in (ROOT / lock).read_text("utf-8")


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_is_as_make_lock_writes_it(lock: str) -> None:
    """Nothing but exact versions with hashes: a changed file at the index is refused."""
    text = (ROOT / lock).read_text("utf-8")
    assert len(read(text)) > 40
    assert written(read(text)) == text


def wheels(*names: str, marker: str | None = None) -> dict[str, Any]:
    """A package as uv resolves it."""
    found = [
        {"url": f"simple/{name}", "hashes": {"sha256": f"{number:064}"}}
        for number, name in enumerate(names)
    ]
    return {"name": "a", "version": "1", "marker": marker, "wheels": found}


def test_a_lock_file_keeps_the_hashes_of_our_machines_alone() -> None:
    """Of these, Linux and macOS, not Windows, musl, PyPy, or a glibc newer than Debian 12's."""
    package = wheels(
        "a-1-cp311-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "a-1-cp39-abi3-manylinux_2_28_aarch64.whl",
        "a-1-cp38-abi3-macosx_11_0_universal2.whl",
        "a-1-cp311-abi3-musllinux_1_2_x86_64.whl",
        "a-1-cp311-abi3-win_amd64.whl",
        "a-1-pp311-pypy311_pp73-manylinux_2_17_x86_64.whl",
        "a-1-cp313-cp313t-manylinux_2_17_x86_64.whl",
        "a-1-cp315-cp315-manylinux_2_17_x86_64.whl",
        "a-1-cp311-cp311-manylinux_2_38_x86_64.whl",
    )
    kept = narrowed(package)
    assert kept is not None
    assert kept.hashes == tuple(f"{number:064}" for number in range(3))


def test_a_package_that_a_machine_cannot_install_is_refused() -> None:
    """At `make lock`, and not on that machine."""
    package = wheels("a-1-cp311-abi3-manylinux_2_17_x86_64.whl", "a-1-cp311-abi3-win_amd64.whl")
    with pytest.raises(SystemExit, match=r"no wheel for Python 3\.11, Linux aarch64"):
        narrowed(package)


def test_a_package_for_none_of_our_machines_is_left_out() -> None:
    """tzdata, which only Windows needs."""
    assert narrowed(wheels("a-1-py3-none-any.whl", marker="sys_platform == 'win32'")) is None
    kept = narrowed(wheels("a-1-py3-none-any.whl", marker="python_version < '3.12'"))
    assert kept is not None
    assert kept.marker == "python_version < '3.12'"


def test_this_machine_is_one_of_ours() -> None:
    """The marker environments are spelled as Python spells them."""
    here = cast("dict[str, str]", default_environment())
    varying = {"implementation_version", "platform_release", "platform_version"}
    varying |= {"python_full_version"}
    ours = [{**here, **machine.environment} for machine in MACHINES]
    assert here in [{**one, **{name: here[name] for name in varying}} for one in ours]
