"""Function calls over REST: arguments by name, the answer in the form of the result type."""

from __future__ import annotations

import json
from collections.abc import Sequence

from psycopg import sql
from starlette.requests import Request
from starlette.responses import Response

from devstack.supabase.catalog import Catalog, Function
from devstack.supabase.errors import ApiError
from devstack.supabase.exchange import JSON, Exchange
from devstack.supabase.pool import Connection
from devstack.supabase.rest import read_from
from devstack.supabase.rest_query import NOT_FILTERS, Values

CALL = "pgrst_call"


async def handle(request: Request, connection: Connection, catalog: Catalog) -> Response:
    """Answer a request to /rest/v1/rpc/{function} inside the caller's transaction."""
    exchange = Exchange(request)
    name = request.path_params["function"]
    values = Values()
    if exchange.method == "POST":
        text, body = await exchange.json_body()
        if not isinstance(body, dict):
            raise ApiError(400, "PGRST102", "Empty or invalid json")
        function = await catalog.function(connection, exchange.schema, name, set(body))
        source = _called_with_body(function, list(body), values.add(text))
        params = exchange.params
    else:
        function, given, params = await _from_query(exchange, connection, catalog, name)
        source = _called_with_texts(function, given, values)
    if exchange.method != "POST" or function.read_only:
        await connection.execute("set transaction read only")
    return await _answer(exchange, connection, function, source, params, values)


async def _from_query(
    exchange: Exchange, connection: Connection, catalog: Catalog, name: str
) -> tuple[Function, dict[str, str], list[tuple[str, str]]]:
    # Arguments and filters share the query string: a name that is not an argument is a filter.
    candidates = {key: value for key, value in exchange.params if key not in NOT_FILTERS}
    filters: list[tuple[str, str]] = []
    while True:
        try:
            function = await catalog.function(connection, exchange.schema, name, set(candidates))
        except ApiError as error:
            dotted = [key for key, value in candidates.items() if "." in value]
            if error.body["code"] != "PGRST202" or not dotted:
                raise
            filters.append((dotted[-1], candidates.pop(dotted[-1])))
        else:
            return function, candidates, filters


def _called_with_body(function: Function, given: list[str], body: sql.Composable) -> sql.Composable:
    if not given:
        return _call(function, [])
    arguments = [
        sql.SQL("{0} := pgrst_args.{0}").format(sql.Identifier(argument)) for argument in given
    ]
    types = [
        sql.SQL("{} {}").format(sql.Identifier(argument), sql.SQL(function.inputs[argument]))
        for argument in given
    ]
    return sql.SQL("json_to_record({}::json) as pgrst_args({}), lateral {}").format(
        body, sql.SQL(", ").join(types), _call(function, arguments)
    )


def _called_with_texts(function: Function, given: dict[str, str], values: Values) -> sql.Composable:
    arguments = [
        sql.SQL("{} := cast({} as {})").format(
            sql.Identifier(argument), values.add(text), sql.SQL(function.inputs[argument])
        )
        for argument, text in given.items()
    ]
    return _call(function, arguments)


def _call(function: Function, arguments: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL("{}({}) as {}").format(
        sql.Identifier(function.schema, function.name),
        sql.SQL(", ").join(arguments),
        sql.Identifier(CALL),
    )


async def _answer(
    exchange: Exchange,
    connection: Connection,
    function: Function,
    source: sql.Composable,
    params: list[tuple[str, str]],
    values: Values,
) -> Response:
    if function.returns_void:
        await connection.execute(sql.SQL("select from {}").format(source), values.params)
        return Response(status_code=204)
    if function.returns_set and function.returns_row:
        result = await read_from(exchange, connection, source, CALL, params, values)
        exchange.check_affected(result.rows)
        return exchange.read_response(result)
    call = sql.Identifier(CALL)
    if function.returns_row:
        # A null row becomes an object of nulls, as in PostgREST.
        shape = sql.SQL("row_to_json(q)::text from (select {}.* from {}) as q").format(call, source)
    elif function.returns_set:
        shape = sql.SQL("coalesce(json_agg({}), '[]')::text from {}").format(call, source)
    else:
        shape = sql.SQL("to_json({})::text from {}").format(call, source)
    cursor = await connection.execute(sql.SQL("select ") + shape, values.params)
    row = await cursor.fetchone()
    body = row[0] if row is not None and row[0] is not None else json.dumps(None)
    return Response(body, headers={"Content-Type": JSON})
