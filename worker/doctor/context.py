"""What the checks share: the settings as far as they are right, and one look at the catalogs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from worker.settings import Settings

MIGRATE = "run `python -m worker migrate --again` with DATABASE_URL set"
_KEY_MEND = (
    "Copy the secret key (sb_secret_…) or the service_role key of this very project from "
    "Settings > API Keys into SUPABASE_SERVICE_ROLE_KEY."
)


class Trouble(Exception):
    """Why a look failed, and what mends that."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The answer of inspect_video_jobs_v1, and when it was asked and given by our clock."""

    found: Mapping[str, Any]
    asked_at: float
    answered_at: float


@dataclass(slots=True)
class Context:
    """One examination. `problems`: settings that are wrong, by name."""

    settings: Settings
    problems: Mapping[str, str]
    http: httpx.AsyncClient
    # The clock itself is one of the things that are checked.
    clock: Callable[[], float] = time.time  # noqa: TID251 - compared with the database's
    _catalog: Catalog | Trouble | None = None
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def supabase(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request with the service key; Trouble when nobody answers."""
        key = self.settings.supabase_service_role_key.get_secret_value()
        headers = {"apikey": key, "Authorization": f"Bearer {key}", **more.pop("headers", {})}
        url = f"{self.settings.supabase_url}{path}"
        try:
            return await self.http.request(method, url, headers=headers, **more)
        except httpx.HTTPError as error:
            raise Trouble(
                f"{self.settings.supabase_url} does not answer ({type(error).__name__}).",
                "Check SUPABASE_URL, and in the dashboard that the project is not paused.",
            ) from error

    async def catalog(self) -> Catalog:
        """The catalogs, asked for once; Trouble says why they cannot be read."""
        async with self._asking:
            if self._catalog is None:
                try:
                    self._catalog = await self._ask()
                except Trouble as trouble:
                    self._catalog = trouble
        if isinstance(self._catalog, Trouble):
            raise self._catalog
        return self._catalog

    async def _ask(self) -> Catalog:
        asked_at = self.clock()
        answer = await self.supabase("POST", "/rest/v1/rpc/inspect_video_jobs_v1", json={})
        answered_at = self.clock()
        if answer.status_code == 200:
            try:
                found = answer.json()
            except ValueError:
                found = None
            if isinstance(found, dict) and "tables" in found:
                return Catalog(found=found, asked_at=asked_at, answered_at=answered_at)
        raise _trouble(answer, self.settings.supabase_url)


def words(answer: httpx.Response) -> tuple[str, str]:
    """The code and the message of an error body, as far as there are any."""
    try:
        body = answer.json()
    except ValueError:
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    return str(body.get("code") or ""), str(body.get("message") or body.get("error") or "")[:200]


def _trouble(answer: httpx.Response, url: str) -> Trouble:
    status = answer.status_code
    code, said = words(answer)
    if answer.is_redirect:
        to = answer.headers.get("location", "").split("/rest/")[0]
        return Trouble(f"{url} redirects to {to}.", f"Set SUPABASE_URL to {to}.")
    if code == "42501":
        return Trouble(
            f"The key may not ask for the state of the database: {said}.",
            f"{_KEY_MEND} If it is that key, {MIGRATE}.",
        )
    if status in (401, 403):
        return Trouble(f"Supabase refuses the key: {said or f'HTTP {status}'}.", _KEY_MEND)
    if code in ("PGRST202", "42883", "42P01"):
        return Trouble(
            "The migrations are missing, or older than this worker.",
            "Run `python -m worker migrate` with DATABASE_URL set to the direct connection string; "
            "if it says that all is up to date, add --again.",
        )
    if status == 404:
        return Trouble(
            f"{url} answers, but is no Supabase project.",
            "Set SUPABASE_URL to https://<project>.supabase.co, without any path.",
        )
    if status >= 500:
        return Trouble(
            f"Supabase answered HTTP {status}{f': {said}' if said else ''}.",
            "Look in the dashboard whether the project is paused, restarting or out of resources.",
        )
    return Trouble(
        f"Supabase answered HTTP {status} {code}: {said}.",
        "Run `python -m worker migrate --again`; if that does not help, look at Supabase's logs.",
    )
