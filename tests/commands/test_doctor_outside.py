"""`doctor` finds problems with RunPod and with the webhook."""

import httpx
import pytest
import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from devstack.server import AppServer
from tests.commands.backend import (
    METHODS,
    SECRET,
    Backend,
    answering,
    fault,
    unused_url,
    worker_web,
)
from worker.doctor.endpoint import judge_workers
from worker.jobs.errors import StoreUnavailable
from worker.jobs.health import Health

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("doctor_outside")]


@pytest.mark.parametrize(
    ("changes", "says", "fix"),
    [
        ({"RUNPOD_API_KEY": "rpa_wrong"}, "refuses the API key", "API Keys in RunPod's console"),
        (
            {"RUNPOD_ENDPOINT_URL": "{base}/gone"},
            "knows no such endpoint",
            "Copy the endpoint's id",
        ),
        ({"RUNPOD_ENDPOINT_URL": "{nobody}/v2/x"}, "does not answer", "status.runpod.io"),
    ],
)
async def test_an_endpoint_that_cannot_be_used_is_reported(
    backend: Backend, changes: dict[str, str], says: str, fix: str
) -> None:
    base = backend.runpod.endpoint_url.rpartition("/")[0]
    filled = {name: value.format(base=base, nobody=unused_url()) for name, value in changes.items()}
    result = (await backend.examine("runpod", **filled))["runpod.endpoint"]
    assert result.level == "fail"
    assert says in result.message
    assert fix in result.fix
    assert "rpa_wrong" not in result.message


@pytest.mark.parametrize(
    ("status", "fix"), [(402, "Add credit"), (403, "Give the key access"), (500, "RUNPOD_")]
)
async def test_an_error_from_runpod_is_reported_with_advice(
    backend: Backend, status: int, fix: str
) -> None:
    with fault(backend.runpod, path="/health", action="status", status=status):
        result = (await backend.examine("runpod"))["runpod.endpoint"]
    assert (result.level, fix in result.fix) == ("fail", True)


async def test_an_endpoint_without_workers_is_reported(backend: Backend) -> None:
    """After seven days without a request RunPod sets Max Workers to 0, and runs wait forever."""
    runpod = backend.runpod
    await _control(backend, "PUT", "/options", {"no_workers": True})
    try:
        headers = {"Authorization": f"Bearer {runpod.api_key}"}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
            answer = await http.post(f"{runpod.endpoint_url}/run", json={"input": {"a": 1}})
            result = (await backend.examine("runpod"))["runpod.workers"]
            await http.post(f"{runpod.endpoint_url}/cancel/{answer.json()['id']}")
    finally:
        await _control(backend, "PUT", "/options", {"no_workers": False})
    assert result.level == "fail"
    assert "no workers, but 1 waiting." in result.message
    assert "Raise Max Workers" in result.fix


@pytest.mark.parametrize(
    ("workers", "waiting", "level", "says"),
    [
        ({"unhealthy": 2}, 3, "fail", "crash at each start"),
        ({"unhealthy": 1, "idle": 1}, 0, "warn", "Some are unhealthy"),
        ({"throttled": 3}, 4, "warn", "Throttled workers wait for a free GPU"),
        ({"throttled": 3, "running": 1}, 4, "ok", "1 running, 3 throttled; 4 waiting"),
        ({"initializing": 1}, 1, "ok", "1 initializing; 1 waiting"),
        ({}, 2, "fail", "no workers, but 2 waiting"),
        ({"idle": 0, "running": 0}, 0, "ok", "as expected without runs"),
    ],
)
async def test_the_counters_are_explained(
    workers: dict[str, int], waiting: int, level: str, says: str
) -> None:
    health = Health(in_queue=waiting, in_progress=0, completed=0, failed=0, workers=workers)
    result = judge_workers(health)
    assert (result.level, says in result.message) == (level, True)


async def _control(backend: Backend, method: str, path: str, body: object) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.request(method, f"{backend.runpod.url}/_control{path}", json=body)
        assert answer.status_code < 300


async def test_polling_only_is_reported_with_its_cost(backend: Backend) -> None:
    for name in ("PUBLIC_URL", "WEBHOOK_SECRET"):
        result = (await backend.examine("webhook", **{name: ""}))["webhook"]
        assert result.level == "warn"
        assert f"{name} is unset, so the worker only polls" in result.message
        assert "up to 30 s late" in result.message
        assert "openssl rand -hex 32" in result.fix


