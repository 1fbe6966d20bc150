"""`doctor` finds wrong keys, wrong URLs, and problems of Supabase."""

import time

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tests.commands.backend import METHODS, Backend, answering, fault, unused_url
from worker.doctor.context import Context
from worker.doctor.examine import CHECKS, examine
from worker.settings import load_valid_settings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("doctor_supabase")]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("anon", "a key of the role anon, not service_role"),
        ("publishable", "the publishable key"),
        ("plainword", "not a Supabase key"),
    ],
)
async def test_a_key_of_the_wrong_kind_is_named(backend: Backend, key: str, says: str) -> None:
    value = getattr(backend.stack.keys, key, key)
    result = (await backend.examine("supabase.key", SUPABASE_SERVICE_ROLE_KEY=value))[
        "supabase.key"
    ]
    assert result.level == "fail"
    assert says in result.message
    assert "Settings > API Keys" in result.fix


async def test_a_key_of_another_project_is_named(backend: Backend) -> None:
    key = backend.stack.keys.sign({"role": "service_role", "ref": "aaaa", "exp": 9_999_999_999})
    changes = {"SUPABASE_URL": "https://bbbb.supabase.co", "SUPABASE_SERVICE_ROLE_KEY": key}
    result = (await backend.examine("supabase.key", **changes))["supabase.key"]
    assert result.level == "fail"
    assert result.message == "It belongs to project aaaa, but SUPABASE_URL is project bbbb."


@pytest.mark.parametrize(
    ("left", "level", "says"),
    [(-3 * 86400, "fail", "expired 3 days ago"), (86400, "warn", "expires in 24.0 hours")],
)
async def test_an_old_key_is_named(backend: Backend, left: float, level: str, says: str) -> None:
    key = backend.stack.keys.sign({"role": "service_role", "exp": int(time.time() + left)})
    result = (await backend.examine("supabase.key", SUPABASE_SERVICE_ROLE_KEY=key))["supabase.key"]
    assert (result.level, says in result.message) == (level, True)


