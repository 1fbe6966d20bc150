"""What each subscriber may see of a change: granted columns, RLS, filters, size limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from psycopg import Error, sql

from devstack.supabase.bindings import Binding, Filter
from devstack.supabase.feed import Change, Relation, Unchanged, Value
from devstack.supabase.pool import Caller, Pool

LARGEST_CHANGE = 1_048_576
SHORT_VALUE = 64
NO_PRIMARY_KEY = "Error 400: Bad Request, no primary key"
UNAUTHORIZED = "Error 401: Unauthorized"
TOO_LARGE = "Error 413: Payload Too Large"

_COLUMNS = """
select a.attname, t.typname, format_type(a.atttypid, a.atttypmod),
       coalesce(a.attnum = any(i.indkey), false), c.relrowsecurity
from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_type t on t.oid = a.atttypid
left join pg_index i on i.indrelid = c.oid and i.indisprimary
where c.oid = %s::oid and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_GRANTED = """
select attname from pg_attribute where attrelid = %s::oid and attnum > 0 and not attisdropped
  and has_column_privilege(%s, attrelid, attnum, 'select')
"""


class Subscriber(Protocol):
    """The part of a joined channel that concerns changes."""

    @property
    def caller(self) -> Caller: ...

    @property
    def bindings(self) -> Sequence[Binding]: ...


