"""The table as the command line uses it: insert, read, cancel, retry."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import httpx
from postgrest import APIError
from supabase import AsyncClient

from worker.jobs.errors import StoreUnavailable
from worker.runtime.network import why
from worker.supabase.store import translated

TABLE = "video_jobs"
PAGE = 500


class JobsTable:
    """Rows of video_jobs as dictionaries; StoreRefused carries the database's own sentence."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def insert(self, values: Mapping[str, object]) -> dict[str, Any]:
        """Insert one job and return its row."""
        rows = await self._run(self._client.table(TABLE).insert(dict(values)))
        return dict(rows[0])

    async def get(self, job_id: str) -> dict[str, Any] | None:
        """Return one row, or None."""
        rows = await self._run(self._client.table(TABLE).select("*").eq("id", job_id))
        return dict(rows[0]) if rows else None

    async def by_key(self, user_id: str | None, key: str) -> dict[str, Any] | None:
        """Return the row of a user (or of no user) with this idempotency key, or None."""
        query = self._client.table(TABLE).select("*").eq("idempotency_key", key)
        query = query.is_("user_id", None) if user_id is None else query.eq("user_id", user_id)
        rows = await self._run(query)
        return dict(rows[0]) if rows else None

    async def find(
        self,
        *,
        statuses: tuple[str, ...] = (),
        code: str | None = None,
        user_id: str | None = None,
        limit: int = 50,
    ) -> list[dict[str, Any]]:
        """Return the newest matching rows, at most `limit`."""
        found: list[dict[str, Any]] = []
        while len(found) < limit:
            size = min(PAGE, limit - len(found))
            query = self._client.table(TABLE).select("*")
            if statuses:
                query = query.in_("status", list(statuses))
            if code is not None:
                query = query.eq("error_code", code)
            if user_id is not None:
                query = query.eq("user_id", user_id)
            query = query.order("created_at", desc=True).order("id")
            rows = await self._run(query.range(len(found), len(found) + size - 1))
            found += rows
            if len(rows) < size:
                break
        return found

    async def cancel(self, job_id: str) -> dict[str, Any] | None:
        """Request cancellation; return the row as it is now, None if there is no such job."""
        query = self._client.table(TABLE).update({"cancel_requested": True}).eq("id", job_id)
        rows = await self._run(query)
        # An update that changes nothing returns nothing: the job has ended or is being cancelled.
        return dict(rows[0]) if rows else await self.get(job_id)

    async def retry(self, job_id: str) -> dict[str, Any]:
        """Start another try of a failed or cancelled job."""
        rows = await self._run(self._client.rpc("retry_video_job_v1", {"id": job_id}))
        return dict(rows[0])

    async def submissions(self, job_id: str) -> list[dict[str, Any]]:
        """Return all submissions of a job, oldest first."""
        query = self._client.table("video_job_attempts").select("*").eq("job_id", job_id)
        return [dict(row) for row in await self._run(query.order("attempt"))]

    async def events(self, job_id: str) -> list[dict[str, Any]]:
        """Return the job's timeline."""
        query = self._client.table("video_job_events").select("*").eq("job_id", job_id)
        return [dict(row) for row in await self._run(query.order("id").limit(1000))]

    async def _run(self, query: Any) -> Any:
        try:
            return (await query.execute()).data
        except APIError as error:
            raise translated(error) from error
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise StoreUnavailable(f"Supabase does not answer: {why(error)}.") from error
