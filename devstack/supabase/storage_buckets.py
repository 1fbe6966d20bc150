"""Buckets of Storage, and helpers to read rows and bodies."""

from __future__ import annotations

import json

from psycopg.rows import dict_row
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.supabase.pool import Caller, Connection, Pool
from devstack.supabase.storage_files import StorageError, answering, invalid, no_bucket
from devstack.supabase.tokens import Keys

Row = dict[str, object]
DELETING = {"storage.allow_delete_query": "true"}
SELECT_BUCKETS = """
select id, name, coalesce(owner_id, '') as owner, public, file_size_limit, allowed_mime_types,
       to_json(created_at) #>> '{}' as created_at, to_json(updated_at) #>> '{}' as updated_at,
       'STANDARD' as type
from storage.buckets
"""


class Buckets:
    """Endpoints below /storage/v1/bucket."""

    def __init__(self, callers: Pool, admin: Pool, keys: Keys) -> None:
        self._callers = callers
        self._admin = admin
        self._keys = keys

    def routes(self) -> list[Route]:
        table = [
            ("/bucket", self._list, ["GET"]),
            ("/bucket", self._create, ["POST"]),
            ("/bucket/{id}", self._get, ["GET"]),
            ("/bucket/{id}", self._delete, ["DELETE"]),
        ]
        return [
            Route(f"/storage/v1{path}", answering(endpoint), methods=methods)
            for path, endpoint, methods in table
        ]

    async def get(self, name: str) -> Row:
        """Return the bucket's row for any caller; raise StorageError if there is none."""
        async with self._admin.as_admin() as connection:
            rows = await rows_of(connection, "select * from storage.buckets where id = %s", [name])
        if not rows:
            raise no_bucket()
        return rows[0]

    async def create(self, name: str, *, public: bool) -> None:
        """Create a bucket as the project's owner, if it does not exist."""
        async with self._admin.as_admin() as connection:
            await connection.execute(
                "insert into storage.buckets (id, name, public) values (%s, %s, %s)"
                " on conflict do nothing",
                [name, name, public],
            )

    def _caller(self, request: Request) -> Caller:
        return self._keys.caller(
            request.headers.get("apikey"), request.headers.get("authorization")
        )

    async def _list(self, request: Request) -> Response:
        async with self._callers.as_caller(self._caller(request)) as connection:
            rows = await rows_of(connection, f"{SELECT_BUCKETS} order by name", [])
        return JSONResponse(rows)

    async def _get(self, request: Request) -> Response:
        async with self._callers.as_caller(self._caller(request)) as connection:
            query = f"{SELECT_BUCKETS} where id = %s"
            rows = await rows_of(connection, query, [request.path_params["id"]])
        if not rows:
            raise no_bucket()
        return JSONResponse(rows[0])

    async def _create(self, request: Request) -> Response:
        body = await json_object(request)
        name = str(body.get("name") or body.get("id") or "")
        if not name:
            raise invalid("body must have required property 'name'")
        limit, types = body.get("file_size_limit"), body.get("allowed_mime_types")
        values = [body.get("id") or name, name, bool(body.get("public")), limit, types]
        async with self._callers.as_caller(self._caller(request)) as connection:
            await connection.execute(
                "insert into storage.buckets (id, name, public, file_size_limit,"
                " allowed_mime_types) values (%s, %s, %s, %s, %s)",
                values,
            )
        return JSONResponse({"name": name})

    async def _delete(self, request: Request) -> Response:
        name = request.path_params["id"]
        await self.get(name)
        async with self._callers.as_caller(self._caller(request), settings=DELETING) as connection:
            objects = await rows_of(
                connection, "select id from storage.objects where bucket_id = %s limit 1", [name]
            )
            if objects:
                words = "The bucket you tried to delete is not empty"
                raise StorageError(409, "InvalidRequest", words, "InvalidRequest")
            await connection.execute("delete from storage.buckets where id = %s", [name])
        return JSONResponse({"message": "Successfully deleted"})


async def rows_of(connection: Connection, query: str, values: list[object]) -> list[Row]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query.encode(), values)
        return await cursor.fetchall()


async def json_object(request: Request) -> dict[str, object]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise invalid("Body is not valid JSON") from error
    if not isinstance(body, dict):
        raise invalid("body must be object")
    return body
