"""Housekeeping with a real Storage and the real functions: what it removes, and what never."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from devstack.postgres import SUPERUSER
from devstack.supabase.app import Gateway, Project
from devstack.supabase.tokens import Keys
from tests.postgres import Database
from tests.sql.worker import Worker, by_hand
from worker.housekeeping import TROUBLE_SECONDS, Housekeeper, Retention
from worker.media.storage import ObjectName, StorageApi
from worker.runtime.readiness import Readiness
from worker.supabase.store import SupabaseStore, connect

PREPARED = "video-prepared"
RETENTION = Retention(
    history_days=90, job_days=0, upload_days=7, media_bucket=PREPARED, media_hours=24,
    prepared_bucket=PREPARED,
)  # fmt: skip
OLD = timedelta(days=30)


@dataclass(kw_only=True)
class House:
    """Housekeeping, what it works on, and what it reports."""

    database: Database
    gateway: Gateway
    store: SupabaseStore
    storage: StorageApi
    readiness: Readiness
    http: httpx.AsyncClient

    async def tick(self, **retention: object) -> float | None:
        keeper = Housekeeper(
            replace(RETENTION, **retention),  # type: ignore[arg-type] # checked by the dataclass
            store=self.store, storage=self.storage, readiness=self.readiness,
        )  # fmt: skip
        return await keeper.tick()

    async def put(self, bucket: str, path: str, *, age: timedelta = OLD) -> str:
        """A stored file that was uploaded some time ago."""
        name = ObjectName(bucket=bucket, path=path)
        kind = "image/jpeg" if bucket == "video-images" else "audio/flac"
        await self.storage.upload(name, b"data", content_type=kind)
        self.database.sql(
            "update storage.objects set created_at = now() - %s, updated_at = now() - %s"
            " where bucket_id = %s and name = %s",
            age, age, bucket, path,
        )  # fmt: skip
        return str(name)

    async def stored(self) -> set[str]:
        """What Storage still serves."""
        rows = self.database.sql("select bucket_id, name from storage.objects")
        names = {f"{row['bucket_id']}/{row['name']}" for row in rows}
        headers = {"apikey": self.gateway.project.keys.service_role}
        for name in names:
            answer = await self.http.get(f"/storage/v1/object/{name}", headers=headers)
            assert answer.status_code == 200
        return names


@pytest.fixture
def worker(database: Database) -> Worker:
    """A worker that shares the test's session."""
    return Worker(connection=database.connection)


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    gateway = Gateway(
        Project(
            admin_url=database.postgres.url(database.name, user=SUPERUSER),
            authenticator_url=database.postgres.url(database.name, user="authenticator"),
            keys=Keys.load(tmp_path / "keys.json"),
            files=tmp_path / "files",
        )
    )
    transport = httpx.ASGITransport(app=gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        key = gateway.project.keys.service_role
        yield House(
            database=database,
            gateway=gateway,
            store=SupabaseStore(
                await connect("http://gateway", key, http),
                owner=str(uuid4()), lease_seconds=60, poll_seconds=30, endpoint_id="abc123",
            ),
            storage=StorageApi(url="http://gateway", key=key, client=http),
            readiness=Readiness(),
            http=http,
        )  # fmt: skip
    await gateway._callers.close()
    await gateway._admin.close()


async def prepared(
    house: House, worker: Worker, *, state: str, status: str | None, ago: timedelta = OLD
) -> str:
    """A prepared input of a submission in this state; its job's row may be deleted."""
    house.database.insert()
    job = worker.claim_one()
    path = f"inputs/{job['id']}/{job['attempt']}/{uuid4().hex}/image.jpg"
    name = await house.put(PREPARED, path)
    assert worker.begin(job)
    job_id: UUID = job["id"]
    by_hand(
        house.database,
        "update public.video_job_attempts set input_objects = %s, state = %s,"
        " created_at = now() - %s, ended_at = now() - %s where job_id = %s",
        [name], state, ago, ago, job_id,
    )  # fmt: skip
    if status is None:
        by_hand(house.database, "delete from public.video_jobs where id = %s", job_id)
    else:
        statement = "update public.video_jobs set status = %s, video_url = 'v' where id = %s"
        by_hand(house.database, statement, status, job_id)
    return name


async def test_only_what_nobody_needs_is_removed_with_its_file(
    house: House, worker: Worker
) -> None:
    running = await prepared(house, worker, state="running", status="running")
    rowless = await prepared(house, worker, state="unknown", status=None)
    await prepared(house, worker, state="completed", status="completed")
    face = await house.put("video-images", f"{uuid4()}/face.jpg")
    await house.put("video-images", f"{uuid4()}/forgotten.jpg")
    await house.put("video-audio", f"{uuid4()}/forgotten.flac")
    fresh = await house.put("inputs", f"{uuid4()}/new.flac", age=timedelta(days=3))
    house.database.insert(
        image_url=f"https://abc.supabase.co/storage/v1/object/sign/{face}?token=t"
    )
    assert await house.tick() is None
    assert await house.stored() == {running, rowless, face, fresh}
    assert house.readiness.status == "ok"


async def test_retention_zero_spares_live_runs_and_switches_uploads_off(
    house: House, worker: Worker
) -> None:
    running = await prepared(house, worker, state="running", status="running")
    await prepared(house, worker, state="failed", status="completed", ago=timedelta(0))
    upload = await house.put("inputs", f"{uuid4()}/forgotten.flac")
    await house.tick(media_hours=0, upload_days=0)
    assert await house.stored() == {running, upload}


async def test_a_clock_that_is_a_day_ahead_removes_nothing_early(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database's clock decides; this machine's has no say."""
    recent = await prepared(
        house, worker, state="completed", status="completed", ago=timedelta(hours=2)
    )
    upload = await house.put("inputs", f"{uuid4()}/new.flac", age=timedelta(days=6.5))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 2 * 86_400)
    await house.tick()
    assert await house.stored() == {recent, upload}


async def test_more_objects_than_one_page_go_in_one_tick(house: House) -> None:
    folder = uuid4()
    house.database.sql(
        "insert into storage.objects (bucket_id, name, version, created_at, updated_at)"
        " select 'inputs', %s || '/' || n, n::text, now() - interval '30 days',"
        " now() - interval '30 days' from generate_series(1, 250) n",
        str(folder),
    )
    await house.tick()
    assert await house.stored() == set()


async def test_ended_jobs_are_deleted_only_where_a_setting_says_so(house: House) -> None:
    job = house.database.insert()["id"]
    by_hand(
        house.database,
        "update public.video_jobs set status = 'cancelled',"
        " completed_at = now() - interval '99 days'",
    )
    await house.tick()
    assert house.database.job(job)
    await house.tick(job_days=100)
    assert house.database.job(job)
    await house.tick(job_days=98)
    assert house.database.sql("select id from public.video_jobs") == []


async def test_a_missing_bucket_is_said_before_any_job_comes(house: House) -> None:
    assert await house.tick(prepared_bucket="nowhere") == TROUBLE_SECONDS
    assert house.readiness.status == "down"
    assert "bucket nowhere" in house.readiness.reasons[0]
    assert await house.tick(prepared_bucket=None) is None


async def test_a_storage_that_is_away_degrades_and_nothing_else(house: House) -> None:
    await house.put("inputs", f"{uuid4()}/forgotten.flac")
    house.gateway.faults.add({"path": "/storage/", "action": "status", "status": 503})
    assert await house.tick() == TROUBLE_SECONDS
    assert house.readiness.status == "degraded"
    house.gateway.faults.clear()
    assert await house.tick() is None
    assert house.readiness.status == "ok"
