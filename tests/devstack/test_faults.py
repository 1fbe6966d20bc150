"""Faults on request: what the client gets, and what the app behind them sees."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidMessage, InvalidStatus

from devstack.faults import FaultMiddleware, Faults
from devstack.server import AppServer


class Counted:
    """An app that counts its requests, behind the faults."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.seen: list[str] = []
        routes = [
            *self.faults.routes(),
            Route("/{path:path}", self.answer, methods=["GET", "POST"]),
        ]
        self.app = FaultMiddleware(Starlette(routes=routes), self.faults)

    async def answer(self, request: Request) -> JSONResponse:
        self.seen.append(request.url.path)
        return JSONResponse({"real": True})


@pytest.fixture
async def app():
    return Counted()


@pytest.fixture
async def client(app):
    server = AppServer(app.app)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=10) as client:
        yield client
    app.faults.clear()
    await server.stop()


async def add(client, **rule) -> str:
    answer = await client.post("/_control/rules", json=rule)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def test_without_rules_requests_pass(client, app):
    assert (await client.get("/run")).json() == {"real": True}


async def test_a_status_before_the_app_keeps_the_request_from_it(client, app):
    await add(
        client, method="POST", path="^/run$", action="status", status=503, body={"e": 1}, times=1
    )
    refused = await client.post("/run")
    assert (refused.status_code, refused.json()) == (503, {"e": 1})
    assert app.seen == []
    assert (await client.post("/run")).json() == {"real": True}


async def test_a_status_after_the_app_replaces_an_answer_that_was_made(client, app):
    await add(client, path="/run", action="status", status=502, when="after", body="bad gateway")
    refused = await client.post("/run?x=1")
    assert (refused.status_code, refused.text) == (502, "bad gateway")
    assert app.seen == ["/run"]


async def test_a_rule_can_match_the_query_and_the_method(client, app):
    await add(client, method="GET", path=r"\?x=1$", action="status", status=418)
    assert (await client.get("/run?x=1")).status_code == 418
    assert (await client.get("/run?x=2")).status_code == 200
    assert (await client.post("/run?x=1")).status_code == 200


@pytest.mark.parametrize(("when", "seen"), [("before", []), ("after", ["/run"])])
async def test_drop_cuts_the_connection_without_an_answer(client, app, when, seen):
    await add(client, path="/run", action="drop", when=when, times=1)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await client.post("/run")
    assert app.seen == seen
    assert (await client.post("/run")).status_code == 200


@pytest.mark.parametrize(("when", "seen"), [("before", []), ("after", ["/run"])])
async def test_hold_waits_until_it_is_released(client, app, when, seen):
    rule = await add(client, path="/run", action="hold", when=when)
    held = asyncio.ensure_future(client.post("/run"))
    hit = await client.get(f"/_control/rules/{rule}/hit?timeout=5")
    assert hit.status_code == 200
    while app.seen != seen:
        await asyncio.sleep(0)
    assert not held.done()
    assert (await client.post(f"/_control/rules/{rule}/release")).status_code == 204
    assert (await held).json() == {"real": True}
    assert app.seen == ["/run"]


async def test_removing_a_rule_releases_its_requests(client, app):
    rule = await add(client, path="/run", action="hold")
    held = asyncio.ensure_future(client.get("/run"))
    await client.get(f"/_control/rules/{rule}/hit")
    await client.delete("/_control/rules")
    assert (await held).status_code == 200
    assert (await client.get("/_control/rules")).json() == []


async def test_delay_takes_its_time(client, app):
    await add(client, path="/run", action="delay", seconds=0.2)
    answer = await client.get("/run")
    assert answer.elapsed.total_seconds() >= 0.2


async def test_a_probability_is_drawn_from_a_seed(client, app):
    await add(client, path="/run", action="status", probability=0.5, seed=7)
    first = [(await client.get("/run")).status_code for _ in range(12)]
    await client.delete("/_control/rules")
    await add(client, path="/run", action="status", probability=0.5, seed=7)
    assert [(await client.get("/run")).status_code for _ in range(12)] == first
    assert set(first) == {200, 503}


async def test_waiting_for_a_rule_that_matches_nothing_ends_with_408(client, app):
    rule = await add(client, path="/never", action="drop")
    assert (await client.get(f"/_control/rules/{rule}/hit?timeout=0.05")).status_code == 408
    assert (await client.get("/_control/rules")).json()[0]["hits"] == 0


@pytest.mark.parametrize(
    "rule",
    [
        {"path": "/x", "action": "explode"},
        {"path": "(", "action": "drop"},
        {"paht": "/x"},
        {"action": "drop", "when": "never"},
    ],
)
async def test_an_invalid_rule_is_refused(client, app, rule):
    answer = await client.post("/_control/rules", json=rule)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert (await client.delete("/_control/rules/9")).status_code == 404


async def test_an_upgrade_can_be_refused_with_a_status_or_dropped(client, app):
    address = str(client.base_url).replace("http", "ws") + "/socket"
    await add(client, path="/socket", action="status", status=429, body={"error": "slow"}, times=1)
    await add(client, path="/socket", action="drop")
    with pytest.raises(InvalidStatus) as refused:
        await connect(address, proxy=None)
    assert refused.value.response.status_code == 429
    assert json.loads(refused.value.response.body) == {"error": "slow"}
    with pytest.raises((InvalidMessage, OSError)):
        await connect(address, proxy=None)


async def test_who_waits_for_a_request_that_took_hears_when_it_has_taken() -> None:
    """Not when it arrives: a client that is killed before its body was read has done nothing."""
    faults = Faults()
    rule = faults.add({"path": "/run$", "action": "hold", "when": "after"})
    handling, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        handling.set()
        await go_on.wait()

    async def nothing(*_: Any) -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "path": "/run", "method": "POST", "query_string": b""}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(FaultMiddleware(app, faults)(scope, nothing, nothing))
        await handling.wait()
        assert not await faults.wait_hit(rule.id, timeout=0.01)
        go_on.set()
        assert await faults.wait_hit(rule.id, timeout=10)
        faults.clear()
