"""`doctor` finds wrong keys, wrong addresses, and trouble on the way to Supabase."""

import time

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tests.commands.stand import METHODS, Stand, answering, fault, free_address
from worker.doctor.context import Context
from worker.doctor.examine import CHECKS, examine
from worker.settings import load_what_is_right

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("doctor_supabase")]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("anon", "the key of role anon, not of service_role"),
        ("publishable", "the publishable key"),
        ("plainword", "no Supabase key"),
    ],
)
async def test_a_key_of_the_wrong_kind_is_named(stand: Stand, key: str, says: str) -> None:
    value = getattr(stand.stack.keys, key, key)
    one = (await stand.examine("supabase.key", SUPABASE_SERVICE_ROLE_KEY=value))["supabase.key"]
    assert one.level == "fail"
    assert says in one.message
    assert "Settings > API Keys" in one.mend


async def test_a_key_of_another_project_is_named(stand: Stand) -> None:
    key = stand.stack.keys.sign({"role": "service_role", "ref": "aaaa", "exp": 9_999_999_999})
    changes = {"SUPABASE_URL": "https://bbbb.supabase.co", "SUPABASE_SERVICE_ROLE_KEY": key}
    one = (await stand.examine("supabase.key", **changes))["supabase.key"]
    assert one.level == "fail"
    assert one.message == "It belongs to project aaaa, but SUPABASE_URL is project bbbb."


@pytest.mark.parametrize(
    ("left", "level", "says"),
    [(-3 * 86400, "fail", "expired 3 days ago"), (86400, "warn", "expires in 24.0 hours")],
)
async def test_an_old_key_is_named(stand: Stand, left: float, level: str, says: str) -> None:
    key = stand.stack.keys.sign({"role": "service_role", "exp": int(time.time() + left)})
    one = (await stand.examine("supabase.key", SUPABASE_SERVICE_ROLE_KEY=key))["supabase.key"]
    assert (one.level, says in one.message) == (level, True)


