"""RunPod's job API over HTTP: submit, status, cancel and health with typed errors."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Mapping
from types import TracebackType
from urllib.parse import urlsplit

import httpx

from worker import __version__
from worker.jobs.errors import (
    OperatorFault,
    RunGone,
    RunPodRateLimited,
    RunPodUnavailable,
    RunRefused,
    SubmissionUnknown,
)
from worker.jobs.health import Health, parse_health
from worker.jobs.run import RunBodyInvalid, RunUpdate, parse_run
from worker.runpod.wire import (
    HTTP_OK,
    Answer,
    Broken,
    NotSent,
    exchange,
    said,
)
from worker.runtime.metrics import METRICS

# RunPod's own check of run ids; it also keeps a foreign id from changing the path of a request.
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_MAX_REQUEST_BYTES = 10_000_000
_OPERATOR = frozenset({401, 402, 403, 404})
# 301, 307 and 308 say "not here": nothing was taken, the endpoint's address is wrong. 302 and 303
# may follow an accepted POST, so they prove nothing.
_MOVED = frozenset({301, 307, 308})
SUBMIT_SECONDS = 45.0
"""How long an answer to POST /run may take: after connecting there are 40 s to wait for it."""
_CONNECT_SECONDS = 5.0
_GET_SECONDS = 30.0
_LATE_ANSWER_SECONDS = 1.0
_MAX_CONCURRENT = 32
# /cancel is limited to 100 per 10 s and 20 at a time, far tighter than everything else.
_MAX_CONCURRENT_CANCELS = 5
_FAULTS = {NotSent: "not_sent", Broken: "broken", TimeoutError: "timeout"}


class RunPodApi:
    """One endpoint of RunPod; other endpoints of the same account by their id."""

    def __init__(
        self,
        *,
        endpoint_url: str,
        api_key: str,
        submit_seconds: float = SUBMIT_SECONDS,
        retry_pause: float = 0.3,
        trust_env: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`endpoint_url` is https://api.runpod.ai/v2/<id>; `submit_seconds` bounds POST /run.

        `trust_env` stays off: a proxy named in the environment would stand between us and RunPod
        and blur which errors prove that a request was never sent.
        """
        self._base, self.endpoint_id = _split_endpoint(endpoint_url)
        if not api_key or not api_key.isascii() or any(c.isspace() for c in api_key):
            raise ValueError("the RunPod API key must be one word of plain characters")
        self._key = api_key
        self.submit_seconds = submit_seconds
        self._retry_pause = retry_pause
        self._jitter = jitter
        self._requests = asyncio.Semaphore(_MAX_CONCURRENT)
        self._cancels = asyncio.Semaphore(_MAX_CONCURRENT_CANCELS)
        verify = httpx.create_ssl_context(trust_env=trust_env) if transport is None else True

        def client(timeout: httpx.Timeout, keepalive: int) -> httpx.AsyncClient:
            return httpx.AsyncClient(
                headers={
                    "Authorization": f"Bearer {api_key}",
                    "User-Agent": f"talking-head-worker/{__version__}",
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                },
                timeout=timeout,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=keepalive),
                verify=verify,
                trust_env=trust_env,
                transport=transport,
            )

        # A POST on a kept-alive connection that the other side has closed ends as an unknown
        # outcome, so /run opens a connection of its own each time.
        # How long its answer may take is measured in _post, where a late one is still read.
        self._submit = client(httpx.Timeout(None, connect=_CONNECT_SECONDS), 0)
        self._pooled = client(
            httpx.Timeout(_GET_SECONDS, connect=_CONNECT_SECONDS), _MAX_CONCURRENT
        )

    async def __aenter__(self) -> RunPodApi:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._submit.aclose()
        await self._pooled.aclose()

    async def submit(self, body: Mapping[str, object]) -> RunUpdate:
        """POST /run.

        RunRefused, OperatorFault, RunPodRateLimited and RunPodUnavailable prove that no run was
        started; SubmissionUnknown proves nothing.
        """
        content = json.dumps(body, allow_nan=False).encode()
        if len(content) > _MAX_REQUEST_BYTES:
            raise RunRefused(
                413, f"The request has {len(content)} bytes, RunPod takes {_MAX_REQUEST_BYTES}."
            )
        url = self._url(None, "run")
        try:
            answer = await self._post(url, content)
        except NotSent as error:
            _count("run", "not_sent")
            raise RunPodUnavailable(None, f"RunPod cannot be reached ({error}).") from error
        except Broken as error:
            _count("run", "broken")
            raise SubmissionUnknown(
                f"No answer of RunPod to the submission ({error}); it may have been accepted."
            ) from error
        except TimeoutError as error:
            _count("run", "timeout")
            raise SubmissionUnknown(
                "RunPod did not finish its answer to the submission; it may have been accepted."
            ) from error
        _count("run", str(answer.status))
        return self._submitted(answer)

    async def _post(self, url: str, content: bytes) -> Answer:
        """POST within `submit_seconds`; TimeoutError if no answer has arrived by then.

        A process that was frozen finds its timer over and the answer in the socket at the same
        time: the answer is read first.
        """

        async def ask() -> Answer | NotSent | Broken:
            try:
                headers = {"Content-Type": "application/json"}
                return await exchange(self._submit, "POST", url, content=content, headers=headers)
            except (NotSent, Broken) as error:
                return error

        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask())
            await asyncio.wait({asking}, timeout=self.submit_seconds)
            if not asking.done():
                await asyncio.wait({asking}, timeout=_LATE_ANSWER_SECONDS)
            if not asking.done():
                asking.cancel()
        if asking.cancelled():
            raise TimeoutError
        answer = asking.result()
        if isinstance(answer, Answer):
            return answer
        raise answer

    def _submitted(self, answer: Answer) -> RunUpdate:
        status = answer.status
        if HTTP_OK <= status < 300:
            return self._accepted(answer)
        text = said(answer, self._key)
        if status == 429:
            raise RunPodRateLimited(answer.retry_in)
        if status in _OPERATOR or status in _MOVED:
            raise OperatorFault(status, _operator_advice(status, text))
        if 400 <= status < 500 and status != 408:
            raise RunRefused(status, f"RunPod refused the request with HTTP {status}{text}")
        raise SubmissionUnknown(
            f"RunPod answered HTTP {status} to the submission; it may have been accepted."
        )

    def _accepted(self, answer: Answer) -> RunUpdate:
        try:
            return parse_run(answer.json())
        except (RunBodyInvalid, ValueError) as error:
            raise SubmissionUnknown(
                "RunPod answered the submission without naming a run; it may have been accepted."
            ) from error

    async def status(self, run_id: str, *, endpoint_id: str | None = None) -> RunUpdate:
        """GET /status: RunGone on 404, else RunPodUnavailable, RunPodRateLimited, OperatorFault."""
        url = self._url(endpoint_id, "status", run_id)
        answer = await self._ask("status", "GET", url)
        if answer.status == 404:
            raise RunGone
        self._expect_ok(answer)
        try:
            return parse_run(answer.json(), run_id=run_id)
        except (RunBodyInvalid, ValueError) as error:
            raise RunPodUnavailable(
                answer.status, f"RunPod's /status is unreadable ({error})."
            ) from error

    async def cancel(self, run_id: str, *, endpoint_id: str | None = None) -> None:
        """POST /cancel, best effort: keep polling until the run is terminal. RunGone on 404."""
        url = self._url(endpoint_id, "cancel", run_id)
        async with self._cancels:
            answer = await self._ask("cancel", "POST", url)
        if answer.status == 404:
            raise RunGone
        self._expect_ok(answer)

    async def health(self, *, endpoint_id: str | None = None) -> Health:
        """GET /health: the endpoint's counters; 404 is an OperatorFault (no such endpoint)."""
        answer = await self._ask("health", "GET", self._url(endpoint_id, "health"))
        self._expect_ok(answer)
        try:
            return parse_health(answer.json())
        except ValueError as error:
            raise RunPodUnavailable(answer.status, "RunPod's /health is unreadable.") from error

    async def _ask(self, operation: str, method: str, url: str) -> Answer:
        """Send a request that may be repeated: once more after a passing fault."""
        try:
            answer = await self._ask_once(operation, method, url)
        except RunPodUnavailable:
            answer = None
        if answer is not None and answer.status not in (500, 502, 503, 504):
            return answer
        await asyncio.sleep(self._retry_pause * (0.5 + self._jitter()))
        return await self._ask_once(operation, method, url)

    async def _ask_once(self, operation: str, method: str, url: str) -> Answer:
        async with self._requests:
            try:
                async with asyncio.timeout(_GET_SECONDS):
                    answer = await exchange(self._pooled, method, url)
            except (NotSent, Broken, TimeoutError) as error:
                why = str(error) or "no whole answer in time"
                _count(operation, _FAULTS[type(error)])
                raise RunPodUnavailable(None, f"RunPod does not answer ({why}).") from error
        _count(operation, str(answer.status))
        return answer

    def _expect_ok(self, answer: Answer) -> None:
        status = answer.status
        if HTTP_OK <= status < 300:
            return
        text = said(answer, self._key)
        if status == 429:
            raise RunPodRateLimited(answer.retry_in)
        if status in _OPERATOR:
            raise OperatorFault(status, _operator_advice(status, text))
        raise RunPodUnavailable(status, f"RunPod answered HTTP {status}{text}")

    def _url(self, endpoint_id: str | None, action: str, run_id: str | None = None) -> str:
        endpoint = endpoint_id or self.endpoint_id
        if not _ID.fullmatch(endpoint):
            raise OperatorFault(404, "The endpoint's id has a form that RunPod never uses.")
        if run_id is None:
            return f"{self._base}/{endpoint}/{action}"
        if not _ID.fullmatch(run_id):
            raise RunGone("The run's id has a form that RunPod never uses.")
        return f"{self._base}/{endpoint}/{action}/{run_id}"


def _count(operation: str, code: str) -> None:
    METRICS.count_answer(operation, code)


def _split_endpoint(url: str) -> tuple[str, str]:
    parts = urlsplit(url.rstrip("/"))
    base, _, endpoint_id = parts.path.rpartition("/")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("the RunPod endpoint URL must look like https://api.runpod.ai/v2/<id>")
    if parts.query or parts.fragment or not _ID.fullmatch(endpoint_id):
        raise ValueError("the RunPod endpoint URL must end with the endpoint's id")
    return f"{parts.scheme}://{parts.netloc}{base}", endpoint_id


def _operator_advice(status: int, text: str) -> str:
    advice = {
        401: "RunPod refuses the API key: check RUNPOD_API_KEY.",
        402: "RunPod's account has no credit: add credit.",
        403: "RunPod forbids this: check the rights of RUNPOD_API_KEY.",
        404: "RunPod knows no such endpoint: check RUNPOD_ENDPOINT_ID or RUNPOD_ENDPOINT_URL.",
    }.get(status, "RunPod's endpoint has another address: check RUNPOD_ENDPOINT_URL.")
    return f"{advice} (HTTP {status}{text})"
