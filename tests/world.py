"""The whole system for end-to-end tests: stand-ins in this process, daemons beside it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import re
import signal
import sys
import tempfile
import wave
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psycopg
from PIL import Image
from psycopg.rows import dict_row

from devstack.postgres import Postgres, free_port
from devstack.runpod import RunPodStandIn, StorageTarget
from devstack.stack import DATABASE, Stack

ROOT = Path(__file__).resolve().parents[1]
FAST = {
    "SWEEP_SECONDS": "1",
    "POLL_SECONDS": "1",
    "SLOW_POLL_SECONDS": "2",
    "LEASE_SECONDS": "5",
    "RESULT_PATIENCE_SECONDS": "3",
    "RETRY_SECONDS": "0.3",
    "LOG_FORMAT": "json",
}


JOBS = """
select j.*, (select count(*) from public.video_job_attempts a where a.job_id = j.id
  and a.try_number = j.try_number and a.state <> 'refused') as submissions
from public.video_jobs j
"""


class Daemon:
    """One `python -m worker run` with its log file."""

    def __init__(self, env: Mapping[str, str], log: Path) -> None:
        self.env = dict(env)
        self.log = log
        self.port = int(env["PORT"])
        self.process: asyncio.subprocess.Process | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "worker",
                "run",
                cwd=ROOT,
                env=self.env,
                stdout=out,
                stderr=out,
            )

    async def ready(self, seconds: float = 20) -> None:
        """Until /livez answers."""
        async with asyncio.timeout(seconds), httpx.AsyncClient(trust_env=False) as http:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await http.get(f"http://127.0.0.1:{self.port}/livez")
                    if answer.status_code == 200:
                        return
                if not self.alive:
                    raise RuntimeError(f"the daemon ended: {self.words()[-1000:]}")
                await asyncio.sleep(0.05)

    def signal(self, what: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(what)

    async def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            await self.process.wait()

    async def terminate(self, seconds: float = 30) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), seconds)

    def words(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def owner(self) -> str | None:
        """The name on its leases, as the last start logged it."""
        for line in reversed(self.words().splitlines()):
            if '"app.started"' in line:
                return str(json.loads(line)["owner"])
        return None


class Balancer:
    """Passes connections to whichever daemon takes them, as Fly's proxy does."""

    def __init__(self, daemons: list[Daemon], rng: random.Random) -> None:
        self._daemons = daemons
        self._rng = rng
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for daemon in self._rng.sample(self._daemons, len(self._daemons)):
            try:
                there = await asyncio.open_connection("127.0.0.1", daemon.port)
            except OSError:
                continue
            with contextlib.suppress(OSError):
                await asyncio.wait_for(
                    asyncio.gather(_pipe(reader, there[1]), _pipe(there[0], writer)), 30
                )
            break
        for one in (writer, *((there[1],) if "there" in locals() else ())):
            one.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


