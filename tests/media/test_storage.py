"""Supabase Storage: whose objects may be read, what goes over the wire, and what errors mean."""

import asyncio
import errno
import io
import json

import httpx
import pytest

from tests import idle_time
from worker.jobs.errors import (
    BucketUnusable,
    InputUnavailable,
    JobFailed,
    StoreUnavailable,
    TransientError,
    WorkerError,
)
from worker.media.fetch import Deadline
from worker.media.storage import ObjectName, StorageApi, parse_storage_url

USER = "0b0a7a9e-1111-4222-8333-abcdefabcdef"
OTHER = "99999999-1111-4222-8333-abcdefabcdef"
BUCKETS = {"inputs"}
KEY = "sb_secret_KEY"
NAME = ObjectName(bucket="inputs", path=f"{USER}/my photo+1.jpg")


def parse(url: str, user: str | None = USER) -> ObjectName:
    return parse_storage_url(url, kind="image", buckets=BUCKETS, user_id=user)


@pytest.mark.parametrize("path", ["a.jpg", "sub/folder/a b+c(1)!.jpg", "a?b.jpg", "...jpg"])
def test_a_user_may_read_below_the_folder_of_that_user(path):
    assert parse(f"storage://inputs/{USER}/{path}").path == f"{USER}/{path}"


def test_a_row_of_a_service_key_may_read_the_whole_bucket():
    assert parse("storage://inputs/shared/a.jpg", user=None).path == "shared/a.jpg"


def test_an_uppercase_user_id_is_the_same_user():
    assert parse(f"storage://inputs/{USER}/a.jpg", user=USER.upper()).bucket == "inputs"


@pytest.mark.parametrize(
    "rest",
    [
        f"inputs/{OTHER}/a.jpg",
        f"inputs/{USER}/../{OTHER}/a.jpg",
        f"inputs/{USER}/./a.jpg",
        f"inputs/{USER}//a.jpg",
        f"inputs//{USER}/a.jpg",
        f"inputs/{USER}/",
        f"inputs/{USER}",
        f"inputs/{USER}x/a.jpg",
        f"inputs/{USER}/%2e%2e/{OTHER}/a.jpg",
        f"inputs/{USER}%2f..%2f{OTHER}/a.jpg",
        f"inputs/{USER}\\..\\{OTHER}/a.jpg",
        f"inputs/{USER}/ .. /{OTHER}/a.jpg",
        f"inputs/{USER}/a\x00.jpg",
        f"inputs/{USER}/a\r\nX: y.jpg",
        f"inputs/{USER}/über.jpg",
        f"inputs/{USER}/a#b.jpg",
        f"inputs/{USER}/" + "a" * 1100,
        f"inputs/{USER.upper()}/a.jpg",
        f"secret/{USER}/a.jpg",
        f"INPUTS/{USER}/a.jpg",
        f"inputs/../secret/{USER}/a.jpg",
        f"../inputs/{USER}/a.jpg",
        f"..inputs/{USER}/a.jpg",
        f"in%70uts/{USER}/a.jpg",
        f"/inputs/{USER}/a.jpg",
        f"inputs@evil/{USER}/a.jpg",
        "inputs",
        "",
    ],
)
def test_every_other_name_is_forbidden(rest):
    with pytest.raises(JobFailed) as failed:
        parse(f"storage://{rest}")
    assert failed.value.code == "input_forbidden"


def api(handler) -> StorageApi:
    client = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    return StorageApi(url="https://p.supabase.example/", key=KEY, client=client)


async def _piece(data: bytes):
    yield data


def streamed(data: bytes) -> httpx.Response:
    return httpx.Response(200, content=_piece(data))


def answering(status: int, body: object = None, **headers) -> StorageApi:
    return api(lambda request: httpx.Response(status, json=body, headers=headers))


def storage_error(status: str, message: str = "no") -> StorageApi:
    """As the real one answers: HTTP 400, and the status that is meant in the body."""
    return answering(400, {"statusCode": status, "error": "x", "message": message})


async def download(storage: StorageApi, limit: int = 1000) -> bytes:
    into = io.BytesIO()
    await storage.download(NAME, kind="image", limit=limit, into=into, deadline=Deadline.after(60))
    return into.read()


async def test_a_download_names_the_object_escaped_and_carries_the_key():
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return streamed(b"picture")

    assert await download(api(handler)) == b"picture"
    assert seen[0].url.raw_path.decode() == (f"/storage/v1/object/inputs/{USER}/my%20photo%2B1.jpg")
    assert seen[0].headers["apikey"] == KEY
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"


async def test_a_download_stops_at_the_limit():
    storage = api(lambda request: streamed(bytes(1000)))
    assert len(await download(storage, limit=1001)) == 1000
    with pytest.raises(JobFailed) as failed:
        await download(storage)
    assert failed.value.code == "image_too_large"


async def test_an_object_that_is_not_there_ends_the_job():
    with pytest.raises(JobFailed) as failed:
        await download(storage_error("404", "Object not found"))
    assert failed.value.code == "image_unreachable"
    assert "inputs/" in failed.value.message


