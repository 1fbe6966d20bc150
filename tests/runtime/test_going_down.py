"""Going down takes no longer than promised, whatever the loops are waiting for."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

import worker.app
from worker.app import App
from worker.policies import read_template
from worker.runpod.api import RunPodApi
from worker.runtime.clock import Environment
from worker.settings import load_settings
from worker.supabase.store import connect


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Takes connections and requests, and answers nothing."""
    asked = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                asked.set()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()


async def test_loops_that_wait_for_a_silent_supabase_do_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every call may take 15 s, and a round of looks at RunPod longer still."""
    monkeypatch.setattr(worker.app, "GOODBYE_SECONDS", 0.3)
    async with silent_server() as (url, asked), httpx.AsyncClient(timeout=30) as http:
        settings = load_settings(
            {
                "SUPABASE_URL": url,
                "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_0123456789abcdef",
                "RUNPOD_API_KEY": "rpa_0123456789",
                "RUNPOD_ENDPOINT_URL": f"{url}/v2/abc",
            }
        )
        runpod = RunPodApi(endpoint_url=f"{url}/v2/abc", api_key="rpa_0123456789")
        supabase = await connect(url, "sb_secret_0123456789abcdef", http)
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            async with runpod:
                app = App(
                    settings,
                    read_template(settings),
                    http=http,
                    supabase=supabase,
                    runpod=runpod,
                    environment=Environment(),
                )
                running = asyncio.create_task(app.run(listening))
                async with asyncio.timeout(5):
                    await asked.wait()
                app.draining.set()
                async with asyncio.timeout(5):
                    await running


def test_the_parts_of_going_down_add_up_to_what_is_promised() -> None:
    assert worker.app.STOP_SECONDS + worker.app.GOODBYE_SECONDS < 20
    assert worker.app.GOODBYE_SECONDS <= 5