async def test_a_rotated_key_is_refused_by_the_project_itself(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.doctor.bell.READY_SECONDS", 1.5)
    found = await stand.examine("supabase", SUPABASE_SERVICE_ROLE_KEY="sb_secret_from_yesterday")
    one = found["supabase.reachable"]
    assert (one.level, one.message) == ("fail", "Supabase refuses the key: Invalid API key.")
    assert "Settings > API Keys" in one.mend
    assert found["supabase.key"].level == "ok"
    realtime = found["supabase.realtime"]
    assert (realtime.level, realtime.mend) == ("warn", "Mend supabase.reachable first.")
    alone = await stand.examine("supabase.real", SUPABASE_SERVICE_ROLE_KEY="sb_secret_from_before")
    assert alone["supabase.realtime"].level == "fail"
    assert "HTTP 401" in alone["supabase.realtime"].message


async def test_an_anon_key_is_found_by_its_rights_as_well(stand: Stand) -> None:
    found = await stand.examine("supabase.reach", SUPABASE_SERVICE_ROLE_KEY=stand.stack.keys.anon)
    assert "may not ask for the state" in found["supabase.reachable"].message


async def test_an_address_where_nothing_listens_is_told(stand: Stand) -> None:
    found = await stand.examine("supabase.reach", "supabase.tables", SUPABASE_URL=free_address())
    one = found["supabase.reachable"]
    assert (one.level, "does not answer (ConnectError)" in one.message) == ("fail", True)
    assert "not paused" in one.mend
    assert found["supabase.tables"].mend == "Mend supabase.reachable first."


async def test_an_address_of_something_else_is_told(stand: Stand) -> None:
    async with answering() as url:
        one = (await stand.examine("supabase.reach", SUPABASE_URL=url))["supabase.reachable"]
    assert (one.level, "is no Supabase project" in one.message) == ("fail", True)


async def test_an_address_that_redirects_is_told(stand: Stand) -> None:
    async def elsewhere(request: Request) -> Response:
        return RedirectResponse(f"https://abc.supabase.co{request.url.path}", 301)

    async with answering(Route("/{path:path}", elsewhere, methods=METHODS)) as url:
        one = (await stand.examine("supabase.reach", SUPABASE_URL=url))["supabase.reachable"]
    assert (one.level, one.mend) == ("fail", "Set SUPABASE_URL to https://abc.supabase.co.")


async def test_a_paused_project_is_told(stand: Stand) -> None:
    with fault(stand.stack.gateway, path="/rest/v1/rpc", action="status", status=540):
        one = (await stand.examine("supabase.reach"))["supabase.reachable"]
    assert (one.level, "HTTP 540" in one.message) == ("fail", True)
    assert "paused" in one.mend


async def test_a_clock_that_is_wrong_is_told(stand: Stand) -> None:
    settings, problems = load_what_is_right(stand.env)
    async with httpx.AsyncClient(trust_env=False) as http:
        context = Context(
            settings=settings, problems=problems, http=http, clock=lambda: time.time() - 300
        )
        checks = [check for check in CHECKS if check.name == "supabase.clock"]
        one = (await examine(context, checks))[-1]
    assert (one.level, "300 s behind" in one.message) == ("warn", True)
    assert "NTP" in one.mend


async def test_realtime_that_does_not_let_us_listen_is_told(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.doctor.bell.READY_SECONDS", 1.5)
    with fault(stand.stack.gateway, path="/realtime/v1", action="status", status=503):
        one = (await stand.examine("supabase.realtime"))["supabase.realtime"]
    assert one.level == "fail"
    assert "does not let the worker listen: the handshake was answered with HTTP 503" in one.message
    assert "Realtime is enabled" in one.mend


async def test_a_bucket_that_does_not_exist_is_told(stand: Stand) -> None:
    found = await stand.examine("storage", INPUT_BUCKETS="inputs,portraits", MEDIA_BUCKET="made")
    for name, bucket in (("storage.inputs", "portraits"), ("storage.prepared", "made")):
        assert found[name].level == "fail"
        assert f"The bucket {bucket} cannot be used: Bucket not found" in found[name].message
        assert f"Create a private bucket named {bucket}" in found[name].mend


async def test_a_public_bucket_for_inputs_is_told(stand: Stand) -> None:
    one = (await stand.examine("storage.inputs", INPUT_BUCKETS="samples"))["storage.inputs"]
    assert (one.level, "samples is public" in one.message) == ("fail", True)
    assert "Make samples private" in one.mend


async def test_the_bucket_for_prepared_inputs_is_tried(stand: Stand) -> None:
    found = await stand.examine("storage.prepared", MEDIA_BUCKET="inputs")
    assert found["storage.prepared"].message == "inputs: written, read and deleted."
    assert stand.sql("select name from storage.objects where name like 'doctor/%'") == []
    public = await stand.examine("storage.prepared", MEDIA_BUCKET="samples")
    assert (
        public["storage.prepared"].level,
        "is public" in public["storage.prepared"].message,
    ) == (
        "warn",
        True,
    )


async def test_a_bucket_that_takes_no_images_is_told(stand: Stand) -> None:
    said = {"statusCode": "415", "message": "mime type not supported"}
    path = "/object/inputs"
    with fault(
        stand.stack.gateway, path=path, method="POST", action="status", status=400, body=said
    ):
        found = await stand.examine("storage.prepared", MEDIA_BUCKET="inputs")
    one = found["storage.prepared"]
    assert (one.level, "takes no image: mime type not supported" in one.message) == ("fail", True)


VIDEO = {"content-type": "video/mp4", "access-control-allow-origin": "*"}


@pytest.mark.parametrize(
    ("status", "headers", "level", "says"),
    [
        (206, VIDEO, "ok", "with ranges and CORS"),
        (404, VIDEO, "fail", "answers HTTP 404"),
        (403, VIDEO, "fail", "answers HTTP 403"),
        (206, {**VIDEO, "content-type": "text/html"}, "fail", "comes as text/html"),
        (200, VIDEO, "warn", "ignores Range"),
        (206, {"content-type": "video/mp4"}, "warn", "sends no CORS header"),
    ],
)
async def test_the_latest_video_is_looked_at_as_a_browser_would(
    stand: Stand, status: int, headers: dict[str, str], level: str, says: str
) -> None:
    async def video(_request: Request) -> Response:
        return Response(b"0" * 1024, status, headers)

    async with answering(Route("/v.mp4", video)) as url:
        job = _completed(stand, f"{url}/v.mp4")
        try:
            one = (await stand.examine("storage.results"))["storage.results"]
        finally:
            stand.sql("delete from public.video_jobs where id = %s", job)
    assert (one.level, says in one.message) == (level, True)


async def test_a_dead_result_host_is_told(stand: Stand) -> None:
    job = _completed(stand, f"{free_address()}/v.mp4")
    try:
        one = (await stand.examine("storage.results"))["storage.results"]
    finally:
        stand.sql("delete from public.video_jobs where id = %s", job)
    assert (one.level, "cannot be loaded (ConnectError)" in one.message) == ("fail", True)


def _completed(stand: Stand, url: str) -> str:
    job = stand.insert()
    stand.force(job, status="preparing", attempt=1)
    stand.force(job, status="completed", video_url=url, phase="done")
    return job
