"""The real worker as a separate process, with its output in a file."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from devstack.postgres import die_with_parent

REPOSITORY = Path(__file__).resolve().parents[1]
START_SECONDS = 30.0
STOP_SECONDS = 25.0
# Fast polling shows every step, not only the end; previews render faster than on a GPU.
DEMO_SETTINGS = {
    "POLL_SECONDS": "1",
    "SWEEP_SECONDS": "1",
    "SECONDS_PER_WINDOW": "2",
    "LOG_FORMAT": "console",
    "HOST": "127.0.0.1",
}


class DaemonFailed(Exception):
    """The worker ended or did not become ready."""


class Daemon:
    """A `python -m worker run` process."""

    def __init__(self, settings: Mapping[str, str], log: Path) -> None:
        self._settings = settings
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready; raise DaemonFailed if it is not."""
        self._process = self._spawn()
        await self._ready(f"http://127.0.0.1:{self._settings['PORT']}/readyz")

    def _spawn(self) -> subprocess.Popen[bytes]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        kept |= {"ENV_FILE": "none", "NO_COLOR": "1"}
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "worker", "run"],
                cwd=REPOSITORY,
                env={**kept, **DEMO_SETTINGS, **self._settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C must reach only us: we stop the worker in our own order.
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    async def _ready(self, url: str) -> None:
        async with httpx.AsyncClient(timeout=2, trust_env=False) as http:
            for _ in range(int(START_SECONDS / 0.1)):
                if not self.running:
                    raise DaemonFailed("The worker exited at start.")
                try:
                    if (await http.get(url)).status_code == 200:
                        return
                except httpx.HTTPError:
                    # Not listening yet.
                    pass
                await asyncio.sleep(0.1)
        raise DaemonFailed(f"The worker was not ready after {START_SECONDS:.0f} s.")

    @property
    def running(self) -> bool:
        """Return whether the process is running."""
        return self._process is not None and self._process.poll() is None

    async def stop(self) -> None:
        """Stop it with SIGTERM, as Fly does; kill it if that takes too long."""
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        for _ in range(int(STOP_SECONDS / 0.05)):
            if not self.running:
                return
            await asyncio.sleep(0.05)
        self._process.kill()
        self._process.wait()

    def last_lines(self, lines: int = 15) -> list[str]:
        """Return the last lines of its log."""
        if not self._log.exists():
            return []
        return self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
