"""Keys and JWTs of the local project: they identify the caller of a request."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import jwt

from devstack.supabase.pool import Caller

TEN_YEARS = 10 * 365 * 24 * 3600
ISSUER = "supabase-local"


class TokenInvalid(Exception):
    """A token that cannot be trusted; `kind` is malformed, signature, expired or claims."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class KeyRefused(Exception):
    """The `apikey` is missing or not one of this project's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The secret that signs tokens, and the four keys of a project."""

    jwt_secret: str
    anon: str
    service_role: str
    publishable: str
    secret: str

    @classmethod
    def generate(cls) -> Keys:
        """Create random keys: tokens of other projects are not valid here."""
        jwt_secret = secrets.token_hex(32)
        now = int(time.time())
        legacy = {
            role: jwt.encode(
                {"iss": ISSUER, "role": role, "iat": now, "exp": now + TEN_YEARS},
                jwt_secret,
                algorithm="HS256",
            )
            for role in ("anon", "service_role")
        }
        return cls(
            jwt_secret=jwt_secret,
            anon=legacy["anon"],
            service_role=legacy["service_role"],
            publishable=f"sb_publishable_{secrets.token_urlsafe(24)}",
            secret=f"sb_secret_{secrets.token_urlsafe(24)}",
        )

    @classmethod
    def load(cls, path: Path) -> Keys:
        """Return the keys stored at `path`; create them the first time."""
        if path.exists():
            return cls(**json.loads(path.read_text()))
        keys = cls.generate()
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(keys)))
        return keys

    def sign(self, claims: Mapping[str, object]) -> str:
        return jwt.encode(dict(claims), self.jwt_secret, algorithm="HS256")

    def verify(self, token: str) -> dict[str, object]:
        """Return the claims of a token that this project signed and that has not expired."""
        try:
            return dict(
                jwt.decode(
                    token,
                    self.jwt_secret,
                    algorithms=["HS256"],
                    options={"verify_aud": False, "verify_iat": False},
                )
            )
        except jwt.ExpiredSignatureError as error:
            late = self._seconds_late(token)
            raise TokenInvalid("expired", f"Token has expired {late} seconds ago") from error
        except jwt.InvalidSignatureError as error:
            raise TokenInvalid("signature", "Failed to validate JWT signature") from error
        except jwt.PyJWTError as error:
            raise TokenInvalid("malformed", "The token provided is not a valid JWT") from error

    def _seconds_late(self, token: str) -> int:
        claims = jwt.decode(token, options={"verify_signature": False})
        return max(0, int(time.time() - float(claims["exp"])))

    def token_of_key(self, key: str) -> str:
        """Return the JWT for a project key, as the hosted gateway exchanges them."""
        if key in (self.publishable, self.anon):
            return self.anon
        if key in (self.secret, self.service_role):
            return self.service_role
        raise KeyRefused

    def caller(self, apikey: str | None, authorization: str | None) -> Caller:
        """Return the caller; raise KeyRefused for an unknown key, TokenInvalid for a bad token."""
        bearer = _bearer(authorization)
        if apikey is None:
            raise KeyRefused
        token = self.token_of_key(apikey)
        if bearer is not None and bearer != apikey and not bearer.startswith("sb_"):
            token = bearer
        claims = self.verify(token)
        return Caller(role=str(claims.get("role", "anon")), claims=claims)


def _bearer(authorization: str | None) -> str | None:
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None
