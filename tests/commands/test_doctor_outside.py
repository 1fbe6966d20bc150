"""`doctor` finds what is wrong with RunPod and with the webhook."""

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from devstack.server import AppServer
from tests.commands.stand import METHODS, SECRET, Stand, answering, fault, free_address, worker_web
from worker.doctor.endpoint import judge_workers
from worker.jobs.errors import StoreUnavailable
from worker.jobs.health import Health

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("doctor_outside")]


@pytest.mark.parametrize(
    ("changes", "says", "mend"),
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
async def test_what_keeps_us_from_the_endpoint_is_told(
    stand: Stand, changes: dict[str, str], says: str, mend: str
) -> None:
    base = stand.runpod.endpoint_url.rpartition("/")[0]
    filled = {
        name: value.format(base=base, nobody=free_address()) for name, value in changes.items()
    }
    one = (await stand.examine("runpod", **filled))["runpod.endpoint"]
    assert one.level == "fail"
    assert says in one.message
    assert mend in one.mend
    assert "rpa_wrong" not in one.message


@pytest.mark.parametrize(
    ("status", "mend"), [(402, "Add credit"), (403, "Give the key access"), (500, "RUNPOD_")]
)
async def test_what_runpod_answers_instead_is_told(stand: Stand, status: int, mend: str) -> None:
    with fault(stand.runpod, path="/health", action="status", status=status):
        one = (await stand.examine("runpod"))["runpod.endpoint"]
    assert (one.level, mend in one.mend) == ("fail", True)


async def test_an_endpoint_that_fell_asleep_is_told(stand: Stand) -> None:
    """Seven days without a request: RunPod has set its workers to none, and runs wait for ever."""
    runpod = stand.runpod
    await _control(stand, "PUT", "/options", {"no_workers": True})
    try:
        headers = {"Authorization": f"Bearer {runpod.api_key}"}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
            answer = await http.post(f"{runpod.endpoint_url}/run", json={"input": {"a": 1}})
            one = (await stand.examine("runpod"))["runpod.workers"]
            await http.post(f"{runpod.endpoint_url}/cancel/{answer.json()['id']}")
    finally:
        await _control(stand, "PUT", "/options", {"no_workers": False})
    assert one.level == "fail"
    assert "no workers, but 1 waiting: the endpoint is asleep" in one.message
    assert "Raise Max Workers" in one.mend


@pytest.mark.parametrize(
    ("workers", "waiting", "level", "says"),
    [
        ({"unhealthy": 2}, 3, "fail", "crash again and again"),
        ({"unhealthy": 1, "idle": 1}, 0, "warn", "Some are unhealthy"),
        ({"throttled": 3}, 4, "warn", "Throttled ones wait for a free GPU"),
        ({"throttled": 3, "running": 1}, 4, "ok", "1 running, 3 throttled; 4 waiting"),
        ({"initializing": 1}, 1, "ok", "1 initializing; 1 waiting"),
        ({}, 2, "fail", "the endpoint is asleep"),
        ({"idle": 0, "running": 0}, 0, "ok", "as it should be without runs"),
    ],
)
async def test_the_counters_are_explained(
    workers: dict[str, int], waiting: int, level: str, says: str
) -> None:
    health = Health(in_queue=waiting, in_progress=0, completed=0, failed=0, workers=workers)
    one = judge_workers(health)
    assert (one.level, says in one.message) == (level, True)


async def _control(stand: Stand, method: str, path: str, body: object) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.request(method, f"{stand.runpod.url}/_control{path}", json=body)
        assert answer.status_code < 300


async def test_polling_alone_is_told_with_its_price(stand: Stand) -> None:
    for name in ("PUBLIC_URL", "WEBHOOK_SECRET"):
        one = (await stand.examine("webhook", **{name: ""}))["webhook"]
        assert one.level == "warn"
        assert f"{name} is unset, so polling alone carries" in one.message
        assert "up to 30 s late" in one.message
        assert "openssl rand -hex 32" in one.mend


async def test_a_server_that_redirects_posts_is_told(stand: Stand) -> None:
    async def elsewhere(request: Request) -> Response:
        return RedirectResponse(f"https://worker.example.com{request.url.path}", 308)

    async with answering(Route("/{path:path}", elsewhere, methods=METHODS)) as url:
        one = (await stand.examine("webhook", PUBLIC_URL=url))["webhook"]
    assert one.level == "fail"
    assert "redirects a POST to https://worker.example.com; RunPod does not follow" in one.message
    assert one.mend == "Set PUBLIC_URL to https://worker.example.com."


async def test_a_worker_with_another_secret_is_told(stand: Stand) -> None:
    one = (await stand.examine("webhook", WEBHOOK_SECRET="another-secret-of-this-machine"))[
        "webhook"
    ]
    assert (one.level, "does not know our signature" in one.message) == ("fail", True)
    assert "the same WEBHOOK_SECRET" in one.mend


async def test_a_rotated_secret_still_passes(stand: Stand) -> None:
    """The deployed worker verifies with the new and the old one."""
    one = (await stand.examine("webhook", WEBHOOK_SECRET=f"{SECRET},the-old-secret-is-here"))[
        "webhook"
    ]
    assert one.level == "ok"


async def test_a_server_that_takes_any_signature_is_told(stand: Stand) -> None:
    async def yes(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async with answering(Route("/{path:path}", yes, methods=METHODS)) as url:
        one = (await stand.examine("webhook", PUBLIC_URL=url))["webhook"]
    assert (one.level, "it is not this worker" in one.message) == ("fail", True)


async def test_an_address_where_no_worker_listens_is_told(stand: Stand) -> None:
    one = (await stand.examine("webhook", PUBLIC_URL=free_address()))["webhook"]
    assert (one.level, "nothing listens there" in one.message) == ("fail", True)
    assert "Deploy and start the worker" in one.mend


async def test_a_name_that_does_not_exist_is_told(stand: Stand) -> None:
    one = (await stand.examine("webhook", PUBLIC_URL="https://no-such-host.invalid"))["webhook"]
    assert one.level == "fail"
    assert "cannot be connected to" in one.message


async def test_a_worker_that_cannot_read_its_table_is_told(stand: Stand) -> None:
    class Away:
        async def webhook(self, *_: object) -> str:
            raise StoreUnavailable("away")

    server = AppServer(worker_web(reconciler=Away()).app())
    await server.start()
    try:
        one = (await stand.examine("webhook", PUBLIC_URL=server.url))["webhook"]
    finally:
        await server.stop()
    assert (one.level, "cannot read its table" in one.message) == ("fail", True)
    assert "/readyz" in one.mend


async def test_a_slow_worker_is_told(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.doctor.hook.SLOW_SECONDS", 0.0)
    one = (await stand.examine("webhook"))["webhook"]
    assert (one.level, "RunPod may give up on it" in one.message) == ("warn", True)


@pytest.mark.parametrize("url", ["http://localhost:8080", "http://10.1.2.3", "https://me.local"])
async def test_an_address_at_home_is_told_when_runpod_is_not_at_home(
    stand: Stand, url: str
) -> None:
    changes = {"PUBLIC_URL": url, "RUNPOD_ENDPOINT_URL": "https://api.runpod.ai/v2/abc"}
    one = (await stand.examine("webhook", **changes))["webhook"]
    assert (one.level, "only this machine or network can reach" in one.message) == ("fail", True)


async def test_an_address_without_encryption_is_told(stand: Stand) -> None:
    one = (await stand.examine("webhook", PUBLIC_URL="http://worker.example.com"))["webhook"]
    assert (one.level, one.mend) == ("fail", "Set PUBLIC_URL to https://worker.example.com.")
