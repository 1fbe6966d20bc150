"""The HTTP routes that the official SDK's worker loop uses: take a run, report, ping."""

import json
from typing import Final

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.runpod.bell import Bell
from devstack.runpod.cloud import Cloud
from devstack.runpod.runs import Json, Run

HOLD_SECONDS: Final = 20.0
# How often a held job-take looks again without a ring: a cold start ends by time alone.
LOOK_SECONDS: Final = 0.25


class WorkerApi:
    """Answers under /v2/{endpoint_id}/job-* and /ping as RunPod does to its workers."""

    def __init__(self, *, cloud: Cloud, bell: Bell) -> None:
        self._cloud = cloud
        self._bell = bell
        self._closing = False

    def routes(self) -> list[Route]:
        """The worker side's routes."""
        prefix = "/v2/{endpoint_id}"
        return [
            Route(f"{prefix}/job-take/{{worker_id}}", self._take, methods=["GET"]),
            Route(f"{prefix}/job-stop/{{worker_id}}", self._stop, methods=["GET"]),
            Route(f"{prefix}/job-done/{{worker_id}}/{{run_id}}", self._done, methods=["POST"]),
            Route(f"{prefix}/job-stream/{{worker_id}}/{{run_id}}", self._stream, methods=["POST"]),
            Route(f"{prefix}/ping/{{worker_id}}", self._ping, methods=["GET"]),
        ]

    def close(self) -> None:
        """Let go of every held request, so that the server can stop."""
        self._closing = True
        self._bell.ring()

    async def _take(self, request: HttpRequest) -> Response:
        worker_id = request.path_params["worker_id"]
        for _ in range(int(HOLD_SECONDS / LOOK_SECONDS)):
            if self._closing or await request.is_disconnected():
                break
            if self._cloud.options.render != "none":
                run = self._cloud.take(worker_id)
                if run is not None:
                    return JSONResponse(self._job(run))
            await self._bell.wait(LOOK_SECONDS)
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
        # A run that is over stops its worker's process, so this channel never has news.
        await self._bell.until(lambda: self._closing, HOLD_SECONDS)
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
    # The SDK labels its JSON as a form, so the content type says nothing.
    try:
        return json.loads(await request.body())
    except ValueError:
        return None
