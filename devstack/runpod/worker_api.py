"""The HTTP routes that the official SDK's worker loop uses: take a run, report, ping."""

import json
from typing import Final

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.runpod.cloud import Cloud
from devstack.runpod.condition import Condition
from devstack.runpod.runs import Json, Run

HOLD_SECONDS: Final = 20.0
# How often a waiting job-take checks without a change: a cold start ends by time alone.
CHECK_SECONDS: Final = 0.25


class WorkerApi:
    """Answers under /v2/{endpoint_id}/job-* and /ping as RunPod does to its workers."""

    def __init__(self, *, cloud: Cloud, condition: Condition) -> None:
        self._cloud = cloud
        self._condition = condition
        self._closing = False

    def routes(self) -> list[Route]:
        """Return the routes that workers use."""
        prefix = "/v2/{endpoint_id}"
        return [
            Route(f"{prefix}/job-take/{{worker_id}}", self._take, methods=["GET"]),
            Route(f"{prefix}/job-stop/{{worker_id}}", self._stop, methods=["GET"]),
            Route(f"{prefix}/job-done/{{worker_id}}/{{run_id}}", self._done, methods=["POST"]),
            Route(f"{prefix}/job-stream/{{worker_id}}/{{run_id}}", self._stream, methods=["POST"]),
            Route(f"{prefix}/ping/{{worker_id}}", self._ping, methods=["GET"]),
        ]

    def close(self) -> None:
        """Release all held requests, so that the server can stop."""
        self._closing = True
        self._condition.notify()

    async def _take(self, request: HttpRequest) -> Response:
        worker_id = request.path_params["worker_id"]
        for _ in range(int(HOLD_SECONDS / CHECK_SECONDS)):
            if self._closing or await request.is_disconnected():
                break
            if self._cloud.options.render != "none":
                run = self._cloud.take(worker_id)
                if run is not None:
                    return JSONResponse(self._job(run))
            await self._condition.wait(CHECK_SECONDS)
        return Response(status_code=204)

    def _job(self, run: Run) -> Json:
        options = self._cloud.options
        return {
            "id": run.id,
            "input": run.request.input,
            "webhook": run.request.webhook,
            "standin": {
                "hang": self._cloud.draw(run, "hang") < options.hang,
                "fail_text": self._cloud.fail_text(run),
                "run_seconds": options.run_seconds_max,
                "report_progress": options.report_progress,
            },
        }

    async def _stop(self, request: HttpRequest) -> Response:
        # The end of a run stops its worker's process, so this never reports anything.
        await self._condition.until(lambda: self._closing, HOLD_SECONDS)
        return Response(status_code=204)

    async def _done(self, request: HttpRequest) -> Response:
        worker_id, run_id = request.path_params["worker_id"], request.path_params["run_id"]
        result = await _json(request)
        run = self._cloud.runs.get(run_id)
        if run is None or run.gone or not isinstance(result, dict):
            return Response(status_code=400)
        self._cloud.heard(worker_id)
        if result.get("status") == "IN_PROGRESS":
            self._cloud.progress(run, worker_id, result.get("output"))
            return Response(status_code=200)
        accepted = self._cloud.finish(run, worker_id, result)
        return Response(status_code=200 if accepted else 400)

    async def _stream(self, request: HttpRequest) -> Response:
        run = self._cloud.runs.get(request.path_params["run_id"])
        chunk = await _json(request)
        if run is None or run.gone or not isinstance(chunk, dict):
            return Response(status_code=400)
        run.stream.append(chunk.get("output"))
        return Response(status_code=200)

    async def _ping(self, request: HttpRequest) -> Response:
        self._cloud.heard(request.path_params["worker_id"])
        return Response(status_code=200)


async def _json(request: HttpRequest) -> object:
    # The SDK sends its JSON with the content type of a form: ignore the content type.
    try:
        return json.loads(await request.body())
    except ValueError:
        return None
