"""Faults on request: hold, replace, delay or drop requests that match a rule."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ACTIONS = ("hold", "status", "drop", "delay")
MOMENTS = ("before", "after")


@dataclass(slots=True, kw_only=True)
class Rule:
    """One fault: which requests it matches, what it does, and how many times."""

    id: str
    path: re.Pattern[str]
    action: str
    method: str | None = None
    when: str = "before"
    status: int = 503
    body: object = None
    seconds: float = 0.0
    times: int | None = None
    probability: float = 1.0
    hits: int = 0
    # Requests that have reached the moment that `when` names.
    reached: int = 0
    random: random.Random = field(default_factory=lambda: random.Random(0))
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def matches(self, method: str, path: str, query: str) -> bool:
        if self.times is not None and self.hits >= self.times:
            return False
        if self.method is not None and self.method != method:
            return False
        if not (self.path.search(path) or (query and self.path.search(f"{path}?{query}"))):
            return False
        return self.probability >= 1.0 or self.random.random() < self.probability

    def as_json(self) -> dict[str, object]:
        return {
            "id": self.id,
            "method": self.method,
            "path": self.path.pattern,
            "action": self.action,
            "when": self.when,
            "status": self.status,
            "seconds": self.seconds,
            "times": self.times,
            "probability": self.probability,
            "hits": self.hits,
            "released": self.released.is_set(),
        }


class Faults:
    """The rules of one stand-in; used from its own event loop or over `/_control/rules`."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}
        self._ids = itertools.count(1)
        self._hit = asyncio.Condition()

    def add(self, spec: Mapping[str, object]) -> Rule:
        """Add a rule from its JSON form; raise ValueError if it is invalid."""
        known = {*Rule.__dataclass_fields__, "seed"} - {
            "id",
            "hits",
            "reached",
            "random",
            "released",
        }
        if unknown := set(spec) - known:
            raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
        values = cast("dict[str, Any]", dict(spec))
        if values.get("action") not in ACTIONS:
            raise ValueError(f"action must be one of {', '.join(ACTIONS)}")
        if values.get("when", "before") not in MOMENTS:
            raise ValueError(f"when must be one of {', '.join(MOMENTS)}")
        try:
            values["path"] = re.compile(str(values.get("path", "")))
        except re.error as error:
            raise ValueError(f"path is not a regular expression: {error}") from error
        if values.get("method") is not None:
            values["method"] = str(values["method"]).upper()
        values["random"] = random.Random(values.pop("seed", 0))
        rule = Rule(id=str(next(self._ids)), **values)
        self._rules[rule.id] = rule
        return rule

    def get(self, rule_id: str) -> Rule | None:
        return self._rules.get(rule_id)

    def rules(self) -> list[Rule]:
        return list(self._rules.values())

    def release(self, rule_id: str) -> None:
        """Release all requests that this rule holds, now and later."""
        self._rules[rule_id].released.set()

    def remove(self, rule_id: str) -> None:
        """Remove a rule and release the requests it holds."""
        self._rules.pop(rule_id).released.set()

    def clear(self) -> None:
        """Remove all rules and release all held requests."""
        for rule_id in list(self._rules):
            self.remove(rule_id)

    async def wait_hit(self, rule_id: str, *, count: int = 1, timeout: float = 20) -> bool:
        """Wait until `count` requests reached the rule's moment; False after `timeout` seconds.

        For "after" that is when the app has handled the request: it took, and cannot be undone.
        """
        rule = self._rules[rule_id]
        try:
            async with asyncio.timeout(timeout), self._hit:
                await self._hit.wait_for(lambda: rule.reached >= count)
        except TimeoutError:
            return False
        return True

    async def take(self, method: str, path: str, query: str) -> Rule | None:
        """Return the first rule that matches this request, and count the match."""
        for rule in self._rules.values():
            if rule.matches(method, path, query):
                rule.hits += 1
                return rule
        return None

    async def note_reached(self, rule: Rule) -> None:
        """Tell those who wait for a request that it has reached the rule's moment."""
        rule.reached += 1
        async with self._hit:
            self._hit.notify_all()

    def routes(self) -> list[Route]:
        """Return the control routes for the stand-in's app."""
        return [
            Route("/_control/rules", self._collection, methods=["GET", "POST", "DELETE"]),
            Route("/_control/rules/{id}", self._delete, methods=["DELETE"]),
            Route("/_control/rules/{id}/hit", self._await_hit, methods=["GET"]),
            Route("/_control/rules/{id}/release", self._release, methods=["POST"]),
        ]

    async def _collection(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse([rule.as_json() for rule in self.rules()])
        if request.method == "DELETE":
            self.clear()
            return Response(status_code=204)
        try:
            spec = json.loads(await request.body())
            rule = self.add(spec)
        except (ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse({"id": rule.id}, status_code=201)

    async def _delete(self, request: Request) -> Response:
        if self.get(request.path_params["id"]) is None:
            return _no_such_rule()
        self.remove(request.path_params["id"])
        return Response(status_code=204)

    async def _await_hit(self, request: Request) -> Response:
        rule = self.get(request.path_params["id"])
        if rule is None:
            return _no_such_rule()
        seconds = float(request.query_params.get("timeout", "20"))
        count = int(request.query_params.get("count", "1"))
        met = await self.wait_hit(rule.id, count=count, timeout=seconds)
        return JSONResponse(rule.as_json(), status_code=200 if met else 408)

    async def _release(self, request: Request) -> Response:
        if self.get(request.path_params["id"]) is None:
            return _no_such_rule()
        self.release(request.path_params["id"])
        return Response(status_code=204)


class FaultMiddleware:
    """Applies the rules; must be the outermost app, so that `drop` reaches the connection."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self.app = app
        self.faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"].startswith("/_control"):
            await self.app(scope, receive, send)
            return
        # ASGI cannot cut a connection, so use the transport behind uvicorn's `send`.
        scope["transport"] = getattr(getattr(send, "__self__", None), "transport", None)
        method = scope.get("method", "GET")
        query = scope["query_string"].decode("latin-1")
        rule = await self.faults.take(method, scope["path"], query)
        if rule is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self.faults.note_reached(rule)
            await self._websocket(rule, scope, receive, send)
        elif rule.when == "before":
            await self.faults.note_reached(rule)
            await self._before(rule, scope, receive, send)
        else:
            await self._after(rule, scope, receive, send)

    async def _before(self, rule: Rule, scope: Scope, receive: Receive, send: Send) -> None:
        await self._wait(rule)
        if rule.action == "drop":
            await _drop(scope, receive)
        elif rule.action == "status":
            await _answer(rule)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _after(self, rule: Rule, scope: Scope, receive: Receive, send: Send) -> None:
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self.app(scope, receive, keep)
        await self.faults.note_reached(rule)
        await self._wait(rule)
        if rule.action == "drop":
            await _drop(scope, receive)
        elif rule.action == "status":
            await _answer(rule)(scope, receive, send)
        else:
            for message in answer:
                await send(message)

    async def _websocket(self, rule: Rule, scope: Scope, receive: Receive, send: Send) -> None:
        await self._wait(rule)
        if rule.action in ("hold", "delay"):
            await self.app(scope, receive, send)
        elif rule.action == "drop":
            await _drop(scope, receive)
        else:
            await receive()
            await deny_websocket(send, rule.status, rule.body)

    async def _wait(self, rule: Rule) -> None:
        if rule.action == "hold":
            await rule.released.wait()
        elif rule.action == "delay":
            await asyncio.sleep(rule.seconds)


async def deny_websocket(send: Send, status: int, body: object) -> None:
    """Answer a WebSocket upgrade with a plain HTTP status and a JSON body."""
    content = json.dumps(body if body is not None else {"error": f"fault {status}"}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": content})


async def _drop(scope: Scope, receive: Receive) -> None:
    """Cut the TCP connection without an answer."""
    if scope["transport"] is None:
        raise RuntimeError("drop needs FaultMiddleware to be the outermost app under uvicorn")
    scope["transport"].abort()
    while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
        pass


def _answer(rule: Rule) -> Response:
    body = rule.body if rule.body is not None else {"error": f"fault {rule.status}"}
    if isinstance(body, str):
        return Response(body, status_code=rule.status, media_type="text/plain")
    return JSONResponse(body, status_code=rule.status)


def _no_such_rule() -> Response:
    return JSONResponse({"error": "no such rule"}, status_code=404)
