"""The official SDK's own worker loop runs our handler against the stand-in."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import pytest

from devstack.runpod import StorageTarget
from tests.devstack.runpod_kit import Client, Hub, hub, standin

WORKFLOW = Path(__file__).parents[2] / "workflows" / "infinitetalk.json"
REPOSITORY = Path(__file__).parents[2]

PARENT = """
import asyncio, sys
from pathlib import Path
from devstack.runpod import RunPodStandIn

async def main():
    standin = RunPodStandIn(data_dir=Path(sys.argv[1]), workers=2)
    await standin.start()
    while len(standin.cloud.slots) < 2:
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
async def server() -> AsyncIterator[Hub]:
    async with hub() as started:
        yield started


@pytest.fixture
async def client(tmp_path: Path, server: Hub) -> AsyncIterator[Client]:
    storage = StorageTarget(url=server.url, key="key")
    async with standin(tmp_path, workers=1, storage=storage) as started:
        yield started


def wish(server: Hub) -> dict[str, Any]:
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    graph["14"]["inputs"].update(width=480, height=480)
    graph["18"]["inputs"]["num_frames"] = 81
    return {
        "workflow": graph,
        "image_url": f"{server.url}/samples/portrait.jpg",
        "audio_url": f"{server.url}/samples/speech.mp3",
        "width": 480,
        "height": 480,
    }


async def test_a_run_becomes_a_video_and_reports_its_progress(
    client: Client, server: Hub, tmp_path: Path
) -> None:
    await client.control("PUT", "/options", {"run_seconds_max": 1.5})
    run_id = await client.run(input=wish(server), webhook=f"{server.url}/hook/x")
    await client.reaches(run_id, "IN_PROGRESS")
    seen: list[dict[str, Any]] = []
    run = client.standin.cloud.runs[run_id]

    def ended() -> bool:
        if isinstance(run.output, dict) and "phase" in run.output and run.output not in seen:
            seen.append(run.output)
        return run.state.terminal

    assert await client.standin.condition.until(ended, 30)
    assert {report["phase"] for report in seen} >= {"loading_models", "generating"}
    assert any(0 < report["progress"] < 100 for report in seen)
    body = (await client.get(f"/status/{run_id}")).json()
    assert body["status"] == "COMPLETED"
    (url,) = body["output"]["video"]
    (tmp_path / "got.mp4").write_bytes(server.uploads[url.split("/public/")[1]])
    with av.open(str(tmp_path / "got.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 81
    ((_, raw),) = await server.heard(1)
    assert json.loads(raw)["output"] == {"video": [url]}


async def test_an_error_text_and_an_exception_fail_the_run(client: Client, server: Hub) -> None:
    refused = wish(server)
    refused["workflow"]["16"]["inputs"]["steps"] = 0
    told = await client.reaches(await client.run(input=refused), "FAILED")
    assert told["error"].endswith("HTTP Error 400: Bad Request")
    raised = await client.reaches(
        await client.run(input={**wish(server), "width": "wide"}), "FAILED"
    )
    error = json.loads(raised["error"])
    assert error["error_type"] == "<class 'ValueError'>"
    assert "wide" in error["error_message"]


async def test_a_killed_worker_is_replaced_and_its_run_started_once_more(
    client: Client, server: Hub
) -> None:
    await client.control("PUT", "/options", {"hang": 1.0})
    run_id = await client.run(input=wish(server))
    first = await client.reaches(run_id, "IN_PROGRESS")
    _kill_worker(first["workerId"])
    await client.reaches(run_id, "IN_QUEUE")
    second = await client.reaches(run_id, "IN_PROGRESS")
    assert second["workerId"] != first["workerId"]
    _kill_worker(second["workerId"])
    lost = await client.reaches(run_id, "FAILED")
    assert (lost["error"], lost["retries"]) == ("job timed out after 1 retries", 1)


async def test_a_hanging_run_ends_by_its_timeout_and_the_endpoint_works_again(
    client: Client, server: Hub
) -> None:
    await client.control("PUT", "/options", {"hang": 1.0})
    run_id = await client.run(input=wish(server), policy={"executionTimeout": 600_000})
    await client.reaches(run_id, "IN_PROGRESS")
    await client.skip(601)
    assert (await client.reaches(run_id, "FAILED"))["error"] == "executionTimeout exceeded"
    await client.control("PUT", "/options", {"hang": 0.0})
    await client.reaches(await client.run(input=wish(server)), "COMPLETED")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_no_worker_outlives_the_stand_in(tmp_path: Path, how: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        assert await asyncio.to_thread(parent.stdout.readline) == b"ready\n"
        workers = _processes_with(f"standin{parent.pid}w")
        # Each worker is a loop and its heartbeat.
        assert len(workers) >= 2
        parent.send_signal(how)
        await asyncio.to_thread(parent.wait)
    async with asyncio.timeout(10):
        while _processes_with(f"standin{parent.pid}w"):
            await asyncio.sleep(0.02)


def _processes_with(worker_id: str) -> list[int]:
    """Processes whose environment contains a worker id with this prefix."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and worker_id.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _kill_worker(worker_id: str) -> None:
    for pid in _processes_with(worker_id):
        os.kill(pid, signal.SIGKILL)
