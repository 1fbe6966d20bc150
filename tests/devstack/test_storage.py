"""The Storage part, judged by the unmodified client and by plain HTTP."""

import time

import pytest
from storage3.exceptions import StorageApiError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
POLICY = """
create policy own_folder on storage.objects to authenticated
using (bucket_id = 'inputs' and (storage.foldername(name))[1] = (select auth.uid())::text)
with check (bucket_id = 'inputs' and (storage.foldername(name))[1] = (select auth.uid())::text)
"""


async def refused(work) -> StorageApiError:
    with pytest.raises(StorageApiError) as error:
        await work
    return error.value


@pytest.fixture
async def inputs(service):
    return service.storage.from_("inputs")


async def test_bytes_are_returned_unchanged(inputs):
    answer = await inputs.upload("a/b c.png", PNG, {"content-type": "image/png"})
    assert answer.full_path == "inputs/a/b c.png"
    assert await inputs.download("a/b c.png") == PNG
    info = await inputs.info("a/b c.png")
    assert (info["size"], info["content_type"]) == (len(PNG), "image/png")


async def test_a_second_upload_is_a_duplicate_unless_it_may_replace(inputs, gateway):
    await inputs.upload("x", b"one")
    error = await refused(inputs.upload("x", b"two"))
    assert (error.code, str(error.status)) == ("Duplicate", "409")
    await inputs.upload("x", b"three", {"upsert": "true"})
    assert await inputs.download("x") == b"three"
    await inputs.update("x", b"four")
    assert await inputs.download("x") == b"four"
    files = [path for path in gateway.gateway.project.files.rglob("*") if path.is_file()]
    assert len([path for path in files if path.parent.name == "inputs"]) == 1


async def test_missing_objects_are_answered_with_http_400(inputs, gateway, http, service):
    error = await refused(inputs.download("nothing"))
    assert (error.code, str(error.status)) == ("not_found", "404")
    assert await inputs.exists("nothing") is False
    raw = await http.get(
        f"{gateway.url}/storage/v1/object/inputs/nothing",
        headers={"apikey": gateway.keys.service_role},
    )
    assert raw.status_code == 400
    assert raw.json() == {
        "statusCode": "404",
        "error": "not_found",
        "message": "Object not found",
        "code": "NoSuchKey",
    }
    error = await refused(service.storage.from_("no-bucket").upload("x", b"y"))
    assert str(error.status) == "404"


async def test_public_buckets_need_no_key_and_private_ones_tell_nothing(
    service, inputs, gateway, http
):
    await service.storage.from_("results").upload("v.mp4", b"video", {"content-type": "video/mp4"})
    await inputs.upload("v.mp4", b"video")
    address = await service.storage.from_("results").get_public_url("v.mp4")
    answer = await http.get(address)
    assert (answer.content, answer.headers["content-type"]) == (b"video", "video/mp4")
    hidden = await http.get(f"{gateway.url}/storage/v1/object/public/inputs/v.mp4")
    assert (hidden.status_code, hidden.json()["error"]) == (400, "Bucket not found")


