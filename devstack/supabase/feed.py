"""Committed changes of a publication, streamed from a temporary logical slot as they happen."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.rows import TupleRow

PUBLICATION = "supabase_realtime"
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
RECONNECT_SECONDS = 0.2


class Unchanged:
    """Marks an out-of-line value that an UPDATE did not change: it is not in the log."""


UNCHANGED = Unchanged()
Value = str | None | Unchanged


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relation:
    """A table as the log describes it; a new object after every change of its definition."""

    oid: int
    schema: str
    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row's change; `old` holds the key only, unless the replica identity is full."""

    kind: str
    relation: Relation
    committed_at: str
    xid: int
    new: dict[str, Value] | None = None
    old: dict[str, Value] | None = None
    old_is_whole: bool = False


class Decoder:
    """Reads pgoutput (protocol 1) messages and returns whole transactions."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}
        self._changes: list[Change] = []
        self._committed_at = ""
        self._xid = 0
        self._data = b""
        self._at = 0

    def feed(self, message: bytes) -> list[Change] | None:
        """Read one message; at a commit return the transaction's changes in order."""
        self._data, self._at = message, 1
        kind = message[:1]
        if kind == b"B":
            self._changes = []
            self._committed_at = _instant(struct.unpack_from("!q", message, 9)[0])
            self._xid = int(struct.unpack_from("!I", message, 17)[0])
        elif kind == b"C":
            return self._changes
        elif kind == b"R":
            self._relation()
        elif kind in b"IUD":
            self._changes.append(self._change(kind))
        return None

    def _relation(self) -> None:
        oid = self._int("!I")
        schema, name = self._string(), self._string()
        self._at += 1
        columns = []
        for _ in range(self._int("!H")):
            self._at += 1
            columns.append(self._string())
            self._at += 8
        self._relations[oid] = Relation(
            oid=oid, schema=schema or "pg_catalog", name=name, columns=tuple(columns)
        )

    def _change(self, kind: bytes) -> Change:
        relation = self._relations[self._int("!I")]
        new = old = None
        whole = False
        while self._at < len(self._data):
            mark = self._data[self._at : self._at + 1]
            self._at += 1
            row = self._tuple(relation)
            if mark == b"N":
                new = row
            else:
                old, whole = row, mark == b"O"
        if new is not None and old is not None and whole:
            new = {key: old[key] if value is UNCHANGED else value for key, value in new.items()}
        return Change(
            kind={b"I": "INSERT", b"U": "UPDATE", b"D": "DELETE"}[kind],
            relation=relation,
            committed_at=self._committed_at,
            xid=self._xid,
            new=new,
            old=old,
            old_is_whole=whole,
        )

    def _tuple(self, relation: Relation) -> dict[str, Value]:
        row: dict[str, Value] = {}
        count = self._int("!H")
        for name in relation.columns[:count]:
            mark = self._data[self._at : self._at + 1]
            self._at += 1
            if mark == b"n":
                row[name] = None
            elif mark == b"u":
                row[name] = UNCHANGED
            else:
                length = self._int("!I")
                row[name] = self._data[self._at : self._at + length].decode()
                self._at += length
        return row

    def _int(self, form: str) -> int:
        value: int = struct.unpack_from(form, self._data, self._at)[0]
        self._at += struct.calcsize(form)
        return value

    def _string(self) -> str:
        end = self._data.index(b"\0", self._at)
        text = self._data[self._at : end].decode()
        self._at = end + 1
        return text


class Feed:
    """Keeps one replication session open; commits during a gap are lost, as on Supabase."""

    def __init__(self, url: str, on_transaction: Callable[[list[Change]], None]) -> None:
        self._url = url
        self._on_transaction = on_transaction
        self.ready = asyncio.Event()
        self.connections = 0
        self.silence_seconds = 0.0

    async def run(self) -> None:
        """Stream until cancelled; reconnect when the session ends."""
        while True:
            try:
                await self._session()
            except (psycopg.OperationalError, OSError):
                pass
            finally:
                self.ready.clear()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _session(self) -> None:
        if self.connections and self.silence_seconds:
            await asyncio.sleep(self.silence_seconds)
        connection = await AsyncConnection.connect(
            self._url, autocommit=True, replication="database", connect_timeout=5
        )
        try:
            slot = f"devstack_{connection.info.backend_pid}"
            await connection.execute(
                f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput"
                " (SNAPSHOT 'nothing')".encode()
            )
            await connection.execute(
                f"START_REPLICATION SLOT {slot} LOGICAL 0/0"
                f" (proto_version '1', publication_names '{PUBLICATION}')".encode()
            )
            self.connections += 1
            self.ready.set()
            await self._stream(connection)
        finally:
            # `async with` would send a rollback into the stream.
            await connection.close()

    async def _stream(self, connection: AsyncConnection[TupleRow]) -> None:
        pgconn, decoder = connection.pgconn, Decoder()
        while True:
            length, data = pgconn.get_copy_data(1)
            if length == 0:
                await _readable(pgconn.socket)
                pgconn.consume_input()
            elif length < 0:
                return
            elif bytes(data[:1]) == b"w":
                transaction = decoder.feed(bytes(data[25:]))
                if transaction:
                    self._on_transaction(transaction)
            elif bytes(data[:1]) == b"k":
                # Confirming what the server has sent lets it shut down without waiting for us.
                _confirm(pgconn, struct.unpack_from("!q", data, 1)[0])


def _confirm(pgconn: pq.abc.PGconn, position: int) -> None:
    now = int((time.time() - POSTGRES_EPOCH.timestamp()) * 1_000_000)
    pgconn.put_copy_data(struct.pack("!cqqqqB", b"r", position, position, position, now, 0))
    pgconn.flush()


async def _readable(socket: int) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(socket, wake)
    try:
        await future
    finally:
        loop.remove_reader(socket)


def _instant(microseconds: int) -> str:
    when = POSTGRES_EPOCH + timedelta(microseconds=microseconds)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"
