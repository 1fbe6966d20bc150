"""Tables and functions for REST, read from the catalog; read again on every miss."""

from __future__ import annotations

from dataclasses import dataclass

from devstack.supabase.errors import ApiError
from devstack.supabase.pool import Connection

EXPOSED_SCHEMAS = ("public", "graphql_public")

_COLUMNS = """
select a.attname, pg_get_expr(d.adbin, d.adrelid),
       coalesce(a.attnum = any(i.indkey), false)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum and a.attgenerated = ''
left join pg_index i on i.indrelid = c.oid and i.indisprimary
where n.nspname = %s and c.relname = %s and c.relkind in ('r', 'p', 'v', 'm', 'f')
order by a.attnum
"""

_FUNCTIONS = """
select p.oid::int8, coalesce(p.proargnames, '{}'), coalesce(p.proargmodes::text[], '{}'),
       array(select format_type(t.oid, null)
             from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) with ordinality x(oid, i)
             join pg_type t on t.oid = x.oid order by x.i),
       p.pronargs - p.pronargdefaults, p.pronargs, p.provolatile, p.proretset,
       p.prorettype = 'void'::regtype,
       r.typtype = 'c' or p.prorettype = 'record'::regtype
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
join pg_type r on r.oid = p.prorettype
where n.nspname = %s and p.proname = %s and p.prokind = 'f'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A relation that requests may name."""

    schema: str
    name: str
    defaults: dict[str, str | None]
    primary_key: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function that requests may call, with its inputs by name."""

    schema: str
    name: str
    inputs: dict[str, str]
    required: frozenset[str]
    read_only: bool
    returns_set: bool
    returns_void: bool
    returns_row: bool


class Catalog:
    """Caches tables until a name or column is missing; reads functions every time."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], Table] = {}

    async def table(
        self, connection: Connection, schema: str, name: str, columns: set[str] | None = None
    ) -> Table:
        """Return the table, or raise PGRST205; PGRST204 if one of `columns` is missing."""
        _check_schema(schema)
        table = self._tables.get((schema, name))
        if table is None or (columns and not columns <= table.defaults.keys()):
            table = await _read_table(connection, schema, name)
            self._tables[(schema, name)] = table
        for column in sorted(columns or ()):
            if column not in table.defaults:
                raise ApiError(
                    400,
                    "PGRST204",
                    f"Could not find the '{column}' column of '{name}' in the schema cache",
                )
        return table

    async def function(
        self, connection: Connection, schema: str, name: str, given: set[str]
    ) -> Function:
        """Return the function that accepts these argument names, or raise PGRST202."""
        _check_schema(schema)
        rows = await (await connection.execute(_FUNCTIONS, [schema, name])).fetchall()
        candidates = [_function(schema, name, row) for row in rows]
        fitting = [f for f in candidates if f.required <= given <= f.inputs.keys()]
        if len(fitting) > 1:
            names = ", ".join(f"{schema}.{name}({', '.join(f.inputs)})" for f in fitting)
            raise ApiError(
                300,
                "PGRST203",
                f"Could not choose the best candidate function between: {names}",
                hint="Try renaming the parameters or the function itself in the database so"
                " function overloading can be resolved",
            )
        if not fitting:
            raise _no_such_function(schema, name, given, candidates)
        return fitting[0]


def _check_schema(schema: str) -> None:
    if schema not in EXPOSED_SCHEMAS:
        raise ApiError(
            406,
            "PGRST106",
            f"Invalid schema: {schema}",
            hint=f"Only the following schemas are exposed: {', '.join(EXPOSED_SCHEMAS)}",
        )


async def _read_table(connection: Connection, schema: str, name: str) -> Table:
    rows = await (await connection.execute(_COLUMNS, [schema, name])).fetchall()
    if not rows:
        raise ApiError(
            404, "PGRST205", f"Could not find the table '{schema}.{name}' in the schema cache"
        )
    return Table(
        schema=schema,
        name=name,
        defaults={column: default for column, default, _ in rows},
        primary_key=tuple(column for column, _, in_key in rows if in_key),
    )


def _function(schema: str, name: str, row: tuple[object, ...]) -> Function:
    _, names, modes, types, required, _, volatile, is_set, is_void, is_row = row
    assert isinstance(names, list)
    assert isinstance(modes, list)
    assert isinstance(types, list)
    assert isinstance(required, int)
    if not modes:
        modes = ["i"] * len(types)
    names = names or [""] * len(types)
    inputs = [
        (argument, kind)
        for argument, mode, kind in zip(names, modes, types, strict=True)
        if mode in ("i", "b", "v")
    ]
    return Function(
        schema=schema,
        name=name,
        inputs=dict(inputs),
        required=frozenset(argument for argument, _ in inputs[:required]),
        read_only=volatile != "v",
        returns_set=bool(is_set),
        returns_void=bool(is_void),
        # A single OUT argument gives a plain value; `returns table(...)` always gives rows.
        returns_row=bool(is_row) or "t" in modes,
    )


def _no_such_function(
    schema: str, name: str, given: set[str], candidates: list[Function]
) -> ApiError:
    arguments = ", ".join(sorted(given))
    called = f"{schema}.{name}({arguments})" if given else f"{schema}.{name}"
    words = f"with parameters {arguments}" if given else "without parameters"
    details = (
        f"Searched for the function {schema}.{name} {words}, but no matches were found"
        " in the schema cache."
    )
    hint = None
    if candidates:
        nearest = candidates[0]
        hint = (
            f"Perhaps you meant to call the function {schema}.{name}({', '.join(nearest.inputs)})"
        )
    message = f"Could not find the function {called} {'' if given else 'without parameters '}"
    return ApiError(
        404, "PGRST202", f"{message.rstrip()} in the schema cache", details=details, hint=hint
    )
