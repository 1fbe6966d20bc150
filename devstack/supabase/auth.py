"""The Auth part (GoTrue's subset): anonymous and password users, sessions, refresh, sign-out."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
import uuid
from datetime import UTC, datetime

from psycopg.rows import dict_row
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devstack.supabase.pool import Caller, Connection, Pool
from devstack.supabase.tokens import Keys, TokenInvalid

SHORTEST_PASSWORD = 6
User = dict[str, object]


class AuthError(Exception):
    """A refusal in GoTrue's words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": status, "error_code": code, "msg": message}


class Auth:
    """Users and sessions in the `auth` schema; access tokens are signed with the project's secret."""

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
        email, password = _text(body, "email"), _text(body, "password")
        if email is None and password is not None:
            raise AuthError(400, "validation_failed", "Signup requires a valid email")
        data = body.get("data")
        async with self._pool.as_admin() as connection:
            user = await _create_user(connection, email, password, data)
            return JSONResponse(await self._session(connection, user))

    async def _token(self, request: Request) -> Response:
        body = await _json(request)
        grant = request.query_params.get("grant_type")
        async with self._pool.as_admin() as connection:
            if grant == "password":
                user = await _user_by_password(connection, body)
            elif grant == "refresh_token":
                user = await _user_by_refresh(connection, _text(body, "refresh_token") or "")
            else:
                raise AuthError(400, "invalid_credentials", "unsupported_grant_type")
            return JSONResponse(await self._session(connection, user))

    async def _user(self, request: Request) -> Response:
        caller = self._bearer(request)
        async with self._pool.as_admin() as connection:
            user = await _find(connection, "id = %s::uuid", caller.user_id)
        if user is None:
            raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
        return JSONResponse(_public(user))

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
            user = await _create_user(
                connection,
                _text(body, "email"),
                _text(body, "password"),
                body.get("user_metadata"),
            )
        return JSONResponse(_public(user))

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
        # Tokens are signed with a shared secret, which has no public half.
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
        public = _public(user)
        claims = {
            "iss": "supabase-local/auth/v1",
            "aud": "authenticated",
            "role": "authenticated",
            "sub": public["id"],
            "email": public["email"],
            "phone": "",
            "app_metadata": public["app_metadata"],
            "user_metadata": public["user_metadata"],
            "is_anonymous": public["is_anonymous"],
            "session_id": str(session_id),
            "aal": "aal1",
            "amr": [{"method": "anonymous" if user["is_anonymous"] else "password", "timestamp": now}],
            "iat": now,
            "exp": now + self.token_seconds,
        }
        return {
            "access_token": self._keys.sign(claims),
            "token_type": "bearer",
            "expires_in": self.token_seconds,
            "expires_at": now + self.token_seconds,
            "refresh_token": refresh_token,
            "user": public,
        }


def _answering(endpoint):  # type: ignore[no-untyped-def] # the wrapper's type is the endpoint's own
    async def answer(request: Request) -> Response:
        try:
            response: Response = await endpoint(request)
        except AuthError as error:
            return JSONResponse(error.body, status_code=error.status)
        return response

    return answer


async def _json(request: Request) -> dict[str, object]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise AuthError(400, "bad_json", "Could not parse request body as JSON") from error
    if not isinstance(body, dict):
        raise AuthError(400, "bad_json", "Could not parse request body as JSON")
    return body


def _text(body: dict[str, object], key: str) -> str | None:
    value = body.get(key)
    return value if isinstance(value, str) and value else None


async def _find(connection: Connection, condition: str, value: object) -> User | None:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(f"select * from auth.users where {condition}".encode(), [value])
        return await cursor.fetchone()


async def _create_user(
    connection: Connection, email: str | None, password: str | None, data: object
) -> User:
    if email is not None and await _find(connection, "lower(email) = lower(%s)", email):
        raise AuthError(422, "user_already_exists", "User already registered")
    if email is not None and (password is None or len(password) < SHORTEST_PASSWORD):
        raise AuthError(
            422, "weak_password", f"Password should be at least {SHORTEST_PASSWORD} characters."
        )
    provider = {"provider": "email", "providers": ["email"]} if email else {}
    row = await connection.execute(
        "insert into auth.users (email, encrypted_password, raw_app_meta_data,"
        " raw_user_meta_data, is_anonymous) values (%s, %s, %s::jsonb, %s::jsonb, %s) returning id",
        [
            email,
            _hashed(password, secrets.token_hex(16)) if password else None,
            json.dumps(provider),
            json.dumps(data if isinstance(data, dict) else {}),
            email is None,
        ],
    )
    created = await row.fetchone()
    assert created is not None
    user = await _find(connection, "id = %s", created[0])
    assert user is not None
    return user


async def _user_by_password(connection: Connection, body: dict[str, object]) -> User:
    email, password = _text(body, "email"), _text(body, "password") or ""
    user = await _find(connection, "lower(email) = lower(%s)", email)
    stored = str(user["encrypted_password"] or "") if user else ""
    salt = stored.partition("$")[0]
    if user is None or not hmac.compare_digest(stored, _hashed(password, salt)):
        raise AuthError(400, "invalid_credentials", "Invalid login credentials")
    return user


async def _user_by_refresh(connection: Connection, token: str) -> User:
    row = await connection.execute(
        "delete from auth.sessions where refresh_token = %s returning user_id", [token]
    )
    session = await row.fetchone()
    user = await _find(connection, "id = %s", session[0]) if session else None
    if user is None:
        raise AuthError(
            400, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found"
        )
    return user


def _hashed(password: str, salt: str) -> str:
    digest = hashlib.scrypt(password.encode(), salt=salt.encode(), n=2**12, r=8, p=1)
    return f"{salt}${digest.hex()}"


def _public(user: User) -> dict[str, object]:
    """A user as the clients read it."""

    def instant(key: str) -> str | None:
        value = user[key]
        return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else None

    return {
        "id": str(user["id"]),
        "aud": user["aud"],
        "role": user["role"],
        "email": user["email"] or "",
        "phone": "",
        "confirmed_at": instant("created_at"),
        "email_confirmed_at": instant("created_at") if user["email"] else None,
        "last_sign_in_at": instant("last_sign_in_at"),
        "app_metadata": user["raw_app_meta_data"],
        "user_metadata": user["raw_user_meta_data"],
        "identities": [],
        "is_anonymous": user["is_anonymous"],
        "created_at": instant("created_at"),
        "updated_at": instant("updated_at"),
    }