@dataclass(slots=True, kw_only=True)
class Table:
    """The columns of a relation and who may read them, from the catalog."""

    types: dict[str, str]
    type_names: dict[str, str]
    primary_key: tuple[str, ...]
    row_security: bool
    granted: dict[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message for one subscriber; `payload` is JSON text."""

    subscriber: Subscriber
    payload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The values of a change as JSON text, and the filters it matches."""

    new: dict[str, str]
    old: dict[str, str]
    filters: dict[Filter, bool]

    @property
    def size(self) -> int:
        return sum(len(text) for row in (self.new, self.old) for text in row.values())


class ChangeReader:
    """Turns changes into events; Postgres itself decides about all rights."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._tables: dict[Relation, Table] = {}
        self._visible_xid: int | None = None

    async def events(self, change: Change, subscribers: Sequence[Subscriber]) -> list[Event]:
        """Return the messages of this change, at most one per subscriber and set of columns."""
        relation = change.relation
        interested = [
            (subscriber, bound)
            for subscriber in subscribers
            if (bound := _bound(subscriber, change.kind, relation))
        ]
        if not interested:
            return []
        table = await self._table(relation)
        await self._committed(change.xid)
        wanted = {item for _, bound in interested for b in bound for item in b.filters()}
        encoded = await self._encode(change, table, wanted)
        seen: dict[str, bool] = {}
        found = []
        for subscriber, bound in interested:
            bound = [b for b in bound if all(encoded.filters[item] for item in b.filters())]
            if not bound:
                continue
            caller = subscriber.caller
            granted = await self._granted(relation, table, caller.role)
            error = _refusal(table, granted)
            if error is None and not await self._visible(change, table, caller, seen):
                continue
            for select in dict.fromkeys(b.select for b in bound):
                ids = [b.id for b in bound if b.select == select]
                data = _data(change, table, encoded, granted, select, error)
                payload = f'{{"ids": {json.dumps(sorted(set(ids)))}, "data": {data}}}'
                found.append(Event(subscriber=subscriber, payload=payload))
        return found

    async def _committed(self, xid: int) -> None:
        """Wait until other sessions see the transaction; its WAL is decoded slightly earlier."""
        if xid == self._visible_xid:
            return
        query = "select pg_visible_in_snapshot(%s::text::xid8, pg_current_snapshot())"
        for _ in range(200):
            async with self._pool.as_admin() as connection:
                row = await (await connection.execute(query, [xid])).fetchone()
            if row and row[0]:
                break
            await asyncio.sleep(0.002)
        self._visible_xid = xid

    async def _table(self, relation: Relation) -> Table:
        if relation not in self._tables:
            async with self._pool.as_admin() as connection:
                await connection.execute("set local search_path = ''")
                cursor = await connection.execute(_COLUMNS, [relation.oid])
                rows = await cursor.fetchall()
            # An older description of the same table will not be used again.
            self._tables = {r: t for r, t in self._tables.items() if r.oid != relation.oid}
            self._tables[relation] = Table(
                types={row[0]: row[2] for row in rows},
                type_names={row[0]: row[1] for row in rows},
                primary_key=tuple(row[0] for row in rows if row[3]),
                row_security=bool(rows) and rows[0][4],
            )
        return self._tables[relation]

    async def _granted(self, relation: Relation, table: Table, role: str) -> frozenset[str]:
        if role not in table.granted:
            async with self._pool.as_admin() as connection:
                cursor = await connection.execute(_GRANTED, [relation.oid, role])
                table.granted[role] = frozenset(row[0] for row in await cursor.fetchall())
        return table.granted[role]

    async def _encode(self, change: Change, table: Table, filters: set[Filter]) -> Encoded:
        new, old = _present(change.new, table), _present(change.old, table)
        if change.kind == "UPDATE" and not change.old_is_whole:
            old = {key: (old or new).get(key) for key in table.primary_key}
        elif change.kind == "DELETE" and (table.row_security or not change.old_is_whole):
            old = {key: old[key] for key in table.primary_key if key in old}
        params: dict[str, object] = {}

        def typed(prefix: str, row: dict[str, str | None], name: str) -> sql.Composable:
            # Column names may contain characters that placeholder names may not.
            key = f"{prefix}{list(table.types).index(name)}"
            params[key] = row[name]
            placeholder = sql.Placeholder(key)
            return sql.SQL("{}::text::" + table.types[name]).format(placeholder)

        columns: list[sql.Composable] = []
        for prefix, row in (("n", new), ("o", old)):
            columns += [_as_json(typed(prefix, row, name), table.type_names[name]) for name in row]
        chosen = new if change.new is not None else old
        prefix = "n" if change.new is not None else "o"
        # A filter on a value that is not in the log does not match.
        usable = [item for item in filters if item.column in chosen]
        for number, item in enumerate(usable):
            params[f"f{number}"] = item.parameter
            columns.append(
                item.condition(
                    typed(prefix, chosen, item.column),
                    sql.Placeholder(f"f{number}"),
                    table.types[item.column],
                )
            )
        async with self._pool.as_admin() as connection:
            query = sql.SQL("select ") + sql.SQL(", ").join(columns)
            values = list((await (await connection.execute(query, params)).fetchone()) or ())
        texts = [text if text is not None else "null" for text in values[: len(new) + len(old)]]
        met = dict.fromkeys(filters, False)
        met |= dict(zip(usable, map(bool, values[len(new) + len(old) :]), strict=True))
        return Encoded(
            new=dict(zip(new, texts[: len(new)], strict=True)),
            old=dict(zip(old, texts[len(new) :], strict=True)),
            filters=met,
        )

    async def _visible(
        self, change: Change, table: Table, caller: Caller, seen: dict[str, bool]
    ) -> bool:
        """Return whether the caller's policies show the row; a DELETE goes to everyone."""
        if change.kind == "DELETE" or not table.row_security or change.new is None:
            return True
        identity = caller.claims_json
        if identity not in seen:
            relation, row = change.relation, change.new
            keys = [
                sql.SQL("{} = %s::text::" + table.types[key]).format(sql.Identifier(key))
                for key in table.primary_key
            ]
            query = sql.SQL("select exists(select from {} where {})").format(
                sql.Identifier(relation.schema, relation.name), sql.SQL(" and ").join(keys)
            )
            try:
                async with self._pool.as_caller(caller, read_only=True) as connection:
                    cursor = await connection.execute(query, [row[k] for k in table.primary_key])
                    found = await cursor.fetchone()
                seen[identity] = bool(found and found[0])
            except Error:
                # A policy that fails shows nothing.
                seen[identity] = False
        return seen[identity]


def _bound(subscriber: Subscriber, kind: str, relation: Relation) -> list[Binding]:
    return [b for b in subscriber.bindings if b.meets(kind, relation.schema, relation.name)]


def _present(row: dict[str, Value] | None, table: Table) -> dict[str, str | None]:
    return {
        name: value
        for name, value in (row or {}).items()
        if not isinstance(value, Unchanged) and name in table.types
    }


def _as_json(value: sql.Composable, type_name: str) -> sql.Composable:
    if type_name == "bytea":
        return sql.SQL("to_jsonb(encode({}, 'hex'))::text").format(value)
    return sql.SQL("to_jsonb({})::text").format(value)


def _refusal(table: Table, granted: frozenset[str]) -> str | None:
    if not table.primary_key:
        return NO_PRIMARY_KEY
    return None if granted.issuperset(table.primary_key) else UNAUTHORIZED


def _data(
    change: Change,
    table: Table,
    encoded: Encoded,
    granted: frozenset[str],
    select: tuple[str, ...] | None,
    error: str | None,
) -> str:
    """Return the `data` of one event as JSON text."""
    shown = frozenset() if error else granted if select is None else granted.intersection(select)
    errors = [error] if error else [TOO_LARGE] if encoded.size > LARGEST_CHANGE else []
    columns = [
        {"name": name, "type": kind} for name, kind in table.type_names.items() if name in shown
    ]
    parts = {
        "columns": json.dumps(columns),
        "commit_timestamp": json.dumps(None if error else change.committed_at),
        "errors": json.dumps(errors or None),
        "schema": json.dumps(change.relation.schema),
        "table": json.dumps(change.relation.name),
        "type": json.dumps(change.kind),
    }
    short = errors == [TOO_LARGE]
    if change.kind != "DELETE":
        parts["record"] = _object(encoded.new, shown, short=short)
    if change.kind != "INSERT":
        parts["old_record"] = _object(encoded.old, shown, short=short)
    return "{" + ", ".join(f'"{key}": {value}' for key, value in sorted(parts.items())) + "}"


def _object(row: dict[str, str], shown: frozenset[str], *, short: bool) -> str:
    # The order of jsonb: shorter names first, then by bytes.
    names = sorted((n for n in row if n in shown), key=lambda n: (len(n.encode()), n.encode()))
    if short:
        names = [n for n in names if row[n] != "null" and len(row[n].encode()) <= SHORT_VALUE]
    return "{" + ", ".join(f"{json.dumps(n, ensure_ascii=False)}: {row[n]}" for n in names) + "}"
