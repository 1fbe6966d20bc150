"""The gateway, judged by the unmodified supabase-js client in node."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

JS = Path(__file__).resolve().parents[1] / "js"
NODE = "20 or newer with npm"


def node_is_missing() -> str | None:
    """Return why node cannot be used here, for the report."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return f"not run: node {NODE} is not installed, so supabase-js was not tried"
    shown = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    major = shown.stdout.removeprefix("v").split(".")[0]
    if not major.isdigit() or int(major) < 20:
        return f"not run: node {NODE} is needed for supabase-js, this is {shown.stdout.strip()}"
    return None


def install() -> None:
    """Install what the lock file names, unless it is already installed."""
    lock, stamp = JS / "package-lock.json", JS / "node_modules" / ".installed"
    if stamp.exists() and stamp.read_text() == lock.read_text():
        return
    subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=JS, check=True, timeout=110,
    )  # fmt: skip
    stamp.write_text(lock.read_text())


@pytest.mark.node
@pytest.mark.xdist_group("node")
async def test_supabase_js_finds_everything_it_expects(gateway):
    if reason := node_is_missing():
        pytest.skip(reason)
    await asyncio.to_thread(install)
    process = await asyncio.create_subprocess_exec(
        "node", "--test", "--test-reporter=spec", "gateway.test.mjs",
        cwd=JS,
        env=os.environ | gateway.env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def test_the_lock_file_names_no_host():
    text = (JS / "package-lock.json").read_text()
    assert "resolved" not in text
    assert "omit-lockfile-registry-resolved=true" in (JS / ".npmrc").read_text()