class World:
    """Postgres, the Supabase stand-in, the RunPod stand-in, small inputs, and daemons.

    `postgres` and `database` share a running server; `workers` are real SDK workers for render=mp4.
    """

    def __init__(
        self,
        *,
        options: Mapping[str, object] | None = None,
        settings: Mapping[str, str] | None = None,
        postgres: Postgres | None = None,
        database: str = DATABASE,
        workers: int = 0,
    ) -> None:
        self._shared = postgres
        self._database = database
        self._workers = workers
        self._options = {
            "render": "none",
            "webhook_interval_seconds": 1.0,
            "webhook_timeout_seconds": 10.0,
            **(options or {}),
        }
        self._settings = {**FAST, **(settings or {})}
        self._exit = contextlib.AsyncExitStack()
        self.daemons: list[Daemon] = []

    async def __aenter__(self) -> World:
        self.folder = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="world-")))
        self.postgres = self._shared or Postgres()
        if self._shared is None:
            self.postgres.start()
            self._exit.push_async_callback(asyncio.to_thread, self.postgres.remove)
        self.stack = await self._exit.enter_async_context(
            Stack(postgres=self.postgres, database=self._database, runpod=False)
        )
        storage = StorageTarget(url=self.stack.url, key=self.stack.keys.service_role)
        self.runpod = RunPodStandIn(
            data_dir=self.folder / "runpod",
            storage=storage if self._workers else None,
            workers=self._workers,
            options=self._options,
        )
        await self._exit.enter_async_context(self.runpod)
        self._exit.push_async_callback(self._end_daemons)
        await self._upload_inputs()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._exit.aclose()

    async def _end_daemons(self) -> None:
        for daemon in self.daemons:
            daemon.signal(signal.SIGCONT)
            await daemon.kill()

    async def _upload_inputs(self) -> None:
        """A plain picture and 3.3 s of a hum: as cheap to decode as can be."""
        picture, sound = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (480, 832), (90, 120, 150)).save(picture, "JPEG")
        with wave.open(sound, "wb") as out:
            out.setparams((1, 2, 8000, 0, "NONE", ""))
            out.writeframes(b"".join(((i % 80) * 300 - 12000).to_bytes(2, "little", signed=True)
                                     for i in range(26400)))  # fmt: skip
        self.image_url = await self.upload("small.jpg", picture.getvalue())
        self.audio_url = await self.upload("small.wav", sound.getvalue())

    async def upload(self, name: str, data: bytes, *, bucket: str = "samples") -> str:
        """Put a file into a bucket; returns its public address (of use if the bucket is public)."""
        headers = {"apikey": self.stack.keys.service_role, "x-upsert": "true"}
        base = f"{self.stack.url}/storage/v1/object"
        async with httpx.AsyncClient(headers=headers, trust_env=False) as http:
            answer = await http.post(f"{base}/{bucket}/{name}", content=data)
            answer.raise_for_status()
        return f"{base}/public/{bucket}/{name}"

    def daemon(self, *, public_url: str | None = None, **settings: str) -> Daemon:
        """A daemon that is not started yet."""
        port = free_port()
        env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        env |= self.stack.env | self._settings
        env |= {
            "RUNPOD_API_KEY": self.runpod.api_key,
            "RUNPOD_ENDPOINT_ID": self.runpod.endpoint_id,
            "RUNPOD_ENDPOINT_URL": self.runpod.endpoint_url,
            "PORT": str(port),
            "HOST": "127.0.0.1",
            "ENV_FILE": "none",
            "PUBLIC_URL": public_url or f"http://127.0.0.1:{port}",
            **settings,
        }
        made = Daemon(env, self.folder / f"daemon-{len(self.daemons)}.log")
        self.daemons.append(made)
        return made

    async def sql(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Run a statement as the project's owner, as the dashboard does."""
        url = self.stack.database_url
        async with await psycopg.AsyncConnection.connect(
            url, autocommit=True, row_factory=dict_row
        ) as connection:
            cursor = await connection.execute(query, values)
            return await cursor.fetchall() if cursor.description else []

    async def insert(self, **values: object) -> str:
        """Insert one job by SQL and return its id."""
        row = {"image_url": self.image_url, "audio_url": self.audio_url, **values}
        names = ", ".join(row)
        marks = ", ".join(["%s"] * len(row))
        query = f"insert into public.video_jobs ({names}) values ({marks}) returning id::text"
        return str((await self.sql(query, *row.values()))[0]["id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        """A row, and how many submissions of its try may have been paid."""
        return (await self.sql(f"{JOBS} where j.id = %s", job_id))[0]

    async def until(self, job_id: str, *statuses: str, seconds: float = 30) -> dict[str, Any]:
        """Wait until the row has one of these statuses."""
        row: dict[str, Any] = {}
        try:
            async with asyncio.timeout(seconds):
                while (row := await self.job(job_id))["status"] not in statuses:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logs = "\n".join(daemon.words()[-3000:] for daemon in self.daemons)
            raise AssertionError(f"still {row}\n{logs}") from None
        return row

    def runs_of(self, job_id: str) -> list[Any]:
        """Every run that RunPod accepted for a job, by the webhook URL that it carries."""
        return [run for run in self.runpod.runs if _job_of(run)[0] == job_id]


def _job_of(run: Any) -> tuple[str, int]:
    webhook = run.request.webhook
    if webhook is None:
        # The video's name carries the job's id, too.
        found = re.search(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(run.request.input))
        return (found.group() if found else ""), 0
    job_id, attempt, _ = webhook.partition("/webhooks/runpod/")[2].split("/")
    return job_id, int(attempt)


def run_key(run: Any) -> tuple[str, int]:
    """Job id and attempt of a run."""
    return _job_of(run)


@contextlib.asynccontextmanager
async def running(world: World, **settings: str) -> AsyncIterator[Daemon]:
    """One daemon that is up, ended by SIGTERM."""
    daemon = world.daemon(**settings)
    await daemon.start()
    await daemon.ready()
    yield daemon
    if daemon.alive:
        await daemon.terminate()
