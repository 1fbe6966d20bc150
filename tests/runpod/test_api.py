"""What each answer of RunPod means for the caller, with answers made by hand."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.jobs.errors import (
    OperatorFault,
    RunGone,
    RunPodRateLimited,
    RunPodUnavailable,
    RunRefused,
    SubmissionUnknown,
    WorkerError,
)
from worker.jobs.run import RunState
from worker.runpod.api import RunPodApi

URL = "https://api.runpod.ai/v2/abc123"
KEY = "plain0word0without0prefix"
BODY = {"input": {"width": 720}}
QUEUED = {"id": "run-1-u1", "status": "IN_QUEUE"}
NOT_ACCEPTED = (RunRefused, OperatorFault, RunPodRateLimited, RunPodUnavailable)


class Wire:
    """Answers requests from a list (the last one again and again) and keeps what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def api(handler: Callable, url: str = URL) -> RunPodApi:
    return RunPodApi(
        endpoint_url=url, api_key=KEY, retry_pause=0, transport=httpx.MockTransport(handler)
    )


async def raised(call) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await call
    assert KEY not in str(caught.value)
    return caught.value


async def test_a_submission_is_one_post_with_key_name_and_body():
    wire = Wire(httpx.Response(200, json=QUEUED))
    async with api(wire) as runpod:
        update = await runpod.submit(BODY)
    assert (update.run_id, update.state) == ("run-1-u1", RunState.QUEUED)
    (request,) = wire.requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}/run")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"].startswith("talking-head-worker/")
    assert json.loads(request.content) == BODY


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, OperatorFault),
        (302, SubmissionUnknown),
        (303, SubmissionUnknown),
        (307, OperatorFault),
        (308, OperatorFault),
        (400, RunRefused),
        (401, OperatorFault),
        (402, OperatorFault),
        (403, OperatorFault),
        (404, OperatorFault),
        (408, SubmissionUnknown),
        (409, RunRefused),
        (413, RunRefused),
        (422, RunRefused),
        (429, RunPodRateLimited),
        (500, SubmissionUnknown),
        (502, SubmissionUnknown),
        (503, SubmissionUnknown),
        (504, SubmissionUnknown),
        (524, SubmissionUnknown),
    ],
)
async def test_each_status_of_run_is_refusal_operator_fault_or_unknown(status, kind):
    wire = Wire(httpx.Response(status, json={"error": "no"}))
    async with api(wire) as runpod:
        error = await raised(runpod.submit(BODY))
    assert type(error) is kind
    assert len(wire.requests) == 1, "a submission is never repeated by the adapter"


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>busy</html>", b"[]", b"null", b'{"error": "x"}', b'{"id": "a b", "status": "x"}'],
)
async def test_a_200_that_names_no_run_leaves_the_outcome_unknown(content):
    async with api(Wire(httpx.Response(200, content=content))) as runpod:
        assert type(await raised(runpod.submit(BODY))) is SubmissionUnknown


async def test_a_200_nested_without_end_leaves_the_outcome_unknown():
    deep = httpx.Response(200, content=b"[" * 200_000)
    async with api(Wire(deep)) as runpod:
        assert type(await raised(runpod.submit(BODY))) is SubmissionUnknown


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (httpx.ConnectError, RunPodUnavailable),
        (httpx.ConnectTimeout, RunPodUnavailable),
        (httpx.PoolTimeout, RunPodUnavailable),
        (httpx.UnsupportedProtocol, RunPodUnavailable),
        (httpx.ProxyError, RunPodUnavailable),
        (httpx.WriteError, SubmissionUnknown),
        (httpx.WriteTimeout, SubmissionUnknown),
        (httpx.ReadError, SubmissionUnknown),
        (httpx.ReadTimeout, SubmissionUnknown),
        (httpx.RemoteProtocolError, SubmissionUnknown),
        (httpx.LocalProtocolError, SubmissionUnknown),
        (httpx.CloseError, SubmissionUnknown),
        (httpx.DecodingError, SubmissionUnknown),
    ],
)
async def test_only_faults_before_the_first_byte_prove_that_nothing_was_sent(fault, kind):
    async with api(Wire(fault("broken"))) as runpod:
        assert type(await raised(runpod.submit(BODY))) is kind


async def test_a_tls_alert_in_place_of_an_answer_leaves_the_outcome_unknown():
    async with api(Wire(OSError("tlsv13 alert certificate required"))) as runpod:
        assert type(await raised(runpod.submit(BODY))) is SubmissionUnknown


