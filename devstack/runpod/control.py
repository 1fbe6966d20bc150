"""The control routes, by which tests and people inspect and control the stand-in."""

import json
from collections.abc import Callable

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.runpod.api import error
from devstack.runpod.cloud import Cloud
from devstack.runpod.condition import Condition
from devstack.runpod.health import health
from devstack.runpod.limits import Limits
from devstack.runpod.options import OptionsInvalid
from devstack.runpod.runs import Run, State


class Control:
    """Answers under /_control/, without a key: the stand-in listens only on loopback."""

    def __init__(
        self,
        *,
        cloud: Cloud,
        condition: Condition,
        limits: Limits,
        advance: Callable[[float], None],
    ) -> None:
        self._cloud = cloud
        self._condition = condition
        self._limits = limits
        self._advance = advance

    def routes(self) -> list[Route]:
        """Return the control routes of the RunPod part."""
        return [
            Route("/_control/options", self._options, methods=["GET", "PUT"]),
            Route("/_control/runs", self._runs, methods=["GET"]),
            Route("/_control/runs/{run_id}", self._run, methods=["GET"]),
            Route("/_control/runs/{run_id}", self._force, methods=["POST"]),
            Route("/_control/stats", self._stats, methods=["GET"]),
            Route("/_control/advance", self._forward, methods=["POST"]),
        ]

    async def _options(self, request: HttpRequest) -> Response:
        if request.method == "PUT":
            wanted = await _object(request)
            if wanted is None:
                return error(400, "options must be a JSON object")
            try:
                self._cloud.options = self._cloud.options.changed(wanted)
            except OptionsInvalid as wrong:
                return error(400, str(wrong))
            self._condition.notify()
        options = self._cloud.options
        return JSONResponse({name: getattr(options, name) for name in options.__slots__})

    async def _runs(self, request: HttpRequest) -> Response:
        """List the runs; `at_least=N&timeout=S` first waits until there are N (else 408)."""
        query = request.query_params
        wanted = int(query.get("at_least", 0))
        seconds = float(query.get("timeout", 20))
        enough = await self._condition.until(lambda: len(self._cloud.runs) >= wanted, seconds)
        self._cloud.settle()
        now, brief = self._cloud.now(), query.get("brief") is not None
        runs = [run.record(now, brief=brief) for run in self._cloud.runs.values()]
        return JSONResponse(runs, status_code=200 if enough else 408)

    async def _run(self, request: HttpRequest) -> Response:
        """Show one run; `state=COMPLETED&timeout=S` first waits for that state (else 408)."""
        run = self._cloud.runs.get(request.path_params["run_id"])
        if run is None:
            return error(404, "no such run")
        wanted = request.query_params.get("state")
        seconds = float(request.query_params.get("timeout", 20))
        reached = await self._condition.until(lambda: wanted in (None, str(run.state)), seconds)
        return JSONResponse(run.record(self._cloud.now()), status_code=200 if reached else 408)

    async def _force(self, request: HttpRequest) -> Response:
        run = self._cloud.runs.get(request.path_params["run_id"])
        if run is None:
            return error(404, "no such run")
        wanted = await _object(request)
        if wanted is None:
            return error(400, "the outcome must be a JSON object")
        try:
            _force(self._cloud, run, wanted)
        except ValueError as wrong:
            return error(400, str(wrong))
        return JSONResponse(run.record(self._cloud.now(), brief=True))

    async def _stats(self, request: HttpRequest) -> Response:
        return JSONResponse({"requests": self._limits.as_json(), "health": health(self._cloud)})

    async def _forward(self, request: HttpRequest) -> Response:
        """Move the stand-in's clock forward, so that retention and deadlines need no waiting."""
        wanted = await _object(request)
        seconds = (wanted or {}).get("seconds")
        if not isinstance(seconds, int | float) or seconds < 0:
            return error(400, "seconds must be a number of at least 0")
        self._advance(float(seconds))
        self._cloud.settle()
        self._condition.notify()
        return JSONResponse({"now": self._cloud.now()})


async def _object(request: HttpRequest) -> dict[str, object] | None:
    try:
        body = json.loads(await request.body())
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _force(cloud: Cloud, run: Run, wanted: dict[str, object]) -> None:
    """Set a run's state, output, error and retries; raise ValueError for an unknown state."""
    if wanted.get("gone"):
        cloud.forget(run, "forced")
        return
    state = State(str(wanted.get("state", run.state)))
    run.output = wanted.get("output", run.output)
    retries = wanted.get("retries", run.retries)
    run.retries = retries if isinstance(retries, int) else 0
    if state is not State.IN_QUEUE and state is not State.CANCELLED and run.started_at is None:
        run.started_at, run.worker_id = cloud.now(), "forced"
    if state.terminal:
        heard = wanted.get("webhook") is not False
        cloud.end(run, state, error=wanted.get("error"), webhook=heard)
        return
    cloud.live[run.id] = run
    run.state, run.ended_at, run.error = state, None, wanted.get("error")
    cloud.on_change()
