"""The HTTP side: RunPod's webhook, /livez, /readyz and /metrics, and the server for them."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
from collections.abc import Callable, Iterator, Sequence

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from worker.jobs.errors import WorkerError
from worker.reconcile.reconciler import Reconciler, WebhookResult
from worker.runtime.connections import LIMITS, LimitedProtocol
from worker.runtime.loops import Heartbeats
from worker.runtime.metrics import METRICS
from worker.runtime.readiness import Readiness

log = structlog.get_logger(__name__)

MAX_BODY = 2 * 1024 * 1024


def signature(secret: str, job_id: str, attempt: int) -> str:
    """The last part of a submission's webhook URL: an HMAC-SHA256 that only we can make."""
    said = f"runpod/{job_id}/{attempt}".encode()
    return hmac.new(secret.encode(), said, hashlib.sha256).hexdigest()


def webhook_url(public_url: str, secrets: Sequence[str], job_id: str, attempt: int) -> str | None:
    """Where RunPod reports one submission; None without webhooks."""
    if not public_url or not secrets:
        return None
    mac = signature(secrets[0], job_id, attempt)
    return f"{public_url}/webhooks/runpod/{job_id}/{attempt}/{mac}"


class Web:
    """The Starlette application and what it reads."""

    def __init__(
        self,
        *,
        reconciler: Reconciler,
        readiness: Readiness,
        beats: Heartbeats,
        secrets: Sequence[str],
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self._reconciler = reconciler
        self._readiness = readiness
        self._beats = beats
        self._secrets = tuple(secrets)
        self._refresh = refresh

    def app(self) -> Starlette:
        """The application; without a secret there is no webhook route at all."""
        routes = [
            Route("/livez", self.livez),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
        ]
        if self._secrets:
            path = "/webhooks/runpod/{job_id:uuid}/{attempt}/{mac}"
            routes.append(Route(path, self.webhook, methods=["POST"]))
        return Starlette(routes=routes)

    async def livez(self, _request: Request) -> Response:
        """200 while every loop comes round; Fly routes by this one."""
        stuck = self._beats.stuck()
        body = {"status": "stuck" if stuck else "ok", "stuck": stuck}
        return JSONResponse(body, status_code=503 if stuck else 200)

    async def readyz(self, _request: Request) -> Response:
        """Whether jobs can move, and if not, why."""
        status = self._readiness.status
        body = {"status": status, "reasons": self._readiness.reasons}
        return JSONResponse(body, status_code=503 if status == "down" else 200)

    async def metrics(self, _request: Request) -> Response:
        """Prometheus' exposition format."""
        METRICS.ready.set({"ok": 2, "degraded": 1, "down": 0}[self._readiness.status])
        self._refresh()
        return Response(METRICS.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def webhook(self, request: Request) -> Response:
        """200 only after the row is written; 503 makes RunPod send it again."""
        job_id = str(request.path_params["job_id"])
        number = str(request.path_params["attempt"])
        # Python refuses to read numbers of thousands of digits.
        attempt = int(number) if number.isascii() and number.isdigit() and len(number) < 11 else -1
        # 256 bits cannot be guessed, and a wrong one costs microseconds: nothing more is done.
        if not self._signed(job_id, attempt, str(request.path_params["mac"])):
            METRICS.webhooks.labels("forged").inc()
            return PlainTextResponse("not found", status_code=404)
        if not 0 <= attempt < 2**31:
            return PlainTextResponse("not found", status_code=404)
        body = await _read_json(request)
        with structlog.contextvars.bound_contextvars(job_id=job_id, attempt=attempt):
            try:
                result = await self._reconciler.webhook(job_id, attempt, body)
            except WorkerError as error:
                METRICS.webhooks.labels("unavailable").inc()
                log.warning("webhook.not_now", reason=error.message)
                return PlainTextResponse("try again", status_code=503)
            METRICS.webhooks.labels(result.value).inc()
            log.info("webhook.received", result=result.value)
        status = 503 if result is WebhookResult.NOT_WRITTEN else 200
        return JSONResponse({"result": result.value}, status_code=status)

    def _signed(self, job_id: str, attempt: int, mac: str) -> bool:
        given = mac.encode()
        # All secrets are compared, so that the time tells nothing about which one fits.
        fits = False
        for secret in self._secrets:
            fits |= hmac.compare_digest(signature(secret, job_id, attempt).encode(), given)
        return fits


async def _read_json(request: Request) -> object:
    """The body as JSON; None if it is too large, broken off, or no JSON: it is only a hint."""
    chunks = bytearray()
    try:
        async for chunk in request.stream():
            chunks += chunk
            if len(chunks) > MAX_BODY:
                return None
        parsed: object = json.loads(chunks)
    except (ClientDisconnect, ValueError, RecursionError):
        return None
    return parsed


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling: the application decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server_for(web: Web) -> uvicorn.Server:
    """The server, which ends when its `should_exit` is set."""
    return _Server(
        uvicorn.Config(
            web.app(),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=3,
            http=LimitedProtocol,
            # An upgraded connection would be outside the limits.
            ws="none",
            backlog=LIMITS.backlog,
            h11_max_incomplete_event_size=LIMITS.head_bytes,
            timeout_keep_alive=int(LIMITS.request_seconds),
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """Take the port at once; OSError when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    return server
