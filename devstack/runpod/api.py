"""The HTTP routes that a client of the endpoint uses: run, status, cancel, retry, health."""

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.runpod.cloud import Cloud
from devstack.runpod.condition import Condition
from devstack.runpod.health import health
from devstack.runpod.limits import Limits, TooMany
from devstack.runpod.runs import Refused, Request, Run

RUN_LIMIT_BYTES: Final = 10_000_000
RUNSYNC_LIMIT_BYTES: Final = 20_000_000

Endpoint = Callable[[HttpRequest], Awaitable[Response]]


class ClientApi:
    """Answers under /v2/{endpoint_id} as api.runpod.ai does."""

    def __init__(
        self, *, cloud: Cloud, condition: Condition, limits: Limits, api_key: str, endpoint_id: str
    ) -> None:
        self._cloud = cloud
        self._condition = condition
        self._limits = limits
        self._api_key = api_key
        self._endpoint_id = endpoint_id

    def routes(self) -> list[Route]:
        """Return the routes; each checks the key, the endpoint's id and the rate limits."""
        table: list[tuple[str, str, str, Endpoint]] = [
            ("POST", "/run", "run", self._run),
            ("POST", "/runsync", "runsync", self._runsync),
            ("GET", "/status/{run_id}", "status", self._status),
            ("GET", "/stream/{run_id}", "stream", self._stream),
            ("POST", "/cancel/{run_id}", "cancel", self._cancel),
            ("POST", "/retry/{run_id}", "retry", self._retry),
            ("POST", "/purge-queue", "purge-queue", self._purge),
            ("GET", "/health", "health", self._health),
        ]
        return [
            Route(f"/v2/{{endpoint_id}}{path}", self._guarded(name, answer), methods=[method])
            for method, path, name, answer in table
        ]

    def _guarded(self, operation: str, answer: Endpoint) -> Endpoint:
        async def guarded(request: HttpRequest) -> Response:
            given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode(), self._api_key.encode()):
                return error(401, "unauthorized")
            if request.path_params["endpoint_id"] != self._endpoint_id:
                return error(404, "endpoint not found")
            try:
                with self._limits.count(operation, enforce=self._cloud.options.rate_limits):
                    return await answer(request)
            except TooMany:
                return error(429, "too many requests")
            except Refused as refused:
                return error(400, str(refused))

        return guarded

    async def _accept(self, request: HttpRequest, limit: int) -> Run:
        if int(request.headers.get("content-length", 0)) > limit:
            raise Refused(f"body is larger than {limit // 1_000_000} MB")
        raw = await request.body()
        if len(raw) > limit:
            raise Refused(f"body is larger than {limit // 1_000_000} MB")
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as broken:
            raise Refused("body is not JSON") from broken
        return self._cloud.accept(Request.from_body(body))

    async def _run(self, request: HttpRequest) -> Response:
        run = await self._accept(request, RUN_LIMIT_BYTES)
        return JSONResponse({"id": run.id, "status": "IN_QUEUE"})

    async def _runsync(self, request: HttpRequest) -> Response:
        try:
            wait = min(max(int(request.query_params.get("wait", 90_000)), 1_000), 300_000) / 1000
        except ValueError as broken:
            raise Refused("wait must be whole milliseconds") from broken
        run = await self._accept(request, RUNSYNC_LIMIT_BYTES)
        await self._condition.until(lambda: run.state.terminal or run.gone is not None, wait)
        return JSONResponse(run.status(self._cloud.now()))

    async def _status(self, request: HttpRequest) -> Response:
        run = self._cloud.find(request.path_params["run_id"])
        if run is None:
            return error(404, "request does not exist")
        return JSONResponse(run.status(self._cloud.now()))

    async def _stream(self, request: HttpRequest) -> Response:
        run = self._cloud.find(request.path_params["run_id"])
        if run is None:
            return error(404, "request does not exist")
        chunks, run.stream = run.stream, []
        return JSONResponse(
            {"status": str(run.state), "stream": [{"output": chunk} for chunk in chunks]}
        )

    async def _cancel(self, request: HttpRequest) -> Response:
        run = self._cloud.find(request.path_params["run_id"])
        if run is None:
            return error(404, "request does not exist")
        self._cloud.cancel(run)
        return JSONResponse({"id": run.id, "status": str(run.state)})

    async def _retry(self, request: HttpRequest) -> Response:
        run = self._cloud.find(request.path_params["run_id"])
        if run is None:
            return error(404, "request does not exist")
        if not self._cloud.retry(run):
            return error(400, "only failed or timed out requests can be retried")
        return JSONResponse({"id": run.id, "status": str(run.state)})

    async def _purge(self, request: HttpRequest) -> Response:
        return JSONResponse({"removed": self._cloud.purge(), "status": "completed"})

    async def _health(self, request: HttpRequest) -> Response:
        return JSONResponse(health(self._cloud))


def error(status: int, text: str) -> Response:
    """Return an error in the form that RunPod's own tools expect."""
    return JSONResponse({"error": text}, status_code=status)
