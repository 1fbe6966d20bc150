"""A joined topic: its owner, its subscriptions, and the reasons to refuse a join."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from devstack.supabase.bindings import Binding, binding_id
from devstack.supabase.frames import Frame
from devstack.supabase.pool import Caller
from devstack.supabase.tokens import Keys, TokenInvalid

PREFIX = "realtime:"
REASON_OF = {
    "signature": "JwtSignatureError",
    "malformed": "MalformedJWT",
    "expired": "InvalidJWTToken",
    "claims": "InvalidJWTToken",
}
NO_ROLE = "Fields `role` and `exp` are required in JWT"


class JoinRefused(Exception):
    """Why a channel may not be joined, as `Code: text`."""


@dataclass(slots=True, kw_only=True, eq=False)
class Channel:
    """A joined topic; `bindings` is empty until the subscription is active."""

    topic: str
    join_ref: str | None
    caller: Caller
    token: str
    requested: tuple[Binding, ...]
    hears_itself: bool = False
    acknowledges: bool = False
    bindings: tuple[Binding, ...] = ()
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.topic.removeprefix(PREFIX)


def verified(keys: Keys, token: str) -> Caller:
    """Return the caller of a token; raise JoinRefused with the server's message."""
    try:
        claims = keys.verify(token)
    except TokenInvalid as error:
        raise JoinRefused(f"{REASON_OF[error.kind]}: {error.message}") from error
    if "role" not in claims or "exp" not in claims:
        raise JoinRefused(f"InvalidJWTToken: {NO_ROLE}")
    return Caller(role=str(claims["role"]), claims=claims)


def opened(frame: Frame, caller: Caller, token: str) -> tuple[Channel, list[dict[str, object]]]:
    """Return the channel of a join, and the bindings to echo with their ids."""
    config = frame.payload.get("config")
    config = config if isinstance(config, Mapping) else {}
    wanted = [item for item in config.get("postgres_changes") or () if isinstance(item, Mapping)]
    broadcast = config.get("broadcast") or {}
    channel = Channel(
        topic=frame.topic,
        join_ref=frame.join_ref,
        caller=caller,
        token=token,
        requested=tuple(Binding.from_json(item) for item in wanted),
        hears_itself=bool(broadcast.get("self")),
        acknowledges=bool(broadcast.get("ack")),
    )
    return channel, [{**item, "id": binding_id(item)} for item in wanted]
