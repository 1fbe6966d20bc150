"""The gateway's ASGI app: checks keys and routes each request to its service."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from devstack.faults import FaultMiddleware, Faults
from devstack.supabase import rest, rpc
from devstack.supabase.auth import Auth
from devstack.supabase.catalog import Catalog
from devstack.supabase.errors import ApiError, from_postgres
from devstack.supabase.exchange import set_response_hints
from devstack.supabase.pool import Connection, Pool
from devstack.supabase.realtime import Realtime
from devstack.supabase.storage import Storage
from devstack.supabase.tokens import KeyRefused, Keys, TokenInvalid

Handler = Callable[[Request, Connection, Catalog], Awaitable[Response]]
# No client reads it; proxies log this number for a closed connection.
CLIENT_GONE = 499
ALL_METHODS = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"]
EXPOSED_HEADERS = [
    "Content-Range", "Content-Location", "Location", "Preference-Applied", "Range-Unit",
    "ETag", "Accept-Ranges", "Content-Length", "sb-request-id",
]  # fmt: skip
# No key needed: public files, signed links, and our own controls.
OPEN_PATHS = (
    "/_control/",
    "/storage/v1/object/public/",
    "/auth/v1/health",
    "/auth/v1/.well-known/",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The parts of one Supabase project: database, keys and files."""

    admin_url: str
    authenticator_url: str
    keys: Keys
    files: Path


class Gateway:
    """The HTTP and WebSocket interface of one project; `app` is for the server."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.faults = Faults()
        self._callers = Pool(project.authenticator_url)
        self._admin = Pool(project.admin_url, size=4)
        self._catalog = Catalog()
        self.auth = Auth(self._admin, project.keys)
        self.storage = Storage(self._callers, self._admin, project.keys, project.files)
        self.realtime = Realtime(project.admin_url, project.keys)
        self.app = self._build()

    def _build(self) -> ASGIApp:
        routes = [
            Route("/", _alive),
            *self.faults.routes(),
            *self.realtime.control_routes(),
            Route("/rest/v1/", _alive),
            Route("/rest/v1/rpc/{function}", self._rest(rpc.handle), methods=ALL_METHODS),
            Route("/rest/v1/{table}", self._rest(rest.handle), methods=ALL_METHODS),
            *self.auth.routes(),
            *self.storage.routes(),
            WebSocketRoute("/realtime/v1/websocket", self.realtime.serve),
        ]
        app: ASGIApp = Starlette(routes=routes, lifespan=self._lifespan)
        app = _KeyCheck(app, self.project.keys)
        app = CORSMiddleware(
            app,
            allow_origins=["*"],
            allow_methods=[*ALL_METHODS, "OPTIONS"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
        return FaultMiddleware(app, self.faults)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self.realtime.running():
            yield
        self.faults.clear()
        await self._callers.close()
        await self._admin.close()

    def _rest(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            headers = dict(request.headers.items())
            settings = {
                "request.method": request.method,
                "request.path": request.url.path.removeprefix("/rest/v1"),
                "request.headers": json.dumps(headers),
                "request.cookies": json.dumps(request.cookies),
            }
            anonymous = True
            try:
                caller = self.project.keys.caller(
                    _key_of(request), request.headers.get("authorization")
                )
                anonymous = caller.role == "anon"
                async with self._callers.as_caller(
                    caller, read_only=request.method in ("GET", "HEAD"), settings=settings
                ) as connection:
                    response = await handler(request, connection, self._catalog)
                    return await set_response_hints(connection, response)
            except TokenInvalid as error:
                return _token_refused(error).response()
            except ApiError as error:
                return error.response()
            except psycopg.Error as error:
                return from_postgres(error, anonymous=anonymous).response()
            except ClientDisconnect:
                return Response(status_code=CLIENT_GONE)

        return answer


class _KeyCheck:
    """Refuses requests without a key of this project."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def] # ASGI
        if scope["type"] == "http" and not _is_open(scope["path"]):
            request = Request(scope)
            try:
                self._keys.token_of_key(_key_of(request) or "")
            except KeyRefused:
                await _key_refused(_key_of(request))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    signed = path.startswith(("/storage/v1/object/sign/", "/storage/v1/object/upload/sign/"))
    return path == "/" or signed or path.startswith(OPEN_PATHS)


def _key_of(request: Request) -> str | None:
    return request.headers.get("apikey") or request.query_params.get("apikey")


def _key_refused(key: str | None) -> Response:
    if key is None:
        message = "No API key found in request"
        hint = "No `apikey` request header or url param was found."
    else:
        message = "Invalid API key"
        hint = "Double check your Supabase `anon` or `service_role` API key."
    return JSONResponse({"message": message, "hint": hint}, status_code=401)


def _token_refused(error: TokenInvalid) -> ApiError:
    if error.kind == "expired":
        return ApiError(401, "PGRST303", "JWT expired")
    return ApiError(401, "PGRST301", error.message)


async def _alive(request: Request) -> Response:
    return JSONResponse({"message": "local Supabase stand-in"})