@pytest.mark.parametrize("status", ["403", "500", "503", "429"])
async def test_a_refused_key_and_a_failing_storage_do_not_end_the_job(status):
    with pytest.raises(InputUnavailable) as failed:
        await download(storage_error(status))
    assert failed.value.code == "image_unreachable"


@pytest.mark.parametrize("error", [httpx.ConnectError("x"), httpx.ReadTimeout("x")])
async def test_a_storage_that_is_away_does_not_end_the_job(error):
    def away(request: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(InputUnavailable):
        await download(api(away))
    with pytest.raises(StoreUnavailable):
        await api(away).upload(NAME, b"x", content_type="image/jpeg")


async def test_a_transfer_that_waits_for_our_own_others_blames_nobody():
    def busy(request: httpx.Request) -> httpx.Response:
        raise httpx.PoolTimeout("x")

    with pytest.raises(TransientError, match="too many transfers") as failed:
        await download(api(busy))
    assert not isinstance(failed.value, InputUnavailable)
    with pytest.raises(StoreUnavailable, match="too many transfers"):
        await api(busy).sign(NAME, seconds=60, kind="image")


async def test_a_machine_without_open_files_does_not_blame_storage():
    def none_left(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("x") from OSError(errno.EMFILE, "none left")

    for call in (download(api(none_left)), api(none_left).sign(NAME, seconds=60, kind="image")):
        with pytest.raises(OSError) as failed:
            await call
        assert failed.value.errno == errno.EMFILE


@pytest.mark.parametrize(("every", "seconds"), [(20.0, 10), (2.0, 60)], ids=["stops", "is slow"])
def test_a_storage_that_does_not_deliver_in_time_is_asked_again_later(every, seconds):
    async def pieces():
        while True:
            yield bytes(50_000)
            await asyncio.sleep(every)

    async def work() -> float:
        storage = api(lambda request: httpx.Response(200, content=pieces()))
        with pytest.raises(InputUnavailable, match="could not be read"):
            await download(storage, limit=10**9)
        return asyncio.get_running_loop().time()

    assert idle_time.run(work()) == pytest.approx(seconds, abs=1)


async def test_a_signed_address_has_the_asked_lifetime():
    bodies = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={"signedURL": "/object/sign/inputs/x?token=T"})

    url = await api(handler).sign(NAME, seconds=7200, kind="image")
    assert url == "https://p.supabase.example/storage/v1/object/sign/inputs/x?token=T"
    assert bodies == [{"expiresIn": 7200}]


@pytest.mark.parametrize("body", [{}, {"signedURL": None}, {"signedURL": "https://evil"}, [1]])
async def test_an_answer_without_an_address_is_no_address(body):
    with pytest.raises(StoreUnavailable):
        await answering(200, body).sign(NAME, seconds=60, kind="image")


async def test_signing_what_is_not_there_ends_the_job():
    with pytest.raises(JobFailed):
        await storage_error("404").sign(NAME, seconds=60, kind="image")


async def test_an_upload_replaces_nothing_and_states_its_type():
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"Key": "k"})

    await api(handler).upload(NAME, io.BytesIO(b"sound"), content_type="audio/flac")
    assert seen[0].method == "POST"
    assert seen[0].content == b"sound"
    assert seen[0].headers["x-upsert"] == "false"
    assert seen[0].headers["content-type"] == "audio/flac"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("404", BucketUnusable),
        ("413", BucketUnusable),
        ("415", BucketUnusable),
        ("403", StoreUnavailable),
        ("500", StoreUnavailable),
    ],
)
async def test_a_bucket_that_takes_nothing_is_told_from_a_storage_that_is_away(status, error):
    with pytest.raises(StoreUnavailable, match=f"bucket inputs: {status} said so") as failed:
        await storage_error(status, "said so").upload(NAME, b"x", content_type="a/b")
    assert type(failed.value) is error


async def test_a_bucket_is_there_or_not_or_nobody_knows():
    assert await answering(200, {"id": "inputs"}).has_bucket("inputs")
    assert not await storage_error("404").has_bucket("inputs")
    for status in ("403", "500"):
        with pytest.raises(StoreUnavailable):
            await storage_error(status).has_bucket("inputs")


async def test_other_refusals_are_transient():
    with pytest.raises(StoreUnavailable):
        await storage_error("403").delete("inputs", ["x"])


async def test_many_objects_are_deleted_in_portions():
    portions = []

    def handler(request: httpx.Request) -> httpx.Response:
        portions.append(len(json.loads(request.content)["prefixes"]))
        return httpx.Response(200, json=[])

    await api(handler).delete("inputs", [str(index) for index in range(230)])
    assert portions == [100, 100, 30]


async def test_no_error_holds_the_key():
    for status in ("400", "401", "404", "500"):
        with pytest.raises(WorkerError) as failed:
            await storage_error(status).sign(NAME, seconds=60, kind="image")
        assert KEY not in failed.value.message
