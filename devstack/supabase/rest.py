"""REST (subset of PostgREST): reads, inserts, updates and deletes of one table."""

from __future__ import annotations

from psycopg import sql
from starlette.requests import Request
from starlette.responses import Response

from devstack.supabase.catalog import Catalog, Table
from devstack.supabase.errors import ApiError
from devstack.supabase.exchange import Exchange, Result
from devstack.supabase.pool import Connection
from devstack.supabase.rest_query import QueryReader, Values, split_list

WRAPPED = sql.SQL("with q as ({}) select count(*), coalesce(json_agg(q), '[]')::text from q")


async def handle(request: Request, connection: Connection, catalog: Catalog) -> Response:
    """Answer a request to /rest/v1/{table} inside the caller's transaction."""
    exchange = Exchange(request)
    name = request.path_params["table"]
    if exchange.method in ("GET", "HEAD"):
        table = await catalog.table(connection, exchange.schema, name)
        return exchange.read_response(await read(exchange, connection, table))
    if exchange.method == "POST":
        return await insert(exchange, connection, catalog, name)
    table = await catalog.table(connection, exchange.schema, name)
    if exchange.method == "PATCH":
        text, body = await exchange.json_body()
        table = await catalog.table(connection, exchange.schema, name, _keys_of_object(body))
        return await change(exchange, connection, table, (text, body))
    return await change(exchange, connection, table, None)


async def read(exchange: Exchange, connection: Connection, table: Table) -> Result:
    """Return the rows of a GET."""
    source = sql.Identifier(table.schema, table.name) + sql.SQL(" as ") + sql.Identifier(table.name)
    return await read_from(exchange, connection, source, table.name, exchange.params, Values())


async def read_from(
    exchange: Exchange,
    connection: Connection,
    source: sql.Composable,
    alias: str,
    params: list[tuple[str, str]],
    values: Values,
) -> Result:
    """Select from a table or a function call, with filters, order, range and count."""
    reader = QueryReader(alias, values)
    offset, limit = exchange.window()
    condition = _where(reader, params)
    query = sql.SQL("select {} from {}{}{} limit {} offset {}").format(
        reader.select(exchange.param("select")),
        source,
        condition,
        reader.order(exchange.param("order")),
        values.add(limit),
        values.add(offset),
    )
    rows, body = await _fetch(connection, WRAPPED.format(query), values)
    total = None
    if exchange.counts:
        counting = sql.SQL("select count(*), '' from {}{}").format(source, condition)
        total, _ = await _fetch(connection, counting, values)
    return Result(body=body, rows=rows, total=total, offset=offset)


async def insert(
    exchange: Exchange, connection: Connection, catalog: Catalog, name: str
) -> Response:
    """Handle POST: one object or a list; an upsert with a resolution preference."""
    text, body = await exchange.json_body()
    rows = body if isinstance(body, list) else [body]
    named = exchange.param("columns")
    if named is not None:
        columns = [item.strip('"') for item in split_list(named)]
    else:
        columns = list(dict.fromkeys(key for row in rows for key in _keys_of_object(row)))
        if any(_keys_of_object(row) != set(columns) for row in rows):
            raise ApiError(400, "PGRST102", "All object keys must match")
    table = await catalog.table(connection, exchange.schema, name, set(columns))
    values = Values()
    target = sql.Identifier(table.schema, table.name) + sql.SQL(" as ") + sql.Identifier(name)
    as_list = text if isinstance(body, list) else f"[{text}]"
    source = _inserted_rows(exchange, table, columns, values.add(as_list))
    if not columns and len(rows) == 1:
        source = sql.SQL("default values")
    statement = sql.SQL("insert into {} {}{}").format(
        target, source, _conflict(exchange, table, columns)
    )
    result = await _write(exchange, connection, statement, QueryReader(name, values), values)
    return exchange.write_response(result, created=True)


