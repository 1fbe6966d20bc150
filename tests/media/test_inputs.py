"""Inputs are fetched, decoded and published, with a real Storage and a real web host."""

import asyncio
import io
import re
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import httpx
import pillow_heif
import pytest
from PIL import Image

from devstack.postgres import Postgres
from devstack.stack import Stack
from tests.data.media.hosts import host, reply
from tests.data.media.sounds import film, sound
from worker.jobs.errors import BucketUnusable, InputUnavailable, JobFailed, StoreUnavailable
from worker.media.audio import probe_audio
from worker.media.fetch import Fetcher
from worker.media.inputs import InputMedia, InputPolicy
from worker.media.storage import StorageApi

USER = "0b0a7a9e-1111-4222-8333-abcdefabcdef"
JOB = uuid.UUID(int=7)
POLICY = InputPolicy(
    max_image_bytes=10_000_000,
    max_audio_bytes=50_000_000,
    max_image_pixels=50_000_000,
    input_buckets=frozenset(),
    media_bucket=None,
    image_fit="cover",
)
BUCKET = "video-prepared"
MP3 = {"codec": "libmp3lame", "container": "mp3"}


@dataclass(frozen=True)
class Asked:
    """What a plan asks of the inputs."""

    width: int = 480
    height: int = 832
    frames: int = 81


def jpeg(width=600, height=800, kind="JPEG") -> bytes:
    pillow_heif.register_heif_opener()
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 90, 40)).save(out, kind)
    return out.getvalue()


SPEECH = sound(4, **MP3)  # type: ignore[arg-type] # a dict of two texts


@asynccontextmanager
async def media_at(files, *, storage=None, **policy):
    """InputMedia that may fetch from one local host with these files, and that host's URL."""
    async with host({path: reply(data) for path, data in files.items()}) as site:
        media = InputMedia(
            policy=replace(POLICY, **policy),
            fetcher=Fetcher(
                allow_private_hosts=[f"127.0.0.1:{site.port}"],
            ),
            storage=storage,
        )
        try:
            yield media, f"http://127.0.0.1:{site.port}"
        finally:
            media.close()


GOOD = {"/p.jpg": jpeg(), "/s.mp3": SPEECH}


async def test_both_are_fetched_and_decoded_and_originals_pass_through():
    async with (
        media_at(GOOD) as (media, base),
        media.open(
            image_url=f"{base}/p.jpg?token=1", audio_url=f" {base}/s.mp3 ", user_id=USER
        ) as opened,
    ):
        assert opened.audio.seconds == 4
        assert (opened.image.width, opened.image.height) == (600, 800)
        published = await media.publish(opened, Asked(), job_id=JOB, attempt=1, ttl_seconds=60)
        assert published.image_url == f"{base}/p.jpg?token=1"
        assert published.audio_url == f"{base}/s.mp3"
        assert published.objects == ()
        await media.discard(published.objects)


@pytest.mark.parametrize(
    ("image", "audio", "code"),
    [
        (None, "/s.mp3", "image_missing"),
        ("/p.jpg", None, "audio_missing"),
        ("/p.jpg", "", "audio_missing"),
        ("/none.jpg", "/s.mp3", "image_unreachable"),
        ("/p.jpg", "/none.mp3", "audio_unreachable"),
        ("/s.mp3", "/s.mp3", "image_unreadable"),
        ("/p.jpg", "/p.jpg", "audio_unreadable"),
        ("/p.jpg", "/mute.mp4", "audio_unreadable"),
        ("/big.jpg", "/s.mp3", "image_too_large"),
        ("/p.jpg", "/big.mp3", "audio_too_large"),
    ],
)
async def test_each_fault_has_its_code(image, audio, code):
    files = GOOD | {
        "/mute.mp4": film(with_sound=False),
        "/big.jpg": bytes(300_000),
        "/big.mp3": bytes(600_000),
    }
    async with media_at(files, max_image_bytes=300_000, max_audio_bytes=600_000) as (media, base):
        with pytest.raises(JobFailed) as failed:
            async with media.open(
                image_url=image and base + image,
                audio_url=base + audio if audio else audio,
                user_id=None,
            ):
                pass
        assert failed.value.code == code
        assert not isinstance(failed.value.__context__, BaseExceptionGroup)


