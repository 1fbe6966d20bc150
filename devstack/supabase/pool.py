"""Database sessions, and transactions with a caller's role and claims."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from psycopg import AsyncConnection, OperationalError, sql
from psycopg.rows import TupleRow

Connection = AsyncConnection[TupleRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller of a request: a database role and its verified claims."""

    role: str
    claims: Mapping[str, object] = field(default_factory=dict)

    @property
    def user_id(self) -> str | None:
        sub = self.claims.get("sub")
        return str(sub) if sub else None

    @property
    def claims_json(self) -> str:
        return json.dumps({**self.claims, "role": self.role}, sort_keys=True)


class Pool:
    """A few sessions: opened when needed, dropped when broken."""

    def __init__(self, url: str, *, size: int = 10) -> None:
        self._url = url
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(size)
        self._role_settings: dict[str, dict[str, str]] | None = None

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    @asynccontextmanager
    async def as_admin(self) -> AsyncIterator[Connection]:
        """Open a transaction with the rights of the session."""
        async with self._slots:
            connection = await self._begin("begin")
            async with self._ended(connection):
                yield connection

    @asynccontextmanager
    async def as_caller(
        self,
        caller: Caller,
        *,
        read_only: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Connection]:
        """Open a transaction with the caller's role, claims and time limits."""
        async with self._slots:
            connection = await self._begin("begin read only" if read_only else "begin")
            async with self._ended(connection):
                values = {
                    "search_path": "public, extensions",
                    "request.jwt.claims": caller.claims_json,
                    **(await self._settings_of(connection, caller.role)),
                    **(settings or {}),
                    "role": caller.role,
                }
                calls = sql.SQL(", ").join([sql.SQL("set_config(%s, %s, true)")] * len(values))
                await connection.execute(
                    sql.SQL("select ") + calls, [part for item in values.items() for part in item]
                )
                yield connection

    async def _begin(self, statement: str) -> Connection:
        while True:
            fresh = not self._idle
            connection = await self._open() if fresh else self._idle.pop()
            try:
                await connection.execute(statement.encode())
            except OperationalError:
                # A session that ended with a restart of Postgres fails only when it is used.
                await connection.close()
                if fresh:
                    raise
            else:
                return connection

    async def _open(self) -> Connection:
        return await AsyncConnection.connect(
            self._url, autocommit=True, prepare_threshold=None, connect_timeout=5
        )

    @asynccontextmanager
    async def _ended(self, connection: Connection) -> AsyncIterator[None]:
        try:
            yield
            await connection.execute("commit")
        except Exception:
            with suppress(OperationalError):
                await connection.execute("rollback")
            await self._give_back(connection)
            raise
        except BaseException:
            # Cancelled in the middle of a statement: its state is unknown.
            await connection.close()
            raise
        await self._give_back(connection)

    async def _give_back(self, connection: Connection) -> None:
        if connection.closed or connection.broken:
            await connection.close()
        else:
            self._idle.append(connection)

    async def _settings_of(self, connection: Connection, role: str) -> dict[str, str]:
        if self._role_settings is None:
            found: dict[str, dict[str, str]] = {}
            rows = await connection.execute(
                "select rolname, rolconfig from pg_roles where rolconfig is not null"
            )
            for name, config in await rows.fetchall():
                found[name] = dict(item.split("=", 1) for item in config)
            self._role_settings = found
        return self._role_settings.get(role, {})