def test_every_transport_error_of_httpx_has_been_thought_about():
    """A new one in a newer httpx would count as unknown; this test asks to decide."""

    def family(kind: type[Exception]) -> set[str]:
        return {kind.__name__}.union(*(family(child) for child in kind.__subclasses__()))

    assert family(httpx.TransportError) == {
        *("TransportError", "TimeoutException", "NetworkError", "ProtocolError"),
        *("ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout"),
        *("ConnectError", "ReadError", "WriteError", "CloseError"),
        *("LocalProtocolError", "RemoteProtocolError", "ProxyError", "UnsupportedProtocol"),
    }


@given(status=st.integers(200, 599), content=st.binary(max_size=60) | st.just(json.dumps(QUEUED)))
async def test_any_answer_to_run_is_a_run_or_exactly_one_known_error(status, content):
    async with api(Wire(httpx.Response(status, content=content))) as runpod:
        try:
            update = await runpod.submit(BODY)
        except NOT_ACCEPTED:
            refused = (400 <= status < 500 and status != 408) or status in (301, 307, 308)
            assert refused, "only these answers prove that no run was started"
        except SubmissionUnknown:
            assert status == 408 or status >= 500 or status < 400
        else:
            assert 200 <= status < 300
            assert update.run_id == "run-1-u1"


async def test_a_request_that_runpod_would_not_take_for_its_size_is_not_sent():
    wire = Wire(httpx.Response(200, json=QUEUED))
    async with api(wire) as runpod:
        error = await raised(runpod.submit({"input": {"prompt": "x" * 10_000_000}}))
    assert isinstance(error, RunRefused)
    assert error.status == 413
    assert wire.requests == []


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "1e9"}, 300),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        (
            {
                "Retry-After": "Fri, 13 Nov 2026 10:00:30 GMT",
                "Date": "Fri, 13 Nov 2026 10:00:00 GMT",
            },
            30,
        ),
        ({"Retry-After": "Fri, 13 Nov 2026 10:00:30 GMT"}, None),
    ],
)
async def test_a_rate_limit_says_how_long_to_wait_if_runpod_does(headers, seconds):
    async with api(Wire(httpx.Response(429, headers=headers))) as runpod:
        for call in (runpod.submit(BODY), runpod.status("r"), runpod.health()):
            error = await raised(call)
            assert isinstance(error, RunPodRateLimited)
            assert error.retry_in == seconds


@pytest.mark.parametrize(
    "answer",
    [
        {"error": f"key {KEY} refused for https://x.example/a.wav?token=SECRET"},
        {"detail": f"Bearer {KEY} and sb_secret_SECRET"},
        f"<html><b>{KEY}</b> eyJSECRET00.eyJSECRET00.SECRET</html>",
        {"error": {"webhook": f"https://w.example/webhooks/runpod/1/2/SECRET?k={KEY}"}},
    ],
)
async def test_what_runpod_said_is_passed_on_without_secrets(answer):
    said = httpx.Response(400, json=answer) if isinstance(answer, dict) else answer
    wire = Wire(said if isinstance(said, httpx.Response) else httpx.Response(400, text=said))
    async with api(wire) as runpod:
        error = await raised(runpod.submit(BODY))
    assert "SECRET" not in error.message
    assert "HTTP 400: " in error.message


async def test_a_refusal_is_readable_and_short():
    async with api(Wire(httpx.Response(422, json={"error": "bad\ninput " * 500}))) as runpod:
        error = await raised(runpod.submit(BODY))
    assert error.message.startswith("RunPod refused the request with HTTP 422: bad input")
    assert len(error.message) < 600


async def test_status_and_cancel_and_health_ask_the_endpoint_that_is_named():
    wire = Wire(httpx.Response(200, json={**QUEUED, "jobs": {"inQueue": 3}}))
    async with api(wire, f"{URL}/") as runpod:
        await runpod.status("run-1-u1")
        await runpod.status("run-1-u1", endpoint_id="old9")
        await runpod.cancel("run-1-u1", endpoint_id="old9")
        health = await runpod.health(endpoint_id="old9")
        assert runpod.endpoint_id == "abc123"
    assert [(r.method, r.url.path) for r in wire.requests] == [
        ("GET", "/v2/abc123/status/run-1-u1"),
        ("GET", "/v2/old9/status/run-1-u1"),
        ("POST", "/v2/old9/cancel/run-1-u1"),
        ("GET", "/v2/old9/health"),
    ]
    assert health.in_queue == 3


@pytest.mark.parametrize("run_id", ["", "../health", "a/b", "a?b", "ä", "a" * 201, "a\n"])
async def test_an_id_that_could_change_the_path_is_never_put_into_it(run_id):
    wire = Wire(httpx.Response(200, json=QUEUED))
    async with api(wire) as runpod:
        assert isinstance(await raised(runpod.status(run_id)), RunGone)
        assert isinstance(await raised(runpod.cancel(run_id)), RunGone)
        if run_id:
            assert isinstance(await raised(runpod.health(endpoint_id=run_id)), OperatorFault)
    assert wire.requests == []


