"""The table: every name of a Supabase function or table that the worker uses, and its errors."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import httpx
import structlog
from postgrest import APIError
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from worker.jobs.change import Change
from worker.jobs.errors import StoreRefused, StoreUnavailable
from worker.jobs.job import Case, Job
from worker.jobs.text import one_line, visible_values
from worker.jobs.waiting import UserLimits
from worker.ports import ClaimLimits, NewSubmission, NotBegun, RemovablePage, Written
from worker.runtime.network import why

log = structlog.get_logger(__name__)

# SQLSTATE classes by which the database refuses one write for what it says, not for how it is.
_REFUSALS = ("P0001", "22", "23")
# Objects that one look for removable ones reads, and names at most: these are removed right away,
# since a job that names one may be inserted in the next moment.
EXAMINED = 5000
REMOVED = 100
TIMEOUT = httpx.Timeout(15, connect=5)


class SupabaseStore:
    """video_jobs through PostgREST; `owner` is this process's random name on its leases."""

    def __init__(
        self,
        client: AsyncClient,
        *,
        owner: str,
        lease_seconds: float,
        poll_seconds: float,
        endpoint_id: str,
    ) -> None:
        self._client = client
        self._owner = owner
        self._lease = lease_seconds
        self._poll = poll_seconds
        self._endpoint_id = endpoint_id

    async def claim(
        self, want: int, limits: ClaimLimits, *, holding: Sequence[str] = ()
    ) -> list[Case]:
        """Take up to `want` rows for a lease; rows in our name but not in `holding` come first."""
        rows = await self._rows(
            "claim_video_jobs_v1",
            p_owner=self._owner,
            p_want=want,
            p_lease_seconds=self._lease,
            p_endpoint_id=self._endpoint_id,
            p_max_in_flight=limits.max_in_flight,
            p_max_queued_runs=limits.max_queued_runs,
            p_max_preparing=limits.max_preparing,
            p_holding=list(holding),
        )
        return _cases(rows)

    async def renew(self, job_ids: Sequence[str]) -> list[Job]:
        """Renew leases; a row that is missing from the answer is lost."""
        rows = await self._rows(
            "renew_video_job_leases_v1",
            p_owner=self._owner,
            p_job_ids=list(job_ids),
            p_lease_seconds=self._lease,
        )
        return [
            job
            for case in _cases([{"job_id": row["id"], "job": row} for row in rows])
            if (job := case.job) is not None
        ]

    async def begin(
        self, job: Job, submission: NewSubmission, limits: ClaimLimits
    ) -> Case | NotBegun:
        """Commit a submission before its POST, if the claim still holds and there is room."""
        rows = await self._rows(
            "begin_video_job_submission_v1",
            p_job_id=job.id,
            p_attempt=job.attempt,
            p_owner=self._owner,
            p_lease_seconds=self._lease,
            p_max_submissions=submission.max_submissions,
            p_endpoint_id=submission.endpoint_id,
            p_max_in_flight=limits.max_in_flight,
            p_max_queued_runs=limits.max_queued_runs,
            p_ttl_seconds=submission.ttl_seconds,
            p_template_hash=submission.template_hash,
            p_plan=dict(submission.plan),
            p_columns=visible_values(submission.columns),
            p_input_objects=list(submission.input_objects),
        )
        if not rows:
            return NotBegun.CLAIM_LOST
        return NotBegun.NO_ROOM if rows[0].get("room") is False else _case(job.id, rows[0])

    async def take_due(self, want: int, *, everything_after: str | None = None) -> list[Case]:
        """Cases with submissions to poll now; `everything_after`: all, in pages by job id."""
        rows = await self._rows(
            "take_due_video_job_submissions_v1",
            p_want=want,
            p_poll_seconds=self._poll,
            p_all=everything_after is not None,
            p_after=everything_after or None,
        )
        return _cases(rows)

    async def stranded(self, want: int, *, after: str | None = None) -> list[Case]:
        """Cases that no poll brings up (expired leases, lost senders), in pages by job id."""
        return _cases(await self._rows("stranded_video_jobs_v1", p_want=want, p_after=after))

    async def case(self, job_id: str) -> Case | None:
        """One job with its submissions; None when neither exists."""
        rows = await self._rows("get_video_job_case_v1", p_job_id=job_id)
        return _case(job_id, rows[0]) if rows else None

    async def write(self, changes: Sequence[Change]) -> list[Written]:
        """Write decisions, each only if its case is unchanged; all in one transaction."""
        rows = await self._rows(
            "write_video_job_changes_v1", p_changes=[change.as_json() for change in changes]
        )
        return [
            Written(
                job_id=row["job_id"],
                took=row["took"],
                locked=row["locked"],
                case=_case(row["job_id"], row["case"]),
            )
            for row in rows
        ]

    async def refresh_queue(self, places: int, sentences: Mapping[str, str]) -> int:
        """Write the first places of the line and why rows wait; return how many rows changed."""
        return int(
            await self._call(
                "refresh_video_job_queue_v1", p_places=places, p_sentences=dict(sentences)
            )
        )

    async def recount_users(self, want: int) -> None:
        """Count anew what users have in work, those first whose count is oldest."""
        await self._call("recount_video_job_users_v1", p_want=want)

    async def set_limits(self, limits: UserLimits) -> Mapping[str, int] | None:
        """Write the limits of users; return the former ones if they were different."""
        former: Mapping[str, int] | None = await self._call(
            "set_video_job_limits_v1", p_limits=limits.as_row()
        )
        return former

    async def limits(self) -> Mapping[str, int]:
        """Return the limits of users as the database has them."""
        return dict(await self._call("get_video_job_limits_v1") or {})

    async def count(self) -> dict[str, tuple[int, float]]:
        """Rows that have not ended and the oldest one's age in seconds, by status."""
        rows = await self._rows("count_video_jobs_v1")
        return {row["status"]: (row["jobs"], row["oldest_seconds"]) for row in rows}

    async def prune(self, keep_days: int) -> None:
        """Forget old timeline entries and the ended submissions of deleted jobs."""
        await self._call("prune_video_job_history_v1", p_keep_days=keep_days)

    async def prune_jobs(self, keep_days: int, most: int) -> int:
        """Delete jobs that ended long ago; return how many, at most `most`."""
        return int(await self._call("prune_video_jobs_v1", p_keep_days=keep_days, p_want=most))

    async def orphaned_uploads(self, keep_days: int, *, after: str | None) -> RemovablePage:
        """Uploads that no job needs, page by page."""
        answer = await self._call(
            "orphaned_video_job_uploads_v1",
            p_keep_days=keep_days,
            p_after=after,
            p_examine=EXAMINED,
            p_want=REMOVED,
        )
        return _removable(answer)

    async def unneeded_inputs(
        self, bucket: str, keep_hours: float, *, after: str | None
    ) -> RemovablePage:
        """Prepared inputs that no run can need, page by page."""
        answer = await self._call(
            "unneeded_video_job_inputs_v1",
            p_bucket=bucket,
            p_keep_hours=keep_hours,
            p_after=after,
            p_examine=EXAMINED,
            p_want=REMOVED,
        )
        return _removable(answer)

    async def _rows(self, function: str, **arguments: object) -> list[Any]:
        data = await self._call(function, **arguments)
        # A proxy's page with status 200 is returned as its text.
        if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
            raise StoreUnavailable("Supabase's answer does not come from the database.")
        return data

    async def _call(self, function: str, **arguments: object) -> Any:
        try:
            answer = await self._client.rpc(function, dict(arguments)).execute()
        except APIError as error:
            raise translated(error) from error
        # httpx lets through a TLS error that comes after the handshake.
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise StoreUnavailable(f"Supabase does not answer: {why(error)}.") from error
        return answer.data


