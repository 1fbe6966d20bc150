"""Storage: buckets and objects; Postgres checks their rows with the caller's rights."""

from __future__ import annotations

import json
import time
from pathlib import Path

from psycopg.types.json import Jsonb
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.supabase.pool import Caller, Pool
from devstack.supabase.storage_buckets import DELETING, Buckets, Row, json_object, rows_of
from devstack.supabase.storage_files import (
    GLOBAL_SIZE_LIMIT,
    FileStore,
    StorageError,
    answering,
    invalid,
    no_bucket,
    not_found,
)
from devstack.supabase.storage_listing import list_folder, object_info
from devstack.supabase.tokens import Keys, TokenInvalid


class Storage:
    """Endpoints below /storage/v1."""

    def __init__(self, callers: Pool, admin: Pool, keys: Keys, directory: Path) -> None:
        self._callers = callers
        self._admin = admin
        self._keys = keys
        self._files = FileStore(directory)
        self._buckets = Buckets(callers, admin, keys)

    async def create_bucket(self, name: str, *, public: bool) -> None:
        """Create a bucket as the project's owner, if it does not exist."""
        await self._buckets.create(name, public=public)

    def routes(self) -> list[Route]:
        table = [
            ("/object/public/{bucket}/{path:path}", self._public, ["GET", "HEAD"]),
            ("/object/sign/{bucket}/{path:path}", self._signed, ["GET", "HEAD"]),
            ("/object/sign/{bucket}", self._sign_many, ["POST"]),
            ("/object/sign/{bucket}/{path:path}", self._sign, ["POST"]),
            ("/object/list/{bucket}", self._list, ["POST"]),
            ("/object/info/{bucket}/{path:path}", self._info, ["GET"]),
            ("/object/authenticated/{bucket}/{path:path}", self._download, ["GET", "HEAD"]),
            ("/object/{bucket}", self._remove, ["DELETE"]),
            ("/object/{bucket}/{path:path}", self._download, ["GET", "HEAD"]),
            ("/object/{bucket}/{path:path}", self._upload, ["POST", "PUT"]),
        ]
        return self._buckets.routes() + [
            Route(f"/storage/v1{path}", answering(endpoint), methods=methods)
            for path, endpoint, methods in table
        ]

    def _caller(self, request: Request) -> Caller:
        return self._keys.caller(
            request.headers.get("apikey"), request.headers.get("authorization")
        )

    async def _object(self, pool_of: Caller | None, request: Request) -> Row:
        """Return the object's row as the caller sees it, or as the owner without a caller."""
        query = "select * from storage.objects where bucket_id = %s and name = %s"
        names = [request.path_params["bucket"], request.path_params["path"]]
        session = self._admin.as_admin() if pool_of is None else self._callers.as_caller(pool_of)
        async with session as connection:
            rows = await rows_of(connection, query, names)
        if not rows:
            raise not_found()
        return rows[0]

    async def _upload(self, request: Request) -> Response:
        caller = self._caller(request)
        name, path = request.path_params["bucket"], request.path_params["path"]
        bucket = await self._buckets.get(name)
        limit = bucket["file_size_limit"] or GLOBAL_SIZE_LIMIT
        assert isinstance(limit, int)
        upload = await self._files.receive(request, name, limit)
        object_id: object = None
        old_version: str | None = None
        try:
            _check_type(bucket, upload.content_type)
            replaces = request.method == "PUT" or request.headers.get("x-upsert") == "true"
            async with self._admin.as_admin() as connection:
                found = await rows_of(
                    connection,
                    "select id, version from storage.objects where bucket_id = %s and name = %s",
                    [name, path],
                )
            if found:
                object_id, old_version = found[0]["id"], str(found[0]["version"])
            elif request.method == "PUT":
                raise not_found()
            described = Jsonb(json.loads(upload.user_metadata)) if upload.user_metadata else None
            values = [
                name, path, caller.user_id, caller.user_id, upload.version, upload.metadata(),
                described,
            ]  # fmt: skip
            async with self._callers.as_caller(caller) as connection:
                # No `returning`: it would need a SELECT policy, which an upload does not.
                await connection.execute((UPSERT if replaces else INSERT).encode(), values)
        except BaseException:
            upload.path.unlink(missing_ok=True)
            raise
        if object_id is None:
            object_id = (await self._object(None, request))["id"]
        else:
            self._files.remove(name, old_version)
        return JSONResponse({"Id": str(object_id), "Key": f"{name}/{path}"})

    async def _download(self, request: Request) -> Response:
        row = await self._object(self._caller(request), request)
        return self._served(request, row)

    async def _public(self, request: Request) -> Response:
        bucket = await self._buckets.get(request.path_params["bucket"])
        if not bucket["public"]:
            raise no_bucket()
        return self._served(request, await self._object(None, request))

    async def _signed(self, request: Request) -> Response:
        address = f"{request.path_params['bucket']}/{request.path_params['path']}"
        try:
            claims = self._keys.verify(request.query_params.get("token", ""))
        except TokenInvalid as error:
            words = (
                '"exp" claim timestamp check failed' if error.kind == "expired" else error.message
            )
            code = "ExpiredToken" if error.kind == "expired" else "InvalidJWT"
            raise StorageError(400, "InvalidJWT", words, code) from error
        if claims.get("url") != address or claims.get("scope", "download") != "download":
            raise StorageError(400, "InvalidSignature", "Invalid signature", "InvalidSignature")
        row = await self._object(None, request)
        expires = claims["exp"]
        assert isinstance(expires, int | float)
        return self._served(request, row, expires=float(expires))

    def _served(self, request: Request, row: Row, *, expires: float | None = None) -> Response:
        download = request.query_params.get("download")
        return self._files.response(
            request.path_params["bucket"], row, download=download, expires=expires
        )

    async def _sign(self, request: Request) -> Response:
        body = await json_object(request)
        row = await self._object(self._caller(request), request)
        return JSONResponse(
            {"signedURL": self._link(str(row["bucket_id"]), str(row["name"]), body)}
        )

    async def _sign_many(self, request: Request) -> Response:
        body, bucket = await json_object(request), request.path_params["bucket"]
        paths = body.get("paths")
        if not isinstance(paths, list):
            raise invalid("body must have required property 'paths'")
        async with self._callers.as_caller(self._caller(request)) as connection:
            rows = await rows_of(
                connection,
                "select name from storage.objects where bucket_id = %s and name = any(%s)",
                [bucket, paths],
            )
        seen = {row["name"] for row in rows}
        hidden = "Either the object does not exist or you do not have access to it"
        return JSONResponse(
            [
                {"error": None, "path": path, "signedURL": self._link(bucket, path, body)}
                if path in seen
                else {"error": hidden, "path": path, "signedURL": None}
                for path in paths
            ]
        )

    def _link(self, bucket: str, path: str, body: dict[str, object]) -> str:
        try:
            seconds = int(str(body.get("expiresIn", "")))
        except ValueError as error:
            raise invalid("body/expiresIn must be integer") from error
        if seconds < 1:
            raise invalid("body/expiresIn must be >= 1")
        now = int(time.time())
        claims = {"url": f"{bucket}/{path}", "scope": "download", "iat": now, "exp": now + seconds}
        return f"/object/sign/{bucket}/{path}?token={self._keys.sign(claims)}"

    async def _info(self, request: Request) -> Response:
        return JSONResponse(object_info(await self._object(self._caller(request), request)))

    async def _list(self, request: Request) -> Response:
        body = await json_object(request)
        async with self._callers.as_caller(self._caller(request)) as connection:
            rows = await rows_of(
                connection,
                "select * from storage.objects where bucket_id = %s",
                [request.path_params["bucket"]],
            )
        return JSONResponse(list_folder(rows, body))

    async def _remove(self, request: Request) -> Response:
        body, bucket = await json_object(request), request.path_params["bucket"]
        async with self._callers.as_caller(self._caller(request), settings=DELETING) as connection:
            rows = await rows_of(
                connection,
                "delete from storage.objects where bucket_id = %s and name = any(%s) returning *",
                [bucket, body.get("prefixes", [])],
            )
        for row in rows:
            self._files.remove(bucket, str(row["version"]))
        return JSONResponse([object_info(row) for row in rows])


INSERT = """
insert into storage.objects
  (bucket_id, name, owner, owner_id, version, metadata, user_metadata)
values (%s, %s, %s::uuid, %s, %s, %s::jsonb, %s)
"""
UPSERT = (
    INSERT
    + """
on conflict (bucket_id, name) do update set
  owner = excluded.owner, owner_id = excluded.owner_id, version = excluded.version,
  metadata = excluded.metadata, user_metadata = excluded.user_metadata, updated_at = now()
"""
)


def _check_type(bucket: Row, content_type: str) -> None:
    allowed = bucket["allowed_mime_types"]
    kind = content_type.partition(";")[0].strip()
    if isinstance(allowed, list) and allowed:
        family = kind.partition("/")[0]
        if kind not in allowed and f"{family}/*" not in allowed:
            words = f"mime type {kind} is not supported"
            raise StorageError(415, "invalid_mime_type", words, "InvalidMimeType")