@pytest.mark.parametrize(
    ("status", "of_status", "of_health"),
    [
        (302, RunPodUnavailable, RunPodUnavailable),
        (400, RunPodUnavailable, RunPodUnavailable),
        (401, OperatorFault, OperatorFault),
        (402, OperatorFault, OperatorFault),
        (403, OperatorFault, OperatorFault),
        (404, RunGone, OperatorFault),
        (408, RunPodUnavailable, RunPodUnavailable),
        (429, RunPodRateLimited, RunPodRateLimited),
        (500, RunPodUnavailable, RunPodUnavailable),
    ],
)
async def test_each_status_of_a_question_is_translated(status, of_status, of_health):
    async with api(Wire(httpx.Response(status, text="x"))) as runpod:
        assert type(await raised(runpod.status("r"))) is of_status
        assert type(await raised(runpod.cancel("r"))) is of_status
        assert type(await raised(runpod.health())) is of_health


@pytest.mark.parametrize("content", [b"", b"nope", b"[]", b"{}", b'{"id":"other","status":"X"}'])
async def test_an_unreadable_status_changes_nothing_for_the_run(content):
    async with api(Wire(httpx.Response(200, content=content))) as runpod:
        assert type(await raised(runpod.status("r"))) is RunPodUnavailable
        assert type(await raised(runpod.health())) is RunPodUnavailable


@pytest.mark.parametrize("fault", [httpx.Response(502), httpx.RemoteProtocolError("stale")])
async def test_a_question_is_asked_once_more_after_a_passing_fault(fault):
    wire = Wire(fault, httpx.Response(200, json=QUEUED))
    async with api(wire) as runpod:
        assert (await runpod.status("run-1-u1")).state is RunState.QUEUED
    assert len(wire.requests) == 2


@pytest.mark.parametrize("fault", [httpx.Response(503), httpx.ConnectError("away")])
async def test_a_question_is_asked_twice_and_no_more(fault):
    wire = Wire(fault)
    async with api(wire) as runpod:
        assert isinstance(await raised(runpod.health()), RunPodUnavailable)
    assert len(wire.requests) == 2


@pytest.mark.parametrize(("action", "most"), [("cancel", 5), ("status", 32)])
async def test_no_more_than_a_few_requests_are_under_way_at_once(action, most):
    under_way, peak, full = 0, 0, asyncio.Event()

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, peak
        under_way += 1
        peak = max(peak, under_way)
        if under_way == most:
            full.set()
        await full.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        under_way -= 1
        return httpx.Response(200, json={"id": request.url.path.split("/")[-1], "status": "X"})

    async with api(handler) as runpod:
        await asyncio.gather(*(getattr(runpod, action)(f"r{n}") for n in range(100)))
    assert peak == most


@pytest.mark.parametrize(
    "url",
    [
        "api.runpod.ai/v2/abc",
        "ftp://api.runpod.ai/v2/abc",
        "https://u:p@api.runpod.ai/v2/abc",
        "https://api.runpod.ai/v2/abc?x=1",
        "https://api.runpod.ai/",
        "https:///v2/abc",
    ],
)
def test_an_address_that_is_no_endpoint_is_refused_at_start(url):
    with pytest.raises(ValueError, match="endpoint URL"):
        RunPodApi(endpoint_url=url, api_key=KEY)


@pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_at_start(key):
    with pytest.raises(ValueError, match="API key") as caught:
        RunPodApi(endpoint_url=URL, api_key=key)
    assert not key or key not in str(caught.value)


async def test_an_answer_that_arrived_while_the_process_was_frozen_is_read() -> None:
    """The timer is over and the answer is there: the answer counts, or the run would be unknown."""

    async def frozen(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.05
        while loop.time() < until:
            pass  # nothing of this process runs
        for _ in range(20):  # reading it from the socket takes a few rounds of the loop
            await asyncio.sleep(0)
        return httpx.Response(200, json=QUEUED)

    runpod = RunPodApi(
        endpoint_url=URL, api_key=KEY, submit_seconds=0.01, transport=httpx.MockTransport(frozen)
    )
    async with runpod:
        assert (await runpod.submit(BODY)).run_id == "run-1-u1"


async def test_an_answer_that_never_arrives_leaves_the_outcome_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.runpod.api._LATE_ANSWER_SECONDS", 0.01)

    async def silent(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    runpod = RunPodApi(
        endpoint_url=URL, api_key=KEY, submit_seconds=0.01, transport=httpx.MockTransport(silent)
    )
    async with runpod:
        assert isinstance(await raised(runpod.submit(BODY)), SubmissionUnknown)
