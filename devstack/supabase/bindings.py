"""The subscriptions of a channel: one binding per postgres_changes entry of its join."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import Error, sql

from devstack.supabase.feed import PUBLICATION
from devstack.supabase.pool import Connection
from devstack.supabase.rest_query import array_literal, split_list

OPERATORS = {
    "eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=",
    "like": "like", "ilike": "ilike", "match": "~", "imatch": "~*",
}  # fmt: skip
MOST_IN_VALUES = 100
REFUSAL = "Unable to subscribe to changes with given parameters. "


class BindingInvalid(Exception):
    """A binding that the server answers with a `system` error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One condition on a column; all conditions of a binding must hold."""

    column: str
    operator: str
    value: str
    negated: bool = False

    def condition(self, left: sql.Composable, value: sql.Composable, kind: str) -> sql.Composable:
        """Return the condition as SQL; both sides have the type of the column."""
        typed = sql.SQL("{}::text::" + kind).format(value)
        if self.operator == "in":
            body = sql.SQL("{} = any({}::text::" + kind + "[])").format(left, value)
        elif self.operator == "isdistinct":
            body = sql.SQL("{} is distinct from {}").format(left, typed)
        elif self.operator == "is":
            word = self.value if self.value in ("null", "true", "false", "unknown") else "null"
            body = sql.SQL("{} is {}").format(left, sql.SQL(word))
        else:
            body = sql.SQL("{} {} {}").format(left, sql.SQL(OPERATORS[self.operator]), typed)
        return sql.SQL("not ({})").format(body) if self.negated else body

    @property
    def parameter(self) -> str:
        if self.operator != "in":
            return self.value
        return array_literal([item.strip('"') for item in split_list(self.value[1:-1])])

    def __str__(self) -> str:
        negated = "true" if self.negated else "false"
        return f'{{"{self.column}", "{self.operator}", "{self.value}", {negated}}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A subscription to one kind of change of one table, as the client sent it."""

    id: int
    event: str
    schema: str
    table: str | None
    filter_text: str | None
    select: tuple[str, ...] | None

    @classmethod
    def from_json(cls, params: Mapping[str, object]) -> Binding:
        table, filter_text, select = params.get("table"), params.get("filter"), params.get("select")
        event = str(params.get("event", "*")).upper()
        return cls(
            id=binding_id(params),
            event=event if event in ("INSERT", "UPDATE", "DELETE") else "*",
            schema=str(params.get("schema", "public")),
            table=str(table) if table not in (None, "", "*") else None,
            filter_text=str(filter_text) if filter_text else None,
            select=tuple(map(str, select)) if isinstance(select, list) and select else None,
        )

    def meets(self, kind: str, schema: str, table: str) -> bool:
        return (
            self.event in ("*", kind)
            and self.schema in ("*", schema)
            and self.table in (None, table)
        )

    def filters(self) -> tuple[Filter, ...]:
        """Parse the conditions; raise BindingInvalid with the server's message."""
        return tuple(_filter(item) for item in split_list(self.filter_text or ""))

    def __str__(self) -> str:
        select = json.dumps(list(self.select)) if self.select else "nil"
        filters = ", ".join(map(str, self.filters()))
        words = [f"event: {self.event}", f"schema: {self.schema}"]
        if self.table is not None:
            words.append(f"table: {self.table}")
        return f"[{', '.join([*words, f'filters: [{filters}]', f'select: {select}'])}]"


def binding_id(params: Mapping[str, object]) -> int:
    """Return a stable number for the parameters, not zero: clients drop events of id 0."""
    canonical = json.dumps(params, sort_keys=True).encode()
    return (zlib.crc32(canonical) & 0x7FFFFFF) or 1


def _filter(text: str) -> Filter:
    column, equals, rest = text.partition("=")
    if not equals:
        raise BindingInvalid(f"Error parsing `filter` params: {json.dumps([text])}")
    negated = rest.startswith("not.")
    operator, dot, value = rest.removeprefix("not.").partition(".")
    known = {*OPERATORS, "in", "is", "isdistinct"}
    if not dot or operator not in known:
        parts = [operator, value] if dot else [operator]
        raise BindingInvalid(f"Error parsing `filter` params: {json.dumps(parts)}")
    if operator == "in":
        if not re.fullmatch(r"\(.*\)", value, re.DOTALL):
            raise BindingInvalid(f"Error parsing `filter` params: {json.dumps([operator, value])}")
        if len(split_list(value[1:-1])) > MOST_IN_VALUES:
            raise BindingInvalid(
                f"Too many values for `in` filter. Maximum allowed is {MOST_IN_VALUES}"
            )
    elif len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return Filter(column=column.strip(), operator=operator, value=value, negated=negated)


_TABLES = """
select c.oid::int8 from pg_publication_tables p
join pg_namespace n on n.nspname = p.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
where p.pubname = %s and (%s = '*' or p.schemaname = %s) and (%s::text is null or p.tablename = %s)
"""
_COLUMN = """
select format_type(atttypid, atttypmod) from pg_attribute
where attrelid = %s::oid and attname = %s and attnum > 0 and not attisdropped
  and has_column_privilege(%s, attrelid, attnum, 'select')
"""


async def check_binding(connection: Connection, binding: Binding, role: str) -> None:
    """Raise BindingInvalid if the database would refuse this subscription."""
    filters = binding.filters()
    cursor = await connection.execute(
        _TABLES, [PUBLICATION, binding.schema, binding.schema, binding.table, binding.table]
    )
    tables = [row[0] for row in await cursor.fetchall()]
    if not tables:
        raise BindingInvalid(
            f"{REFUSAL}Please check Realtime is enabled for the given connect parameters: {binding}"
        )
    for table in tables:
        for item in filters:
            kind = await _column_type(connection, table, item.column, role)
            if kind is None:
                raise _refused(
                    binding, f"P0001 (raise_exception) invalid column for filter {item.column}"
                )
            await _check_value(connection, binding, item, kind)
        for column in binding.select or ():
            if await _column_type(connection, table, column, role) is None:
                raise _refused(
                    binding, f"P0001 (raise_exception) invalid column for select {column}"
                )


async def _column_type(connection: Connection, table: int, column: str, role: str) -> str | None:
    cursor = await connection.execute(_COLUMN, [table, column, role])
    row = await cursor.fetchone()
    return str(row[0]) if row is not None else None


async def _check_value(connection: Connection, binding: Binding, item: Filter, kind: str) -> None:
    if item.operator == "is":
        return
    array = "[]" if item.operator == "in" else ""
    try:
        async with connection.transaction():
            await connection.execute(sql.SQL("select %s::text::" + kind + array), [item.parameter])
    except Error as error:
        name = "invalid_text_representation" if error.sqlstate == "22P02" else "error"
        words = f"{error.sqlstate} ({name}) {error.diag.message_primary}"
        raise _refused(binding, words) from error


def _refused(binding: Binding, exception: str) -> BindingInvalid:
    return BindingInvalid(
        f"{REFUSAL}An exception happened so please check your connect parameters: {binding}."
        f" Exception: ERROR {exception}"
    )
