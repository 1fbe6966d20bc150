"""Checks the Supabase key by its form, without the network."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlsplit

from worker.doctor.context import Context
from worker.doctor.result import Result, fail, ok, warn

NAME = "supabase.key"
_FIX = (
    "Set SUPABASE_SERVICE_ROLE_KEY to the secret key (sb_secret_…) or the service_role key from "
    "the project's Settings > API Keys."
)


async def check_key(context: Context) -> Result:
    """Check the key's type, role, project and expiry."""
    key = context.settings.supabase_service_role_key.get_secret_value()
    if key.startswith("sb_secret_"):
        return ok(NAME, "It is a secret key (sb_secret_…).")
    if key.startswith("sb_publishable_"):
        return fail(NAME, "It is the publishable key, which is for browsers.", _FIX)
    claims = _claims(key)
    if claims is None:
        return fail(NAME, "It is not a Supabase key: neither a JWT nor sb_secret_….", _FIX)
    return _judge(claims, context)


def _judge(claims: dict[str, Any], context: Context) -> Result:
    role, ref, ends = claims.get("role"), claims.get("ref"), claims.get("exp")
    if role != "service_role":
        return fail(NAME, f"It is a key of the role {role}, not service_role.", _FIX)
    host = urlsplit(context.settings.supabase_url).hostname or ""
    project = host.removesuffix(".supabase.co") if host.endswith(".supabase.co") else None
    if isinstance(ref, str) and project is not None and ref != project:
        return fail(
            NAME,
            f"It belongs to project {ref}, but SUPABASE_URL is project {project}.",
            "Take SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY from the same project.",
        )
    if isinstance(ends, int | float):
        left = ends - context.clock()
        if left < 0:
            return fail(NAME, f"It expired {_days(-left)} ago.", _FIX)
        if left < 14 * 86400:
            return warn(NAME, f"It expires in {_days(left)}.", _FIX)
    return ok(NAME, "It is the service_role key.")


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds > 2 * 86400 else f"{seconds / 3600:.1f} hours"


def _claims(key: str) -> dict[str, Any] | None:
    parts = key.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None