async def test_a_server_that_redirects_posts_is_reported(backend: Backend) -> None:
    async def elsewhere(request: Request) -> Response:
        return RedirectResponse(f"https://worker.example.com{request.url.path}", 308)

    async with answering(Route("/{path:path}", elsewhere, methods=METHODS)) as url:
        result = (await backend.examine("webhook", PUBLIC_URL=url))["webhook"]
    assert result.level == "fail"
    assert (
        "redirects a POST to https://worker.example.com; RunPod does not follow redirects"
        in result.message
    )
    assert result.fix == "Set PUBLIC_URL to https://worker.example.com."


async def test_a_worker_with_another_secret_is_reported(backend: Backend) -> None:
    result = (await backend.examine("webhook", WEBHOOK_SECRET="another-secret-of-this-machine"))[
        "webhook"
    ]
    assert (result.level, "refuses our signature" in result.message) == ("fail", True)
    assert "the same WEBHOOK_SECRET" in result.fix


async def test_a_rotated_secret_still_passes(backend: Backend) -> None:
    """The deployed worker verifies with the new and the old secret."""
    result = (await backend.examine("webhook", WEBHOOK_SECRET=f"{SECRET},the-old-secret-is-here"))[
        "webhook"
    ]
    assert result.level == "ok"


async def test_a_server_that_accepts_any_signature_is_reported(backend: Backend) -> None:
    async def yes(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async with answering(Route("/{path:path}", yes, methods=METHODS)) as url:
        result = (await backend.examine("webhook", PUBLIC_URL=url))["webhook"]
    assert (result.level, "unlike this worker" in result.message) == ("fail", True)


async def test_a_url_where_no_worker_listens_is_reported(backend: Backend) -> None:
    result = (await backend.examine("webhook", PUBLIC_URL=unused_url()))["webhook"]
    assert (result.level, "nothing listens there" in result.message) == ("fail", True)
    assert "Deploy and start the worker" in result.fix


async def test_a_host_name_that_does_not_exist_is_reported(backend: Backend) -> None:
    result = (await backend.examine("webhook", PUBLIC_URL="https://no-such-host.invalid"))[
        "webhook"
    ]
    assert result.level == "fail"
    assert "Cannot connect to" in result.message


async def test_a_worker_that_cannot_read_its_table_is_reported(backend: Backend) -> None:
    class Away:
        async def webhook(self, *_: object) -> str:
            raise StoreUnavailable("away")

    server = AppServer(worker_web(reconciler=Away()).app())
    await server.start()
    try:
        result = (await backend.examine("webhook", PUBLIC_URL=server.url))["webhook"]
    finally:
        await server.stop()
    assert (result.level, "cannot read its table" in result.message) == ("fail", True)
    assert "/readyz" in result.fix


async def test_a_slow_worker_is_reported(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.doctor.hook.SLOW_SECONDS", 0.0)
    result = (await backend.examine("webhook"))["webhook"]
    assert (result.level, "RunPod may stop waiting" in result.message) == ("warn", True)


@pytest.mark.parametrize("url", ["http://localhost:8080", "http://10.1.2.3", "https://me.local"])
async def test_a_private_url_is_reported_unless_runpod_is_private_too(
    backend: Backend, url: str
) -> None:
    changes = {"PUBLIC_URL": url, "RUNPOD_ENDPOINT_URL": "https://api.runpod.ai/v2/abc"}
    result = (await backend.examine("webhook", **changes))["webhook"]
    assert (result.level, "Only this machine or network can reach" in result.message) == (
        "fail",
        True,
    )


async def test_a_url_without_encryption_is_reported(backend: Backend) -> None:
    result = (await backend.examine("webhook", PUBLIC_URL="http://worker.example.com"))["webhook"]
    assert (result.level, result.fix) == ("fail", "Set PUBLIC_URL to https://worker.example.com.")


async def test_the_deployed_worker_sees_no_orphaned_run_in_the_call(backend: Backend) -> None:
    """`run.orphaned` is a warning about money."""
    with structlog.testing.capture_logs() as lines:
        result = (await backend.examine("webhook"))["webhook"]
    assert result.level == "ok"
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == []
    assert "webhook.received" in [line["event"] for line in lines]