async def test_ranges_and_heads(service, http):
    await service.storage.from_("results").upload("v.mp4", PNG, {"content-type": "video/mp4"})
    address = await service.storage.from_("results").get_public_url("v.mp4")
    part = await http.get(address, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, PNG[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(PNG)}"
    whole = await http.get(address)
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["etag"].strip('"')
    assert whole.headers["last-modified"]
    head = await http.head(address)
    assert (head.headers["content-length"], head.content) == (str(len(PNG)), b"")
    assert (await http.get(address, headers={"Range": "bytes=999999-"})).status_code == 416
    named = await http.get(address, params={"download": "my video.mp4"})
    assert "my%20video.mp4" in named.headers["content-disposition"]


async def test_signed_links_open_one_object_for_a_while(inputs, gateway, http):
    await inputs.upload("a b/ü.txt", b"secret")
    link = (await inputs.create_signed_url("a b/ü.txt", 60))["signedURL"]
    answer = await http.get(link)
    assert (answer.status_code, answer.content) == (200, b"secret")
    assert answer.headers["expires"].endswith("GMT")
    await inputs.upload("other", b"other")
    stolen = link.replace("a%20b/%C3%BC.txt", "other")
    assert stolen != link
    assert (await http.get(stolen)).json()["code"] == "InvalidSignature"
    assert (await http.get(link + "x")).status_code == 400


async def test_an_expired_link_says_so(inputs, gateway, http):
    await inputs.upload("x", b"secret")
    past = {"url": "inputs/x", "scope": "download", "exp": int(time.time()) - 1}
    token = gateway.keys.sign(past)
    answer = await http.get(f"{gateway.url}/storage/v1/object/sign/inputs/x?token={token}")
    assert (answer.status_code, answer.json()["error"]) == (400, "InvalidJWT")
    assert answer.json()["code"] == "ExpiredToken"


async def test_signing_many_and_signing_nothing(inputs):
    await inputs.upload("x", b"1")
    found, missing = await inputs.create_signed_urls(["x", "y"], 60)
    assert found["signedURL"].startswith("http")
    assert found["error"] is None
    assert missing["error"]
    error = await refused(inputs.create_signed_url("y", 60))
    assert str(error.status) == "404"
    assert str((await refused(inputs.create_signed_url("x", 0))).status) == "400"


async def test_folders_are_listed_and_objects_removed(inputs):
    for path in ("a/1", "a/2", "a/deep/3", "b"):
        await inputs.upload(path, b"x")
    top = await inputs.list()
    assert [(entry["name"], entry["id"] is None) for entry in top] == [("a", True), ("b", False)]
    assert [entry["name"] for entry in await inputs.list("a")] == ["1", "2", "deep"]
    removed = await inputs.remove(["a/1", "missing"])
    assert [entry["name"] for entry in removed] == ["a/1"]
    assert [entry["name"] for entry in await inputs.list("a")] == ["2", "deep"]


async def test_policies_hold_for_users_and_stop_visitors(user, anon, inputs, sql):
    sql(POLICY)
    me = (await user.auth.get_user()).user.id
    mine = user.storage.from_("inputs")
    await mine.upload(f"{me}/a.png", PNG)
    assert await mine.download(f"{me}/a.png") == PNG
    assert (await mine.create_signed_url(f"{me}/a.png", 60))["signedURL"]
    error = await refused(mine.upload("somebody-else/a.png", PNG))
    assert (str(error.status), error.code) == ("403", "Unauthorized")
    assert error.message == "new row violates row-level security policy"
    await inputs.upload("somebody-else/a.png", PNG)
    assert str((await refused(mine.download("somebody-else/a.png"))).status) == "404"
    assert str((await refused(anon.storage.from_("inputs").upload("x", b"y"))).status) == "403"
    assert await mine.remove(["somebody-else/a.png"]) == []


async def test_a_refused_upload_leaves_no_file(user, gateway):
    await refused(user.storage.from_("inputs").upload("x", PNG))
    folder = gateway.gateway.project.files / "inputs"
    assert list(folder.iterdir()) == []


async def test_raw_bodies_and_unnamed_fields_are_taken_too(gateway, http, inputs):
    address = f"{gateway.url}/storage/v1/object/inputs"
    headers = {"apikey": gateway.keys.service_role, "content-type": "image/png"}
    raw = await http.post(f"{address}/raw", content=PNG, headers=headers)
    assert raw.json()["Key"] == "inputs/raw"
    # supabase-js leaves the name of the file's field empty.
    body = (
        b'--xx\r\nContent-Disposition: form-data; name="cacheControl"\r\n\r\n3600\r\n'
        b'--xx\r\nContent-Disposition: form-data; name=""; filename="blob"\r\n'
        b"Content-Type: image/png\r\n\r\n" + PNG + b"\r\n--xx--\r\n"
    )
    headers["content-type"] = "multipart/form-data; boundary=xx"
    assert (await http.post(f"{address}/form", content=body, headers=headers)).status_code == 200
    assert await inputs.download("raw") == PNG
    assert await inputs.download("form") == PNG


async def test_limits_of_a_bucket(service):
    await service.storage.create_bucket(
        "small", options={"public": False, "file_size_limit": 10, "allowed_mime_types": ["image/*"]}
    )
    bucket = service.storage.from_("small")
    error = await refused(bucket.upload("big", b"x" * 11, {"content-type": "image/png"}))
    assert (str(error.status), error.message) == (
        "413",
        "The object exceeded the maximum allowed size",
    )
    assert (
        str((await refused(bucket.upload("t", b"x", {"content-type": "text/plain"}))).status)
        == "415"
    )
    await bucket.upload("ok", b"x" * 10, {"content-type": "image/png"})


async def test_buckets_are_listed_made_and_deleted_only_by_the_service(service, anon):
    assert {"inputs", "results", "samples"} <= {
        b.name for b in await service.storage.list_buckets()
    }
    await service.storage.create_bucket("new")
    assert (await service.storage.get_bucket("new")).public is False
    assert str((await refused(service.storage.create_bucket("new"))).status) == "409"
    await service.storage.delete_bucket("new")
    assert str((await refused(service.storage.get_bucket("new"))).status) == "404"
    assert str((await refused(anon.storage.create_bucket("mine"))).status) == "403"


async def test_rows_of_objects_cannot_be_deleted_by_sql(inputs, sql):
    import psycopg

    await inputs.upload("x", b"1")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Storage API"):
        sql("delete from storage.objects")


async def test_the_samples_lie_in_a_public_bucket(gateway, http):
    for name in ("SAMPLE_IMAGE_URL", "SAMPLE_AUDIO_URL"):
        answer = await http.get(gateway.env[name])
        assert answer.status_code == 200
        assert answer.headers["content-type"].split("/")[0] in ("image", "audio")
