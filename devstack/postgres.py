"""A private PostgreSQL server that runs as any user and ends with its parent."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql

from devstack.launch import Launch, find_binaries, plan_launch

SUPERUSER = "supabase_admin"
PR_SET_PDEATHSIG = 1
START_SECONDS = 20.0
STOP_SECONDS = 10.0

# Needed for logical decoding, and to write less to the disk.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "40",
    "max_replication_slots": "40",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_wal_size": "256MB",
}
# Commits still flush: logical decoding sends only flushed changes.
UNSAFE_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


def die_with_parent(with_signal: signal.Signals) -> Callable[[], None]:
    """Return a preexec_fn: Linux signals the child when the thread that started it ends."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(with_signal))
        if os.getppid() != parent:
            os.kill(os.getpid(), with_signal)

    return ask


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """One server on a free port of 127.0.0.1; start it from a thread that outlives it."""

    def __init__(
        self, data: Path | None = None, *, port: int | None = None, durable: bool | None = None
    ) -> None:
        self._kept = data is not None
        self._durable = self._kept if durable is None else durable
        self._home = data or Path(tempfile.mkdtemp(prefix="devstack-postgres-"))
        self._home.mkdir(parents=True, exist_ok=True)
        if not self._kept:
            self._home.chmod(0o711)
        self._data = self._home / "pgdata"
        self.port = port or free_port()
        self.log = self._home / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._launch: Launch | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def url(self, database: str = "postgres", *, user: str = "postgres") -> str:
        """Return a libpq URL; connections from this machine need no password."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Create the cluster if it is new, start the server and wait until it answers."""
        launch = self._plan()
        if not (self._data / "PG_VERSION").exists():
            self._initdb(launch)
        settings = SETTINGS | ({} if self._durable else UNSAFE_SETTINGS)
        arguments = [f"-c{name}={value}" for name, value in settings.items()]
        with self.log.open("ab") as log:
            self._process = self._spawn(
                launch, ["postgres", "-D", str(self._data), "-p", str(self.port), *arguments], log
            )
        self._await_ready()

    def stop(self) -> None:
        """Stop at once and end open sessions; safe to call again."""
        self._end(signal.SIGINT)
        if self._launch is not None and self._launch.scratch is not None:
            shutil.rmtree(self._launch.scratch, ignore_errors=True)
            self._launch = None

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop, and delete the data directory unless the caller gave it."""
        self.stop()
        if not self._kept:
            shutil.rmtree(self._home, ignore_errors=True)

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database as a copy of `template`, which must be unused; return its URL."""
        statement = sql.SQL("create database {} template {} owner postgres strategy {}").format(
            sql.Identifier(name), sql.Identifier(template), sql.Identifier("file_copy")
        )
        with psycopg.connect(self.url("postgres", user=SUPERUSER), autocommit=True) as connection:
            connection.execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and end its sessions."""
        statement = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        # "force" does not end decoding sessions; a temporary slot ends with its session.
        decoders = "select pg_terminate_backend(active_pid) from pg_replication_slots"
        deadline = time.monotonic() + STOP_SECONDS
        with psycopg.connect(self.url("postgres", user=SUPERUSER), autocommit=True) as connection:
            while True:
                try:
                    connection.execute(statement)
                    return
                except psycopg.errors.ObjectInUse:
                    if time.monotonic() > deadline:
                        raise
                connection.execute(f"{decoders} where database = %s and active", [name])
                time.sleep(0.05)

    def _plan(self) -> Launch:
        if self._launch is None:
            self._launch = plan_launch(find_binaries(), self._data, self._home / "binaries")
        return self._launch

    def _initdb(self, launch: Launch) -> None:
        self._data.mkdir(mode=0o700, exist_ok=True)
        owner = launch.user or launch.owner
        if owner is not None:
            shutil.chown(self._data, owner, pwd.getpwnam(owner).pw_gid)
        arguments = ["initdb", "-D", str(self._data), "-U", SUPERUSER, "--auth=trust"]
        arguments += ["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        with self.log.open("ab") as log:
            code = self._spawn(launch, arguments, log).wait()
        if code != 0:
            raise RuntimeError(f"initdb failed:\n{self._last_lines()}")

    def _spawn(
        self, launch: Launch, arguments: Sequence[str], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        command = [*launch.prefix, str(launch.binaries / arguments[0]), *arguments[1:]]
        account = pwd.getpwnam(launch.user) if launch.user is not None else None
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            # Ctrl-C must reach only us: we decide when the database stops.
            process_group=0,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=die_with_parent(signal.SIGINT),
        )
        return process

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.running:
                raise RuntimeError(f"PostgreSQL did not start:\n{self._last_lines()}")
            try:
                psycopg.connect(self.url("template1", user=SUPERUSER), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return
        self.kill()
        raise RuntimeError(f"PostgreSQL was not ready in time:\n{self._last_lines()}")

    def _end(self, with_signal: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(with_signal)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait(STOP_SECONDS)
        self._process = None

    def _last_lines(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