async def change(
    exchange: Exchange, connection: Connection, table: Table, body: tuple[str, object] | None
) -> Response:
    """Handle PATCH (with a body) or DELETE of the rows that match the filters."""
    values = Values()
    reader = QueryReader(table.name, values)
    if reader.where(exchange.params) is None:
        verb = "UPDATE" if body else "DELETE"
        raise ApiError(400, "21000", f"{verb} requires a WHERE clause")
    target = sql.SQL("{} as {}").format(
        sql.Identifier(table.schema, table.name), sql.Identifier(table.name)
    )
    if body is None:
        statement = sql.SQL("delete from {}{}").format(target, _where(reader, exchange.params))
    else:
        columns = sorted(_keys_of_object(body[1]))
        if not columns:
            empty = Result(body="[]", rows=0)
            exchange.check_single(0)
            return exchange.write_response(empty, created=False)
        statement = sql.SQL("update {} set {} from {}{}").format(
            target,
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(c), sql.Identifier("pgrst_body", c))
                for c in columns
            ),
            sql.SQL("json_populate_record(null::{}, {}::json) as pgrst_body").format(
                sql.Identifier(table.schema, table.name), values.add(body[0])
            ),
            _where(reader, exchange.params),
        )
    result = await _write(exchange, connection, statement, reader, values)
    exchange.check_affected(result.rows)
    return exchange.write_response(result, created=False)


async def _write(
    exchange: Exchange,
    connection: Connection,
    statement: sql.Composable,
    reader: QueryReader,
    values: Values,
) -> Result:
    # Return only requested columns: `returning *` needs SELECT on every column.
    wanted = sql.SQL("1 as done")
    if exchange.returns_rows:
        wanted_columns = reader.select(exchange.param("select"))
        rows, body = await _fetch(connection, _returning(statement, wanted_columns), values)
        exchange.check_single(rows)
    else:
        rows, body = await _fetch(connection, _returning(statement, wanted), values)
    return Result(body=body, rows=rows, total=rows if exchange.counts else None)


def _returning(statement: sql.Composable, columns: sql.Composable) -> sql.Composable:
    return WRAPPED.format(sql.SQL("{} returning {}").format(statement, columns))


def _where(reader: QueryReader, params: list[tuple[str, str]]) -> sql.Composable:
    condition = reader.where(params)
    return sql.SQL("") if condition is None else sql.SQL(" where ") + condition


def _inserted_rows(
    exchange: Exchange, table: Table, columns: list[str], body: sql.Composable
) -> sql.Composable:
    kind = sql.Identifier(table.schema, table.name)
    chosen: list[sql.Composable] = []
    for column in columns:
        value: sql.Composable = sql.Identifier("pgrst_row", column)
        default = table.defaults[column]
        if exchange.prefer.get("missing") == "default" and default is not None:
            value = sql.SQL(
                "case when json_typeof(pgrst_item -> {key}) is null then {default} else {value} end"
            ).format(key=sql.Literal(column), default=sql.SQL(_escaped(default)), value=value)
        chosen.append(value)
    return sql.SQL(
        "({}) select {} from json_array_elements({}::json) as pgrst_item,"
        " lateral json_populate_record(null::{}, pgrst_item) as pgrst_row"
    ).format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(chosen), body, kind
    )


def _escaped(expression: str) -> str:
    return expression.replace("%", "%%").replace("{", "{{").replace("}", "}}")


def _conflict(exchange: Exchange, table: Table, columns: list[str]) -> sql.Composable:
    resolution = exchange.prefer.get("resolution")
    if resolution not in ("merge-duplicates", "ignore-duplicates"):
        return sql.SQL("")
    named = exchange.param("on_conflict")
    target = [item.strip('"') for item in split_list(named)] if named else table.primary_key
    if not target:
        return sql.SQL("")
    changed = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column)) for column in columns]
    if resolution == "ignore-duplicates" or not changed:
        action: sql.Composable = sql.SQL("do nothing")
    else:
        action = sql.SQL("do update set ") + sql.SQL(", ").join(changed)
    return sql.SQL(" on conflict ({}) {}").format(
        sql.SQL(", ").join(map(sql.Identifier, target)), action
    )


def _keys_of_object(body: object) -> set[str]:
    if not isinstance(body, dict):
        raise ApiError(400, "PGRST102", "Empty or invalid json", details="an object was expected")
    return set(body)


async def _fetch(
    connection: Connection, statement: sql.Composable, values: Values
) -> tuple[int, str]:
    cursor = await connection.execute(sql.Composed([statement]), values.params)
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0]), str(row[1])
