"""The stand-in's webhooks: content, repeats, faults."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.devstack.runpod_kit import Client, Hub, hub, standin


@pytest.fixture
async def receiver() -> AsyncIterator[Hub]:
    async with hub() as started:
        yield started


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with standin(tmp_path, render="none", webhook_interval_seconds=0.01) as started:
        yield started


async def tries(client: Client, run_id: str, count: int) -> list[dict[str, Any]]:
    """The tries of a run's webhook, once there are `count`."""
    run = client.standin.cloud.runs[run_id]
    assert await client.standin.condition.until(lambda: len(run.webhooks) >= count, 20)
    return run.webhooks


async def test_it_carries_the_status_the_whole_input_and_its_own_url(
    client: Client, receiver: Hub
) -> None:
    run_id = await client.run(webhook=f"{receiver.url}/hook/a/b")
    ((path, raw),) = await receiver.heard(1)
    body = json.loads(raw)
    assert path == "/hook/a/b"
    assert body.pop("input") == {"prompt": "x"}
    assert body.pop("webhook") == f"{receiver.url}/hook/a/b"
    assert body == (await client.get(f"/status/{run_id}")).json()


async def test_it_is_tried_three_times_and_only_200_counts(client: Client, receiver: Hub) -> None:
    receiver.answers = [503, 204, 500, 200]
    run_id = await client.run(webhook=f"{receiver.url}/hook/x")
    assert [t["answer"] for t in await tries(client, run_id, 3)] == [503, 204, 500]
    second = await client.run(webhook=f"{receiver.url}/hook/y")
    assert [t["answer"] for t in await tries(client, second, 1)] == [200]
    assert [path for path, _ in receiver.webhooks] == ["/hook/x"] * 3 + ["/hook/y"]


async def test_an_unreachable_receiver_is_recorded(client: Client) -> None:
    run_id = await client.run(webhook="http://127.0.0.1:1/hook")
    assert [t["answer"] for t in await tries(client, run_id, 3)] == ["ConnectError"] * 3


async def test_a_cancelled_run_is_reported(client: Client, receiver: Hub) -> None:
    await client.control("PUT", "/options", {"no_workers": True})
    run_id = await client.run(webhook=f"{receiver.url}/hook/x")
    await client.post(f"/cancel/{run_id}")
    ((_, raw),) = await receiver.heard(1)
    assert json.loads(raw)["status"] == "CANCELLED"


async def test_it_can_be_lost_or_sent_twice(client: Client, receiver: Hub) -> None:
    await client.control("PUT", "/options", {"webhook_lost": 1.0})
    lost = await client.run(webhook=f"{receiver.url}/hook/x")
    assert [t["kind"] for t in await tries(client, lost, 1)] == ["lost"]
    await client.control("PUT", "/options", {"webhook_lost": 0, "webhook_twice": 1.0})
    doubled = await client.run(webhook=f"{receiver.url}/hook/y")
    assert [t["kind"] for t in await tries(client, doubled, 2)] == ["try", "again"]


async def test_it_can_be_late(client: Client, receiver: Hub) -> None:
    options = {"webhook_late": 1.0, "webhook_late_seconds": 0.05}
    await client.control("PUT", "/options", options)
    run_id = await client.run(webhook=f"{receiver.url}/hook/x")
    await client.reaches(run_id, "COMPLETED")
    assert receiver.webhooks == []
    await receiver.heard(1)


async def test_forged_ones_claim_a_video_that_does_not_exist(client: Client, receiver: Hub) -> None:
    await client.control("PUT", "/options", {"webhook_forged": 1.0, "no_workers": True})
    run_id = await client.run(webhook=f"{receiver.url}/hook/x")
    sent = await receiver.heard(4)
    assert json.loads(sent[0][1])["id"] == run_id
    assert b"forged.example" in sent[0][1]
    assert sent[3][0] == "/hook/0"
    assert (await client.get(f"/status/{run_id}")).json()["status"] == "IN_QUEUE"
