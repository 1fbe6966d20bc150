"""The users and sessions of Auth: find, create, check, show."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from datetime import UTC, datetime

from psycopg.rows import dict_row

from devstack.supabase.pool import Connection

SHORTEST_PASSWORD = 6
User = dict[str, object]


class AuthError(Exception):
    """An error in the form of GoTrue."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, object] = {"code": status, "error_code": code, "msg": message}


def text_of(body: dict[str, object], key: str) -> str | None:
    value = body.get(key)
    return value if isinstance(value, str) and value else None


async def find(connection: Connection, condition: str, value: object) -> User | None:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(f"select * from auth.users where {condition}".encode(), [value])
        return await cursor.fetchone()


async def create_user(
    connection: Connection, email: str | None, password: str | None, data: object
) -> User:
    if email is not None and await find(connection, "lower(email) = lower(%s)", email):
        raise AuthError(422, "user_already_exists", "User already registered")
    if email is not None and (password is None or len(password) < SHORTEST_PASSWORD):
        words = f"Password should be at least {SHORTEST_PASSWORD} characters."
        weak = AuthError(422, "weak_password", words)
        weak.body["weak_password"] = {"reasons": ["length"]}
        raise weak
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
    user = await find(connection, "id = %s", created[0])
    assert user is not None
    return user


async def user_by_password(connection: Connection, body: dict[str, object]) -> User:
    email, password = text_of(body, "email"), text_of(body, "password") or ""
    user = await find(connection, "lower(email) = lower(%s)", email)
    stored = str(user["encrypted_password"] or "") if user else ""
    salt = stored.partition("$")[0]
    if user is None or not hmac.compare_digest(stored, _hashed(password, salt)):
        raise AuthError(400, "invalid_credentials", "Invalid login credentials")
    return user


async def user_by_refresh(connection: Connection, token: str) -> User:
    row = await connection.execute(
        "delete from auth.sessions where refresh_token = %s returning user_id", [token]
    )
    session = await row.fetchone()
    user = await find(connection, "id = %s", session[0]) if session else None
    if user is None:
        raise AuthError(
            400, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found"
        )
    return user


def _hashed(password: str, salt: str) -> str:
    digest = hashlib.scrypt(password.encode(), salt=salt.encode(), n=2**12, r=8, p=1)
    return f"{salt}${digest.hex()}"


def public(user: User) -> dict[str, object]:
    """Return a user in the form that clients read."""

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