async def test_a_rotated_key_is_refused_by_the_project_itself(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.doctor.realtime.READY_SECONDS", 1.5)
    found = await backend.examine("supabase", SUPABASE_SERVICE_ROLE_KEY="sb_secret_from_yesterday")
    result = found["supabase.reachable"]
    assert (result.level, result.message) == ("fail", "Supabase refuses the key: Invalid API key.")
    assert "Settings > API Keys" in result.fix
    assert found["supabase.key"].level == "ok"
    realtime = found["supabase.realtime"]
    assert (realtime.level, realtime.fix) == ("warn", "Fix supabase.reachable first.")
    alone = await backend.examine(
        "supabase.real", SUPABASE_SERVICE_ROLE_KEY="sb_secret_from_before"
    )
    assert alone["supabase.realtime"].level == "fail"
    assert "HTTP 401" in alone["supabase.realtime"].message


async def test_an_anon_key_is_found_by_its_rights_as_well(backend: Backend) -> None:
    found = await backend.examine(
        "supabase.reach", SUPABASE_SERVICE_ROLE_KEY=backend.stack.keys.anon
    )
    assert "may not read the state" in found["supabase.reachable"].message


async def test_a_url_where_nothing_listens_is_reported(backend: Backend) -> None:
    found = await backend.examine("supabase.reach", "supabase.tables", SUPABASE_URL=unused_url())
    result = found["supabase.reachable"]
    assert (result.level, "does not answer: the connection is refused" in result.message) == (
        "fail",
        True,
    )
    assert "not paused" in result.fix
    assert found["supabase.tables"].fix == "Fix supabase.reachable first."


async def test_a_url_of_another_service_is_reported(backend: Backend) -> None:
    async with answering() as url:
        result = (await backend.examine("supabase.reach", SUPABASE_URL=url))["supabase.reachable"]
    assert (result.level, "is not a Supabase project" in result.message) == ("fail", True)


async def test_a_url_that_redirects_is_reported(backend: Backend) -> None:
    async def elsewhere(request: Request) -> Response:
        return RedirectResponse(f"https://abc.supabase.co{request.url.path}", 301)

    async with answering(Route("/{path:path}", elsewhere, methods=METHODS)) as url:
        result = (await backend.examine("supabase.reach", SUPABASE_URL=url))["supabase.reachable"]
    assert (result.level, result.fix) == ("fail", "Set SUPABASE_URL to https://abc.supabase.co.")


async def test_a_paused_project_is_reported(backend: Backend) -> None:
    with fault(backend.stack.gateway, path="/rest/v1/rpc", action="status", status=540):
        result = (await backend.examine("supabase.reach"))["supabase.reachable"]
    assert (result.level, "HTTP 540" in result.message) == ("fail", True)
    assert "paused" in result.fix


async def test_a_clock_that_is_wrong_is_reported(backend: Backend) -> None:
    settings, problems = load_valid_settings(backend.env)
    async with httpx.AsyncClient(trust_env=False) as http:
        context = Context(
            settings=settings, problems=problems, http=http, clock=lambda: time.time() - 300
        )
        checks = [check for check in CHECKS if check.name == "supabase.clock"]
        result = (await examine(context, checks))[-1]
    assert (result.level, "300 s behind" in result.message) == ("warn", True)
    assert "NTP" in result.fix


async def test_a_failing_realtime_subscription_is_reported(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.doctor.realtime.READY_SECONDS", 1.5)
    with fault(backend.stack.gateway, path="/realtime/v1", action="status", status=503):
        result = (await backend.examine("supabase.realtime"))["supabase.realtime"]
    assert result.level == "fail"
    assert (
        "cannot subscribe to Realtime: the handshake was answered with HTTP 503" in result.message
    )
    assert "Realtime is enabled" in result.fix


async def test_a_bucket_that_does_not_exist_is_reported(backend: Backend) -> None:
    found = await backend.examine("storage", INPUT_BUCKETS="inputs,portraits", MEDIA_BUCKET="made")
    for name, bucket in (("storage.inputs", "portraits"), ("storage.prepared", "made")):
        assert found[name].level == "fail"
        assert f"The bucket {bucket} cannot be used: Bucket not found" in found[name].message
        assert f"Run the migrations, or create a private bucket named {bucket}" in found[name].fix


async def test_a_public_bucket_for_inputs_is_reported(backend: Backend) -> None:
    result = (await backend.examine("storage.inputs", INPUT_BUCKETS="samples"))["storage.inputs"]
    assert (result.level, "samples is public" in result.message) == ("fail", True)
    assert "Make samples private" in result.fix


async def test_the_bucket_for_prepared_inputs_is_tried(backend: Backend) -> None:
    found = await backend.examine("storage.prepared", MEDIA_BUCKET="inputs")
    assert found["storage.prepared"].message == "inputs: an object was written, read and deleted."
    assert backend.sql("select name from storage.objects where name like 'doctor/%'") == []
    public = await backend.examine("storage.prepared", MEDIA_BUCKET="samples")
    assert (
        public["storage.prepared"].level,
        "is public" in public["storage.prepared"].message,
    ) == (
        "fail",
        True,
    )


async def test_originals_that_are_passed_on_need_no_bucket(backend: Backend) -> None:
    found = await backend.examine("storage.prepared", PASS_ORIGINALS="true")
    assert (
        found["storage.prepared"].level,
        "PASS_ORIGINALS" in found["storage.prepared"].message,
    ) == (
        "ok",
        True,
    )


async def test_the_buckets_of_the_migrations_are_what_is_needed(backend: Backend) -> None:
    found = await backend.examine("storage", INPUT_BUCKETS="")
    assert found["storage.inputs"].message == "video-images, video-audio, inputs: found, private."
    assert "video-prepared: an object was written" in found["storage.prepared"].message


async def test_a_bucket_that_accepts_no_images_is_reported(backend: Backend) -> None:
    body = {"statusCode": "415", "message": "mime type not supported"}
    path = "/object/inputs"
    with fault(
        backend.stack.gateway, path=path, method="POST", action="status", status=400, body=body
    ):
        found = await backend.examine("storage.prepared", MEDIA_BUCKET="inputs")
    result = found["storage.prepared"]
    assert (
        result.level,
        "does not accept an image: mime type not supported" in result.message,
    ) == ("fail", True)


VIDEO = {"content-type": "video/mp4", "access-control-allow-origin": "*"}


@pytest.mark.parametrize(
    ("status", "headers", "level", "says"),
    [
        (206, VIDEO, "ok", "with Range requests and CORS"),
        (404, VIDEO, "fail", "answers HTTP 404"),
        (403, VIDEO, "fail", "answers HTTP 403"),
        (206, {"access-control-allow-origin": "*"}, "fail", "has no Content-Type"),
        (206, {**VIDEO, "content-type": "text/html"}, "fail", "has Content-Type text/html"),
        (200, VIDEO, "warn", "ignores Range"),
        (206, {"content-type": "video/mp4"}, "warn", "sends no CORS header"),
    ],
)
async def test_the_latest_video_is_checked_as_a_browser_loads_it(
    backend: Backend, status: int, headers: dict[str, str], level: str, says: str
) -> None:
    async def video(_request: Request) -> Response:
        return Response(b"0" * 1024, status, headers)

    async with answering(Route("/v.mp4", video)) as url:
        job = _completed(backend, f"{url}/v.mp4")
        try:
            result = (await backend.examine("storage.results"))["storage.results"]
        finally:
            backend.sql("delete from public.video_jobs where id = %s", job)
    assert (result.level, says in result.message) == (level, True)


async def test_a_result_host_that_is_down_is_reported(backend: Backend) -> None:
    job = _completed(backend, f"{unused_url()}/v.mp4")
    try:
        result = (await backend.examine("storage.results"))["storage.results"]
    finally:
        backend.sql("delete from public.video_jobs where id = %s", job)
    assert (result.level, "cannot be downloaded: the connection is refused" in result.message) == (
        "fail",
        True,
    )


def _completed(backend: Backend, url: str) -> str:
    job = backend.insert()
    backend.force(job, status="preparing", attempt=1)
    backend.force(job, status="completed", video_url=url, phase="done")
    return job
