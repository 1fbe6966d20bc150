"""A local stack for commands that need an account, and ways to run commands against it."""

import asyncio
import json
import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row
from starlette.applications import Starlette
from starlette.routing import Route
from typer.testing import CliRunner

from devstack.postgres import SUPERUSER, Postgres
from devstack.runpod import RunPodStandIn
from devstack.server import AppServer
from devstack.stack import Stack
from worker.commands.cli import app
from worker.doctor.context import Context
from worker.doctor.examine import CHECKS, examine
from worker.doctor.result import Result
from worker.reconcile.reconciler import Reconciler
from worker.runtime.loops import Heartbeats
from worker.runtime.readiness import Readiness
from worker.settings import load_valid_settings
from worker.web import Web

ROOT = Path(__file__).parents[2]
SECRET = "a-webhook-secret-of-32-letters-0"


class NoJobs:
    """Replaces the store and RunPod, for webhooks of jobs that do not exist."""

    endpoint_id = "localendpoint"

    async def case(self, job_id: str) -> None:
        """Return None: there is no such job."""


@dataclass(slots=True)
class Done:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(slots=True)
class Backend:
    """Everything that the commands use, in good order; each test breaks one thing."""

    stack: Stack
    runpod: RunPodStandIn
    env: dict[str, str]
    database: str
    extra: dict[str, str] = field(default_factory=dict)

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Run a statement as the database's owner."""
        url = self.stack.postgres.url(self.database, user=SUPERUSER)
        with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def insert(self, **columns: object) -> str:
        """Insert a job and return its id."""
        row = {
            "id": str(uuid.uuid4()),
            "image_url": "https://example.com/i.png",
            "audio_url": "https://example.com/a.mp3",
            **columns,
        }
        names, marks = ", ".join(row), ", ".join("%s" for _ in row)
        self.sql(f"insert into public.video_jobs ({names}) values ({marks})", *row.values())
        return str(row["id"])

    def force(self, job_id: str, **columns: object) -> None:
        """Set columns that only the worker may write."""
        sets = ", ".join(f"{name} = %s" for name in columns)
        url = self.stack.postgres.url(self.database, user=SUPERUSER)
        with psycopg.connect(url) as connection:
            connection.execute("select set_config('video_jobs.writer', 'worker', true)")
            connection.execute(
                f"update public.video_jobs set {sets} where id = %s".encode(),
                [*columns.values(), job_id],
            )

    async def examine(self, *only: str, http: Any = None, **changes: str) -> dict[str, Result]:
        """Return the results of the checks with these prefixes, by name."""
        env = {**self.env, **changes}
        settings, problems = load_valid_settings(env)
        checks = [check for check in CHECKS if check.name.startswith(only)] if only else CHECKS
        async with http or httpx.AsyncClient(timeout=15, trust_env=False) as client:
            context = Context(settings=settings, problems=problems, http=client)
            return {result.name: result for result in await examine(context, checks)}

    def words(self, *arguments: str) -> list[str]:
        """Return the words of `python -m worker …`."""
        return [sys.executable, "-m", "worker", *arguments]

    def environment(self, **changes: str) -> dict[str, str]:
        """Return the environment of a command."""
        return {"PATH": os.environ["PATH"], **self.env, **changes}

    async def command(self, *arguments: str, **changes: str) -> Done:
        """Run `python -m worker …` in a process of its own."""
        process = await asyncio.create_subprocess_exec(
            *self.words(*arguments),
            cwd=ROOT,
            env=self.environment(**changes),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return Done(process.returncode or 0, out.decode(), err.decode())

    async def here(self, *arguments: str, **changes: str) -> Done:
        """Run the command inside this process, which is ten times faster."""

        def invoke() -> Done:
            done = CliRunner().invoke(app, list(arguments), env={**self.env, **changes})
            if done.exception is not None and not isinstance(done.exception, SystemExit):
                raise done.exception
            return Done(done.exit_code, done.stdout, done.stderr)

        return await asyncio.to_thread(invoke)


@asynccontextmanager
async def running_backend(postgres: Postgres, path: Path) -> AsyncIterator[Backend]:
    """Start everything; the webhook is the worker's own HTTP server."""
    database = f"t{uuid.uuid4().hex}"
    runpod = RunPodStandIn(data_dir=path / "runpod", workers=0, options={"render": "none"})
    stack = Stack(data=path / "stack", postgres=postgres, database=database, runpod=False)
    hook = AppServer(worker_web().app())
    async with stack, runpod:
        await hook.start()
        env = {
            "ENV_FILE": "none",
            "SUPABASE_URL": stack.url,
            "SUPABASE_SERVICE_ROLE_KEY": stack.keys.service_role,
            "RUNPOD_API_KEY": runpod.api_key,
            "RUNPOD_ENDPOINT_URL": runpod.endpoint_url,
            "PUBLIC_URL": hook.url,
            "WEBHOOK_SECRET": SECRET,
            "INPUT_BUCKETS": "inputs",
            "DATABASE_URL": postgres.url(database),
        }
        try:
            yield Backend(stack, runpod, env, database)
        finally:
            await hook.stop()


def worker_web(secret: str = SECRET, reconciler: Any = None) -> Web:
    """Return the worker's HTTP server, without jobs."""
    nobody: Any = NoJobs()
    if reconciler is None:
        reconciler = Reconciler(
            store=nobody, updater=nobody, poller=nobody, tracker=nobody, detector=nobody,
            effects=nobody, policy=nobody, clock=nobody, exclusive=False, on_adopted=lambda: None,
        )  # fmt: skip
    return Web(reconciler=reconciler, readiness=Readiness(), beats=Heartbeats(), secrets=[secret])


def levels(results: Mapping[str, Result]) -> dict[str, str]:
    """Return the levels that are not ok."""
    return {name: result.level for name, result in results.items() if result.level != "ok"}


METHODS = ["GET", "POST", "HEAD", "DELETE"]


@asynccontextmanager
async def answering(*routes: Route) -> AsyncIterator[str]:
    """Run another server; yield its URL."""
    server = AppServer(Starlette(routes=list(routes)))
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()


def unused_url() -> str:
    """Return a URL at which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def fault(where: Any, **rule: object) -> Iterator[None]:
    """Let a backend-in answer wrongly for a while."""
    added = where.faults.add(rule)
    try:
        yield
    finally:
        where.faults.remove(added.id)
