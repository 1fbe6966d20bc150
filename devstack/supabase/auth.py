"""Auth (subset of GoTrue): anonymous and password users, sessions, refresh, sign-out."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.supabase.auth_users import (
    AuthError,
    User,
    create_user,
    find,
    public,
    text_of,
    user_by_password,
    user_by_refresh,
)
from devstack.supabase.pool import Caller, Connection, Pool
from devstack.supabase.tokens import Keys, TokenInvalid

Endpoint = Callable[[Request], Awaitable[Response]]


class Auth:
    """Users and sessions in the `auth` schema; the project's secret signs access tokens."""

    def __init__(self, pool: Pool, keys: Keys, *, token_seconds: int = 3600) -> None:
        self._pool = pool
        self._keys = keys
        self.token_seconds = token_seconds

    def routes(self) -> list[Route]:
        endpoints = [
            ("/signup", self._signup, "POST"),
            ("/token", self._token, "POST"),
            ("/user", self._user, "GET"),
            ("/logout", self._logout, "POST"),
            ("/admin/users", self._admin_create, "POST"),
            ("/admin/users/{id}", self._admin_delete, "DELETE"),
            ("/settings", self._settings, "GET"),
            ("/health", self._settings, "GET"),
            ("/.well-known/jwks.json", self._jwks, "GET"),
        ]
        return [
            Route(f"/auth/v1{path}", _answering(endpoint), methods=[method])
            for path, endpoint, method in endpoints
        ]

    async def _signup(self, request: Request) -> Response:
        body = await _json(request)
        email, password = text_of(body, "email"), text_of(body, "password")
        if email is None and password is not None:
            raise AuthError(400, "validation_failed", "Signup requires a valid email")
        data = body.get("data")
        async with self._pool.as_admin() as connection:
            user = await create_user(connection, email, password, data)
            return JSONResponse(await self._session(connection, user))

    async def _token(self, request: Request) -> Response:
        body = await _json(request)
        grant = request.query_params.get("grant_type")
        async with self._pool.as_admin() as connection:
            if grant == "password":
                user = await user_by_password(connection, body)
            elif grant == "refresh_token":
                user = await user_by_refresh(connection, text_of(body, "refresh_token") or "")
            else:
                raise AuthError(400, "invalid_credentials", "unsupported_grant_type")
            return JSONResponse(await self._session(connection, user))

    async def _user(self, request: Request) -> Response:
        caller = self._bearer(request)
        async with self._pool.as_admin() as connection:
            user = await find(connection, "id = %s::uuid", caller.user_id)
        if user is None:
            raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
        return JSONResponse(public(user))

    async def _logout(self, request: Request) -> Response:
        caller = self._bearer(request)
        everywhere = request.query_params.get("scope", "global") == "global"
        column = "user_id" if everywhere else "id"
        value = caller.user_id if everywhere else caller.claims.get("session_id")
        async with self._pool.as_admin() as connection:
            await connection.execute(
                f"delete from auth.sessions where {column} = %s::uuid".encode(), [value]
            )
        return Response(status_code=204)

    async def _admin_create(self, request: Request) -> Response:
        self._require_service(request)
        body = await _json(request)
        async with self._pool.as_admin() as connection:
            user = await create_user(
                connection,
                text_of(body, "email"),
                text_of(body, "password"),
                body.get("user_metadata"),
            )
        return JSONResponse(public(user))

    async def _admin_delete(self, request: Request) -> Response:
        self._require_service(request)
        async with self._pool.as_admin() as connection:
            await connection.execute(
                "delete from auth.users where id = %s::uuid", [request.path_params["id"]]
            )
        return JSONResponse({})

    async def _settings(self, request: Request) -> Response:
        return JSONResponse(
            {"name": "GoTrue", "disable_signup": False, "external": {"anonymous_users": True}}
        )

    async def _jwks(self, request: Request) -> Response:
        # Tokens are signed with a shared secret, so there is no public key.
        return JSONResponse({"keys": []})

    def _bearer(self, request: Request) -> Caller:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise AuthError(401, "no_authorization", "This endpoint requires a Bearer token")
        try:
            claims = self._keys.verify(token)
        except TokenInvalid as error:
            raise AuthError(403, "bad_jwt", f"invalid JWT: {error.message}") from error
        if "sub" not in claims:
            raise AuthError(403, "bad_jwt", "invalid claim: missing sub claim")
        return Caller(role=str(claims.get("role")), claims=claims)

    def _require_service(self, request: Request) -> None:
        caller = self._keys.caller(
            request.headers.get("apikey"), request.headers.get("authorization")
        )
        if caller.role != "service_role":
            raise AuthError(403, "not_admin", "User not allowed")

    async def _session(self, connection: Connection, user: User) -> dict[str, object]:
        session_id, refresh_token = uuid.uuid4(), secrets.token_urlsafe(16)
        await connection.execute(
            "insert into auth.sessions (id, user_id, refresh_token) values (%s, %s, %s)",
            [session_id, user["id"], refresh_token],
        )
        await connection.execute(
            "update auth.users set last_sign_in_at = now() where id = %s", [user["id"]]
        )
        now = int(time.time())
        shown = public(user)
        method = "anonymous" if user["is_anonymous"] else "password"
        claims = {
            "iss": "supabase-local/auth/v1",
            "aud": "authenticated",
            "role": "authenticated",
            "sub": shown["id"],
            "email": shown["email"],
            "phone": "",
            "app_metadata": shown["app_metadata"],
            "user_metadata": shown["user_metadata"],
            "is_anonymous": shown["is_anonymous"],
            "session_id": str(session_id),
            "aal": "aal1",
            "amr": [{"method": method, "timestamp": now}],
            "iat": now,
            "exp": now + self.token_seconds,
        }
        return {
            "access_token": self._keys.sign(claims),
            "token_type": "bearer",
            "expires_in": self.token_seconds,
            "expires_at": now + self.token_seconds,
            "refresh_token": refresh_token,
            "user": shown,
        }


def _answering(endpoint: Endpoint) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AuthError as error:
            return JSONResponse(error.body, status_code=error.status)

    return answer


async def _json(request: Request) -> dict[str, object]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise AuthError(400, "bad_json", "Could not parse request body as JSON") from error
    if not isinstance(body, dict):
        raise AuthError(400, "bad_json", "Could not parse request body as JSON")
    return body
