"""What the checks share: the valid settings, and one reading of the catalogs."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from worker.jobs.text import one_line
from worker.runtime.network import why
from worker.settings import Settings

MIGRATE = "run `python -m worker migrate --again` with DATABASE_URL set"
_KEY_FIX = (
    "Copy the secret key (sb_secret_…) or the service_role key of this project from "
    "Settings > API Keys into SUPABASE_SERVICE_ROLE_KEY."
)


class CannotCheck(Exception):
    """A check could not be made: why, and what to do about it."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The answer of inspect_video_jobs_v1, with our clock before and after the request."""

    found: Mapping[str, Any]
    asked_at: float
    answered_at: float


@dataclass(slots=True)
class Context:
    """One run of the checks. `problems`: invalid settings, by name."""

    settings: Settings
    problems: Mapping[str, str]
    http: httpx.AsyncClient
    # The clock is itself checked.
    clock: Callable[[], float] = time.time  # noqa: TID251 - compared with the database's
    _catalog: Catalog | CannotCheck | None = None
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def supabase(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send one request with the service key; raise CannotCheck without an answer."""
        key = self.settings.supabase_service_role_key.get_secret_value()
        headers = {"apikey": key, "Authorization": f"Bearer {key}", **more.pop("headers", {})}
        url = f"{self.settings.supabase_url}{path}"
        try:
            return await self.http.request(method, url, headers=headers, **more)
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise CannotCheck(
                f"{self.settings.supabase_url} does not answer: {why(error)}.",
                "Check SUPABASE_URL, and in the dashboard that the project is not paused.",
            ) from error

    async def catalog(self) -> Catalog:
        """Return the catalogs, read once; raise CannotCheck if they cannot be read."""
        async with self._asking:
            if self._catalog is None:
                try:
                    self._catalog = await self._ask()
                except CannotCheck as problem:
                    self._catalog = problem
        if isinstance(self._catalog, CannotCheck):
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
        raise _cannot_check(answer, self.settings.supabase_url)


def error_of(answer: httpx.Response) -> tuple[str, str]:
    """Return the code and the message of an error body, empty where there are none."""
    try:
        body = answer.json()
    except ValueError:
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    names = ("message", "msg", "error_description", "error")
    said = next((str(body[name]) for name in names if body.get(name)), "")
    return str(body.get("code") or ""), one_line(said, limit=200).rstrip(".")


def _cannot_check(answer: httpx.Response, url: str) -> CannotCheck:
    status = answer.status_code
    code, message = error_of(answer)
    if answer.is_redirect:
        to = answer.headers.get("location", "").split("/rest/")[0]
        return CannotCheck(f"{url} redirects to {to}.", f"Set SUPABASE_URL to {to}.")
    if code == "42501" and "for schema" in message:
        return CannotCheck(
            f"The key's role may not use the database: {message}.",
            "Run in the SQL editor: grant usage on schema public to anon, authenticated, "
            "service_role;",
        )
    if code == "42501":
        return CannotCheck(
            f"The key may not read the state of the database: {message}.",
            f"{_KEY_FIX} If it is already that key, {MIGRATE}.",
        )
    if status in (401, 403):
        return CannotCheck(f"Supabase refuses the key: {message or f'HTTP {status}'}.", _KEY_FIX)
    if code in ("PGRST202", "42883", "42P01"):
        return CannotCheck(
            "The migrations were not applied, or are older than this worker.",
            "Run `python -m worker migrate` with DATABASE_URL set to the direct connection string; "
            "if it says that the database is up to date, add --again.",
        )
    if status == 404:
        return CannotCheck(
            f"{url} answers, but is not a Supabase project.",
            "Set SUPABASE_URL to https://<project>.supabase.co, without a path.",
        )
    if status >= 500:
        return CannotCheck(
            f"Supabase answered HTTP {status}{f': {message}' if message else ''}.",
            "Check in the dashboard whether the project is paused, restarting or out of resources.",
        )
    words = ": ".join(part for part in (code, message) if part)
    return CannotCheck(
        f"Supabase answered HTTP {status}{f' ({words})' if words else ''}.",
        "Run `python -m worker migrate --again`. If that does not help, read Supabase's logs.",
    )
