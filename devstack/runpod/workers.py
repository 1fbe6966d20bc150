"""The endpoint's workers: processes that run the official SDK's loop with our handler."""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# `make setup` installs the SDK beside our own environment, so that none of its packages is in ours.
INTERPRETER = Path(f"{sys.prefix}-endpoint", "bin", "python")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageTarget:
    """The storage to which the handler uploads videos; compatible with Supabase."""

    url: str
    key: str
    bucket: str = "results"


class Workers:
    """Keeps a number of worker processes alive and reports each one that dies."""

    def __init__(
        self,
        *,
        endpoint_url: str,
        storage: StorageTarget | None,
        data_dir: Path,
        on_gone: Callable[[str], None],
    ) -> None:
        self._endpoint_url = endpoint_url
        self._storage = storage
        self._data_dir = data_dir
        self._on_gone = on_gone
        self._numbers = itertools.count(1)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, count: int) -> None:
        """Start the workers."""
        if count and not INTERPRETER.exists():
            raise RuntimeError(f"{INTERPRETER} is missing: run `make setup`")
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep_one()) for _ in range(count)]

    def stop(self, worker_id: str) -> None:
        """Kill one worker; another one replaces it."""
        process = self._processes.get(worker_id)
        if process is not None:
            _kill(process)

    async def close(self) -> None:
        """Kill all workers for good."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_one(self) -> None:
        while True:
            worker_id = f"standin{os.getpid()}w{next(self._numbers)}"
            process = self._spawn(worker_id)
            self._processes[worker_id] = process
            try:
                await _exit_of(process)
            finally:
                _kill(process)
                process.wait()
                self._processes.pop(worker_id, None)
                self._on_gone(worker_id)
            # A handler that cannot start must not be restarted without a pause.
            await asyncio.sleep(0.5)

    def _spawn(self, worker_id: str) -> "subprocess.Popen[bytes]":
        home = self._data_dir / "workers" / worker_id
        home.mkdir(parents=True, exist_ok=True)
        with (self._data_dir / "workers" / f"{worker_id}.log").open("ab") as log:
            return subprocess.Popen(
                [str(INTERPRETER), "-m", "devstack.handler"],
                cwd=home,
                env=self._environment(worker_id),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its own session: Ctrl-C reaches only us, and its heartbeat ends with it.
                start_new_session=True,
            )

    def _environment(self, worker_id: str) -> dict[str, str]:
        url = self._endpoint_url
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self._data_dir),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
            "RUNPOD_WEBHOOK_GET_JOB": f"{url}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{url}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{url}/ping/$RUNPOD_POD_ID?gpu=none",
            "RUNPOD_POD_ID": worker_id,
            "RUNPOD_AI_API_KEY": "worker",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "STANDIN_PARENT": str(os.getpid()),
        }
        if self._storage is not None:
            environment["STANDIN_STORAGE_URL"] = self._storage.url
            environment["STANDIN_STORAGE_KEY"] = self._storage.key
            environment["STANDIN_STORAGE_BUCKET"] = self._storage.bucket
        return environment


async def _exit_of(process: "subprocess.Popen[bytes]") -> None:
    descriptor = os.pidfd_open(process.pid)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
