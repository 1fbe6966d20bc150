"""The local stack: Postgres, the Supabase stand-in and the RunPod stand-in."""

from __future__ import annotations

import asyncio
import mimetypes
import secrets
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from devstack.postgres import SUPERUSER, Postgres, free_port
from devstack.runpod import RunPodStandIn, StorageTarget
from devstack.server import AppServer
from devstack.supabase.app import Gateway, Project
from devstack.supabase.database import MIGRATIONS, prepare
from devstack.supabase.tokens import Keys

DATABASE = "app"
FEED_SECONDS = 20
BUCKETS = {"results": True, "samples": True, "inputs": False}
SAMPLES = Path(__file__).with_name("samples")
PICTURES, SPEECHES = (".jpg", ".jpeg", ".png", ".webp"), (".mp3", ".wav", ".ogg", ".flac", ".m4a")


class Stack:
    """Starts the parts it is not given, and stops what it started.

    `postgres` shares a running server among several stacks; each then names its own `database`,
    which is created and migrated unless it exists.
    """

    def __init__(
        self,
        *,
        data: Path | None = None,
        postgres: Postgres | None = None,
        database: str = DATABASE,
        migrations: Path | None = MIGRATIONS,
        runpod: bool = True,
        port: int | None = None,
    ) -> None:
        self._kept = data is not None
        self._data = data
        self._shared_postgres = postgres is not None
        self._postgres = postgres
        self._database = database
        self._migrations = migrations
        self._wants_runpod = runpod
        self.worker_port = port or free_port()
        self.webhook_secret = secrets.token_hex(32)
        self.runpod: RunPodStandIn | None = None
        self._gateway: Gateway | None = None
        self._server: AppServer | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def postgres(self) -> Postgres:
        assert self._postgres is not None, "the stack is not started"
        return self._postgres

    @property
    def gateway(self) -> Gateway:
        """Return the gateway, with its `faults`, `realtime` and `auth` controls."""
        assert self._gateway is not None, "the stack is not started"
        return self._gateway

    @property
    def keys(self) -> Keys:
        return self.gateway.project.keys

    @property
    def url(self) -> str:
        """Return SUPABASE_URL; the controls are at `/_control/` below it."""
        assert self._server is not None, "the stack is not started"
        return self._server.url

    @property
    def control_url(self) -> str:
        return f"{self.url}/_control"

    @property
    def database_url(self) -> str:
        return self.postgres.url(self._database)

    async def start(self) -> None:
        """Start everything; after a failure nothing keeps running."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        if self._data is None:
            self._data = Path(tempfile.mkdtemp(prefix="devstack-"))
        else:
            self._data.mkdir(parents=True, exist_ok=True)
        if self._postgres is None:
            self._postgres = Postgres(self._data / "postgres" if self._kept else None)
            self._postgres.start()
        await asyncio.to_thread(prepare, self._postgres, self._database, self._migrations)
        keys = Keys.load(self._data / "keys.json")
        self._gateway = Gateway(
            Project(
                admin_url=self._postgres.url(self._database, user=SUPERUSER),
                authenticator_url=self._postgres.url(self._database, user="authenticator"),
                keys=keys,
                files=self._data / "storage",
            )
        )
        self._server = AppServer(self._gateway.app)
        await self._server.start()
        async with asyncio.timeout(FEED_SECONDS):
            await self._gateway.realtime.feed.ready.wait()
        await self._fill_buckets()
        if self._wants_runpod:
            await self._start_runpod(self._data)

    async def stop(self) -> None:
        """Stop what was started; safe to call again."""
        if self.runpod is not None:
            await self.runpod.stop()
            self.runpod = None
        if self._gateway is not None:
            self._gateway.faults.clear()
        if self._server is not None:
            await self._server.stop()
            self._server = None
        if self._postgres is not None and not self._shared_postgres:
            # In a thread: this loop must read the server's last messages.
            await asyncio.to_thread(self._postgres.remove)
            self._postgres = None
        if self._data is not None and not self._kept:
            shutil.rmtree(self._data, ignore_errors=True)
            self._data = None

    async def restart_postgres(self) -> None:
        """Restart Postgres while the gateway runs."""
        await asyncio.to_thread(self.postgres.stop)
        self.postgres.start()

    @property
    def env(self) -> dict[str, str]:
        """Return the settings for `worker run`, by name."""
        found = {
            "SUPABASE_URL": self.url,
            "SUPABASE_ANON_KEY": self.keys.anon,
            "SUPABASE_SERVICE_ROLE_KEY": self.keys.service_role,
            "SUPABASE_PUBLISHABLE_KEY": self.keys.publishable,
            "SUPABASE_SECRET_KEY": self.keys.secret,
            "DATABASE_URL": self.database_url,
            "PUBLIC_URL": f"http://127.0.0.1:{self.worker_port}",
            "PORT": str(self.worker_port),
            "WEBHOOK_SECRET": self.webhook_secret,
            "INPUT_ALLOW_PRIVATE_HOSTS": self.url.removeprefix("http://"),
            "INPUT_BUCKETS": "video-images,video-audio,inputs",
        }
        for name, suffixes in (("SAMPLE_IMAGE_URL", PICTURES), ("SAMPLE_AUDIO_URL", SPEECHES)):
            sample = next((path for path in _samples() if path.suffix in suffixes), None)
            if sample is not None:
                found[name] = f"{self.url}/storage/v1/object/public/samples/{sample.name}"
        if self.runpod is not None:
            found["RUNPOD_API_KEY"] = self.runpod.api_key
            found["RUNPOD_ENDPOINT_ID"] = self.runpod.endpoint_id
            found["RUNPOD_ENDPOINT_URL"] = self.runpod.endpoint_url
        return found

    async def _fill_buckets(self) -> None:
        for name, public in BUCKETS.items():
            await self.gateway.storage.create_bucket(name, public=public)
        headers = {"apikey": self.keys.service_role, "x-upsert": "true"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False) as client:
            for path in _samples():
                kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                answer = await client.post(
                    f"/storage/v1/object/samples/{path.name}",
                    content=path.read_bytes(),
                    headers={"content-type": kind},
                )
                answer.raise_for_status()

    async def _start_runpod(self, data: Path) -> None:
        standin = RunPodStandIn(
            data_dir=data / "runpod",
            storage=StorageTarget(url=self.url, key=self.keys.service_role),
        )
        await standin.start()
        self.runpod = standin


def _samples() -> list[Path]:
    if not SAMPLES.is_dir():
        return []
    return sorted(path for path in SAMPLES.iterdir() if path.suffix in (*PICTURES, *SPEECHES))