async def test_a_fault_that_ends_the_job_stops_the_other_download():
    async def never(head: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with host({"/s.mp3": never}) as slow:
        media = InputMedia(
            policy=POLICY,
            fetcher=Fetcher(allow_private_hosts=[f"127.0.0.1:{slow.port}"]),
        )
        base = f"http://127.0.0.1:{slow.port}"
        opening = media.open(image_url=f"{base}/p.jpg", audio_url=f"{base}/s.mp3", user_id=None)
        with pytest.raises(JobFailed, match="404"):
            await asyncio.wait_for(opening.__aenter__(), 5)
        media.close()


async def test_a_private_address_is_forbidden():
    async with media_at(GOOD) as (media, base):
        with pytest.raises(JobFailed) as failed:
            async with media.open(
                image_url=f"{base}/p.jpg", audio_url="https://127.0.0.1/s.mp3", user_id=None
            ):
                pass
        assert failed.value.code == "input_forbidden"


async def test_storage_is_closed_without_open_buckets():
    async with media_at(GOOD) as (media, base):
        with pytest.raises(JobFailed, match="INPUT_BUCKETS") as failed:
            async with media.open(
                image_url=f"{base}/p.jpg", audio_url=f"storage://inputs/{USER}/s", user_id=USER
            ):
                pass
        assert failed.value.code == "input_forbidden"


async def test_originals_that_the_gpu_worker_cannot_read_are_refused_before_it_starts():
    damaged = bytearray(sound(10, codec="aac", container="ipod", options={"movflags": "faststart"}))
    middle = len(damaged) // 2
    damaged[middle : middle + 300] = b"\xff" * 300
    files = GOOD | {"/p.heic": jpeg(kind="HEIF"), "/damaged.m4a": bytes(damaged)}
    async with media_at(files) as (media, base):
        for image, audio, code in [
            ("/p.heic", "/s.mp3", "image_unreadable"),
            ("/p.jpg", "/damaged.m4a", "audio_unreadable"),
        ]:
            async with media.open(
                image_url=base + image, audio_url=base + audio, user_id=None
            ) as opened:
                with pytest.raises(JobFailed, match="PASS_ORIGINALS") as failed:
                    await media.publish(opened, Asked(), job_id=JOB, attempt=1, ttl_seconds=60)
                assert failed.value.code == code


async def test_no_more_jobs_than_set_have_their_media_on_disk():
    async with media_at(GOOD, max_open=2) as (media, base):
        urls = {"image_url": f"{base}/p.jpg", "audio_url": f"{base}/s.mp3", "user_id": None}
        first, second = media.open(**urls), media.open(**urls)
        await first.__aenter__()
        await second.__aenter__()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(media.open(**urls).__aenter__(), 0.2)
        await first.__aexit__(None, None, None)
        async with media.open(**urls) as opened:
            assert opened.audio.seconds == 4
        await second.__aexit__(None, None, None)


# --- with a real Storage ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    server.start()
    yield server
    server.remove()


@pytest.fixture
async def stack(postgres, tmp_path):
    async with Stack(postgres=postgres, data=tmp_path, runpod=False) as running:
        yield running


@pytest.fixture
async def http():
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


@pytest.fixture
def storage(stack, http):
    return StorageApi(url=stack.url, key=stack.keys.service_role, client=http)


async def put(stack, http, path: str, data: bytes, bucket="inputs") -> None:
    answer = await http.post(
        f"{stack.url}/storage/v1/object/{bucket}/{path}",
        content=data,
        headers={
            "apikey": stack.keys.service_role,
            "authorization": f"Bearer {stack.keys.service_role}",
            "content-type": "application/octet-stream",
            "x-upsert": "true",
        },
    )
    assert answer.status_code == 200, answer.text


async def test_private_objects_are_read_with_the_key_and_published_as_signed_addresses(
    stack, http, storage
):
    await put(stack, http, f"{USER}/my photo.jpg", jpeg())
    await put(stack, http, f"{USER}/s.mp3", SPEECH)
    async with (
        media_at({}, storage=storage, input_buckets=frozenset({"inputs"})) as (media, _),
        media.open(
            image_url=f"storage://inputs/{USER}/my photo.jpg",
            audio_url=f"storage://inputs/{USER}/s.mp3",
            user_id=USER,
        ) as opened,
    ):
        assert opened.audio.seconds == 4
        published = await media.publish(opened, Asked(), job_id=JOB, attempt=1, ttl_seconds=3600)
        assert published.objects == ()
        for url in (published.image_url, published.audio_url):
            answer = await http.get(url)
            assert answer.status_code == 200
            assert "token=" in url
        assert (await http.get(published.image_url.split("?")[0])).status_code != 200


async def test_another_users_object_is_forbidden_and_a_missing_one_unreachable(
    stack, http, storage
):
    await put(stack, http, f"{uuid.UUID(int=1)}/s.mp3", SPEECH)
    async with media_at(GOOD, storage=storage, input_buckets=frozenset({"inputs"})) as (
        media,
        base,
    ):
        for path, code in [
            (f"{uuid.UUID(int=1)}/s.mp3", "input_forbidden"),
            (f"{USER}/none.mp3", "audio_unreachable"),
        ]:
            with pytest.raises(JobFailed) as failed:
                async with media.open(
                    image_url=f"{base}/p.jpg", audio_url=f"storage://inputs/{path}", user_id=USER
                ):
                    pass
            assert failed.value.code == code


async def test_a_failing_storage_is_asked_again_later(stack, http, storage):
    rule = {"path": "/storage/", "action": "status", "status": 503}
    answer = await http.post(f"{stack.control_url}/rules", json=rule)
    assert answer.status_code in (200, 201)
    async with media_at(GOOD, storage=storage, input_buckets=frozenset({"inputs"})) as (
        media,
        base,
    ):
        with pytest.raises(InputUnavailable) as failed:
            async with media.open(
                image_url=f"{base}/p.jpg", audio_url=f"storage://inputs/{USER}/s", user_id=USER
            ):
                pass
        assert failed.value.code == "audio_unreachable"


async def prepare(media, base, *, frames=81, attempt=1, audio="/s.mp3", image="/p.jpg"):
    async with media.open(image_url=base + image, audio_url=base + audio, user_id=None) as opened:
        return await media.publish(
            opened, Asked(frames=frames), job_id=JOB, attempt=attempt, ttl_seconds=3600
        )


@pytest.mark.parametrize("frames", [81, 153], ids=["cut", "padded"])
async def test_prepared_inputs_have_exactly_the_size_and_length_of_the_video(
    frames, stack, http, storage
):
    files = GOOD | {"/p.heic": jpeg(kind="HEIF")}
    async with media_at(files, storage=storage, media_bucket=BUCKET) as (media, base):
        published = await prepare(media, base, frames=frames, image="/p.heic")
        image, audio = published.objects
        folder = rf"video-prepared/inputs/{JOB}/1/[0-9a-f]{{32}}"
        assert re.fullmatch(rf"{folder}/image\.jpg", image)
        assert re.fullmatch(rf"{folder}/audio\.flac", audio)
        assert Path(image).parent == Path(audio).parent
        picture = Image.open(io.BytesIO((await http.get(published.image_url)).content))
        assert (picture.size, picture.mode) == ((480, 832), "RGB")
        facts = probe_audio(io.BytesIO((await http.get(published.audio_url)).content))
        assert facts.seconds == Fraction(frames, 25)
        assert facts.sound_until == pytest.approx(min(4, frames / 25), abs=0.1)
        assert base not in published.image_url


async def test_discarded_inputs_are_gone_and_others_stay(stack, http, storage):
    kept = f"inputs/{uuid.uuid4()}/keep.mp3"
    await put(stack, http, kept.removeprefix("inputs/"), SPEECH)
    async with media_at(GOOD, storage=storage, media_bucket=BUCKET) as (media, base):
        first = await prepare(media, base, attempt=1)
        second = await prepare(media, base, attempt=2)
        await media.discard([*first.objects, kept, "other/inputs/x"])
        assert (await http.get(first.image_url)).status_code != 200
        assert (await http.get(second.image_url)).status_code == 200
        await media.discard(second.objects)
        assert (await http.get(second.audio_url)).status_code != 200
        headers = {"apikey": stack.keys.service_role}
        kept_url = f"{stack.url}/storage/v1/object/{kept}"
        assert (await http.get(kept_url, headers=headers)).status_code == 200


async def test_each_preparation_has_names_of_its_own(http, storage):
    """A claim may be handed out twice under one attempt: neither takes the place of the other."""
    async with media_at(GOOD, storage=storage, media_bucket=BUCKET) as (media, base):
        first, second = [await prepare(media, base, attempt=1) for _ in range(2)]
        assert not {*first.objects} & {*second.objects}
        await media.discard(first.objects)
        assert (await http.get(second.image_url)).status_code == 200


async def test_nothing_stays_behind_when_the_second_upload_fails(stack, http, storage):
    rule = {"method": "POST", "path": ".*/audio\\.flac", "action": "status", "status": 503}
    await http.post(f"{stack.control_url}/rules", json=rule)
    async with media_at(GOOD, storage=storage, media_bucket=BUCKET) as (media, base):
        with pytest.raises(StoreUnavailable):
            await prepare(media, base, attempt=9)
        headers = {"apikey": stack.keys.service_role}
        listing = f"{stack.url}/storage/v1/object/list/{BUCKET}"
        found = await http.post(listing, json={"prefix": f"inputs/{JOB}/9"}, headers=headers)
        assert found.json() == []


async def test_a_missing_bucket_for_prepared_inputs_is_said(stack, http, storage):
    async with media_at(GOOD, storage=storage, media_bucket="nowhere") as (media, base):
        with pytest.raises(BucketUnusable, match=r"bucket nowhere.*run the migrations"):
            await prepare(media, base)


def test_prepared_inputs_without_a_storage_are_a_mistake_of_the_caller():
    with pytest.raises(RuntimeError):
        InputMedia(policy=replace(POLICY, media_bucket="x"), fetcher=Fetcher())


async def test_signed_in_users_reach_their_own_folder_of_the_input_bucket_alone(stack, http):
    """The policies of the migration, through the gateway: insert, read and delete, never update."""
    anon = {"apikey": stack.keys.anon}
    accounts = []
    for _ in range(2):
        answer = await http.post(f"{stack.url}/auth/v1/signup", json={}, headers=anon)
        session = answer.json()
        headers = anon | {"authorization": f"Bearer {session['access_token']}"}
        accounts.append((session["user"]["id"], headers))
    (mine, me), (_, other) = accounts
    url = f"{stack.url}/storage/v1/object/inputs"
    assert (await http.post(f"{url}/{mine}/a", content=b"x", headers=me)).status_code == 200
    assert (await http.get(f"{url}/{mine}/a", headers=me)).content == b"x"
    refused = [
        await http.post(f"{url}/{mine}/b", content=b"x", headers=other),
        await http.post(f"{url}/{mine}/b", content=b"x", headers=anon),
        await http.post(f"{url}/loose", content=b"x", headers=me),
        await http.get(f"{url}/{mine}/a", headers=other),
        await http.get(f"{url}/{mine}/a", headers=anon),
        await http.get(f"{stack.url}/storage/v1/object/public/inputs/{mine}/a"),
        await http.post(f"{url}/{mine}/a", content=b"y", headers=me | {"x-upsert": "true"}),
    ]
    assert [answer.status_code for answer in refused if answer.status_code == 200] == []
    await http.request("DELETE", url, json={"prefixes": [f"{mine}/a"]}, headers=other)
    assert (await http.get(f"{url}/{mine}/a", headers=me)).content == b"x"
    await http.request("DELETE", url, json={"prefixes": [f"{mine}/a"]}, headers=me)
    assert (await http.get(f"{url}/{mine}/a", headers=me)).status_code != 200