def _removable(answer: Any) -> RemovablePage:
    if not isinstance(answer, dict) or not isinstance(answer.get("paths"), list):
        raise StoreUnavailable("Supabase's answer does not come from the database.")
    return RemovablePage(
        bucket=str(answer.get("bucket") or ""), paths=answer["paths"], after=answer.get("after")
    )


def _case(job_id: str, row: Mapping[str, Any]) -> Case:
    """Read a case; one that cannot be read is empty, so that nothing is decided on it."""
    try:
        return Case.from_json(job_id, row)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        log.error("job.unreadable", job_id=job_id, reason=repr(error)[:300])
        return Case(job_id=job_id, job=None)


def _cases(rows: Sequence[Mapping[str, Any]]) -> list[Case]:
    """Read a page; it keeps its length, so that the next page is asked for."""
    if not all("job_id" in row for row in rows):
        raise StoreUnavailable("The functions are of another version; run the migrations.")
    return [_case(row["job_id"], row) for row in rows]


def translated(error: APIError) -> StoreRefused | StoreUnavailable:
    """Ours for PostgREST's: what the data is refused for, or that Supabase cannot be used now."""
    status, words = _refused_with()
    code = str(error.code or "") or (f"HTTP {status}" if status else "")
    said = one_line(str(error.message or words or "no reason given"), limit=300).rstrip(".")
    if code.startswith(_REFUSALS):
        return StoreRefused(f"{said} ({code})")
    if code in ("PGRST202", "42883", "42P01", "PGRST205"):
        said = f"The tables or functions are missing; run the migrations. {said}"
    keys = ("401", "PGRST301", "PGRST302", "PGRST303", "42501")
    # The platform refuses a key before PostgREST sees it, and then without a code.
    if code in keys or said.startswith(("Invalid API key", "No API key")):
        said = f"The service key is not accepted; check SUPABASE_SERVICE_ROLE_KEY. {said}"
    return StoreUnavailable(f"Supabase answered {code or 'an error'}: {said}.")


async def connect(
    url: str, key: str, http: httpx.AsyncClient, *, headers: Mapping[str, str] | None = None
) -> AsyncClient:
    """The official client over our own httpx client (whose timeouts and limits then hold)."""
    options = AsyncClientOptions(httpx_client=http, auto_refresh_token=False, persist_session=False)
    options.headers.update(headers or {})
    http.event_hooks["response"].append(_note_refusal)
    return await acreate_client(url, key, options)


# The client's error has no status, and no words but those of PostgREST's own form. The hook runs in
# the task of the request, so the last refusal that a task sees is its own.
_LAST_REFUSAL: ContextVar[httpx.Response | None] = ContextVar("last_refusal", default=None)


async def _note_refusal(response: httpx.Response) -> None:
    _LAST_REFUSAL.set(response if response.is_error else None)


def _refused_with() -> tuple[int | None, str]:
    """Return status and words of the refusal that this task has just got, if there are any."""
    response = _LAST_REFUSAL.get()
    if response is None:
        return None, ""
    if not response.is_stream_consumed:
        return response.status_code, ""
    try:
        body = json.loads(response.content)
    except ValueError:
        return response.status_code, ""
    names = ("message", "msg", "error_description", "error")
    found = [body[name] for name in names if body.get(name)] if isinstance(body, dict) else []
    return response.status_code, str(found[0]) if found else ""
