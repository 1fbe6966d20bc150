"""Time from the start of a process until /livez, and until it is ready and subscribed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time

import httpx

from benchmarks._rig import PRODUCTION, percentile, show
from tests.world import Daemon, World

LISTENING = "worker_realtime_ready 1.0"


async def one_start(daemon: Daemon) -> tuple[float, float]:
    """Return the seconds to /livez 200, and to /readyz ok with Realtime subscribed."""
    began = time.monotonic()
    await daemon.start()
    base = f"http://127.0.0.1:{daemon.port}"
    live: float | None = None
    async with httpx.AsyncClient(base_url=base, trust_env=False) as http, asyncio.timeout(30):
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if live is None and (await http.get("/livez")).status_code == 200:
                    live = time.monotonic() - began
                if live is not None and LISTENING in (await http.get("/metrics")).text:
                    answer = await http.get("/readyz")
                    if answer.json()["status"] == "ok":
                        return live, time.monotonic() - began
            await asyncio.sleep(0.01)


async def measure(starts: int) -> list[tuple[float, float]]:
    """Start and stop the same daemon several times."""
    async with World(settings=PRODUCTION) as world:
        daemon = world.daemon()
        found = []
        for _ in range(starts):
            found.append(await one_start(daemon))
            await daemon.terminate()
        return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=7)
    chosen = parser.parse_args()
    live, ready = zip(*asyncio.run(measure(chosen.starts)), strict=True)
    show(
        f"{chosen.starts} starts of the process",
        [
            ("/livez 200, p50", f"{percentile(live, 50):.2f} s", "< 2 s"),
            ("/livez 200, most", f"{max(live):.2f} s", "< 2 s"),
            ("/readyz ok and Realtime subscribed, p50", f"{percentile(ready, 50):.2f} s", "< 2 s"),
            ("/readyz ok and Realtime subscribed, most", f"{max(ready):.2f} s", "< 2 s"),
        ],
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
