"""The stand-in over HTTP: what a client of api.runpod.ai sees, and the control routes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.devstack.runpod_kit import Client, standin


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with standin(tmp_path, render="none") as started:
        yield started


async def test_a_submitted_run_gets_an_id_like_production_and_completes(client: Client) -> None:
    answer = await client.post("/run", {"input": {"a": 1}})
    assert re.fullmatch(r"[0-9a-f-]{36}-u1", answer.json()["id"])
    assert answer.json()["status"] == "IN_QUEUE"
    await client.reaches(answer.json()["id"], "COMPLETED")
    body = (await client.get(f"/status/{answer.json()['id']}")).json()
    assert set(body) == {"id", "status", "delayTime", "executionTime", "output", "workerId"}
    assert body["output"]["video"][0].endswith("-audio.mp4")


@pytest.mark.parametrize("path", ["/health", "/status/x", "/stream/x"])
async def test_a_wrong_key_is_refused(client: Client, path: str) -> None:
    client.http.headers["Authorization"] = "Bearer wrong"
    answer = await client.get(path)
    assert (answer.status_code, "error" in answer.json()) == (401, True)


async def test_the_bare_key_is_accepted(client: Client) -> None:
    client.http.headers["Authorization"] = client.standin.api_key
    assert (await client.get("/health")).status_code == 200


async def test_another_endpoint_does_not_exist(client: Client) -> None:
    answer = await client.http.post(f"{client.standin.url}/v2/other/run", json={"input": {"a": 1}})
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"input": {}}', b'{"input": [1]}', b"[" * 9999]
)
async def test_a_body_without_a_filled_input_object_is_refused(client: Client, body: bytes) -> None:
    answer = await client.http.post(f"{client.standin.endpoint_url}/run", content=body)
    assert answer.status_code == 400
    assert client.standin.runs == []


async def test_a_body_above_ten_megabytes_is_refused(client: Client) -> None:
    large = {"input": {"a": "x" * 10_000_000}}
    assert (await client.post("/run", large)).status_code == 400
    assert client.standin.runs == []


async def test_an_unknown_run_is_not_found(client: Client) -> None:
    assert (await client.get("/status/nothing-u1")).status_code == 404
    assert (await client.post("/cancel/nothing-u1")).status_code == 404
    assert (await client.post("/retry/nothing-u1")).status_code == 404


async def test_a_finished_run_is_not_found_after_its_retention(client: Client) -> None:
    run_id = await client.run()
    await client.reaches(run_id, "COMPLETED")
    await client.skip(1801)
    assert (await client.get(f"/status/{run_id}")).status_code == 404
    assert len((await client.control("GET", "/runs")).json()) == 1


async def test_cancel_retry_purge_and_health_answer_as_documented(client: Client) -> None:
    await client.control("PUT", "/options", {"no_workers": True})
    first, second = await client.run(), await client.run()
    cancelled = await client.post(f"/cancel/{first}")
    assert cancelled.json() == {"id": first, "status": "CANCELLED"}
    assert (await client.post(f"/retry/{first}")).status_code == 400
    assert (await client.get("/health")).json()["jobs"] == {
        "completed": 0,
        "failed": 0,
        "inProgress": 0,
        "inQueue": 1,
        "retried": 0,
    }
    assert (await client.post("/purge-queue")).json() == {"removed": 1, "status": "completed"}
    await client.control("POST", f"/runs/{second}", {"state": "FAILED", "error": "x"})
    assert (await client.post(f"/retry/{second}")).json() == {"id": second, "status": "IN_QUEUE"}


async def test_runsync_answers_with_the_finished_run(client: Client) -> None:
    answer = await client.post("/runsync", {"input": {"a": 1}})
    assert answer.json()["status"] == "COMPLETED"


async def test_runsync_answers_with_a_waiting_run_when_its_wait_is_over(client: Client) -> None:
    await client.control("PUT", "/options", {"no_workers": True})
    answer = await client.post("/runsync?wait=1000", {"input": {"a": 1}})
    assert answer.json()["status"] == "IN_QUEUE"


async def test_rate_limits_hold_when_asked_for(client: Client) -> None:
    await client.control("PUT", "/options", {"rate_limits": True})
    answers = [await client.post("/purge-queue") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    stats = (await client.control("GET", "/stats")).json()["requests"]["purge-queue"]
    assert (stats["total"], stats["refused"], stats["peak_per_10s"]) == (2, 1, 2)


async def test_an_outcome_can_be_forced(client: Client) -> None:
    await client.control("PUT", "/options", {"no_workers": True})
    run_id = await client.run()
    progress = {"state": "IN_PROGRESS", "output": {"progress": 3}}
    await client.control("POST", f"/runs/{run_id}", progress)
    assert (await client.get(f"/status/{run_id}")).json()["output"] == {"progress": 3}
    lost = {"state": "FAILED", "error": "job timed out after 1 retries", "retries": 1}
    await client.control("POST", f"/runs/{run_id}", lost)
    assert (await client.get(f"/status/{run_id}")).json()["retries"] == 1
    await client.control("POST", f"/runs/{run_id}", {"gone": True})
    assert (await client.get(f"/status/{run_id}")).status_code == 404
    assert (await client.control("POST", f"/runs/{run_id}", {"state": "?"})).status_code == 400


async def test_the_control_list_waits_for_runs_and_shows_what_was_asked(client: Client) -> None:
    waiting = asyncio.create_task(client.control("GET", "/runs?at_least=1"))
    await client.run(policy={"ttl": 20_000}, webhook="http://127.0.0.1:1/hook")
    (run,) = (await waiting).json()
    assert run["input"] == {"prompt": "x"}
    assert run["policy"] == {"ttl": 20_000}
    assert run["webhook"] == "http://127.0.0.1:1/hook"
    assert (await client.control("GET", "/runs?at_least=9&timeout=0.01")).status_code == 408


async def test_every_accepted_run_is_in_the_run_log(client: Client, tmp_path: Path) -> None:
    run_id = await client.run()
    await client.reaches(run_id, "COMPLETED")
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [(line["event"], line["id"]) for line in lines] == [
        ("accepted", run_id),
        ("started", run_id),
        ("ended", run_id),
    ]


async def test_a_run_counts_although_the_answer_to_it_was_dropped(client: Client) -> None:
    rule = {"method": "POST", "path": "/run$", "action": "drop", "when": "after", "times": 1}
    await client.control("POST", "/rules", rule)
    with pytest.raises(httpx.TransportError):
        await client.run()
    assert len(client.standin.runs) == 1


async def test_a_simulated_worker_can_hang_until_the_execution_timeout(client: Client) -> None:
    await client.control("PUT", "/options", {"hang": 1.0})
    run_id = await client.run(policy={"executionTimeout": 600_000})
    await client.reaches(run_id, "IN_PROGRESS")
    await client.skip(601)
    assert (await client.reaches(run_id, "FAILED"))["error"] == "executionTimeout exceeded"


async def test_a_simulated_worker_can_be_lost_twice(client: Client) -> None:
    await client.control("PUT", "/options", {"lose_worker": 1.0})
    run = await client.reaches(await client.run(), "FAILED")
    assert (run["error"], run["takes"]) == ("job timed out after 1 retries", 2)


async def test_simulated_runs_fail_and_lose_their_output_on_request(client: Client) -> None:
    await client.control("PUT", "/options", {"fail_text": "坏了"})
    assert (await client.reaches(await client.run(), "FAILED"))["error"] == "坏了"
    await client.control("PUT", "/options", {"fail_text": None, "lose_output": 1.0})
    assert "output" not in await client.reaches(await client.run(), "COMPLETED")


async def test_simulated_workers_are_as_many_as_the_options_say(client: Client) -> None:
    await client.control("PUT", "/options", {"simulated_workers": 2, "hang": 1.0})
    runs = [await client.run() for _ in range(3)]
    await client.reaches(runs[1], "IN_PROGRESS")
    health = (await client.get("/health")).json()
    assert (health["jobs"]["inProgress"], health["jobs"]["inQueue"]) == (2, 1)


async def test_wrong_control_requests_are_refused(client: Client) -> None:
    assert (await client.control("PUT", "/options", {"nonsense": 1})).status_code == 400
    assert (await client.control("PUT", "/options", [])).status_code == 400
    assert (await client.control("POST", "/advance", {"seconds": -1})).status_code == 400
    assert (await client.control("GET", "/runs/none")).status_code == 404
