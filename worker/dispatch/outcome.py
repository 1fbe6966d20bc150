"""What can become of a claim, and writing it to the table, which may be away just then."""

from __future__ import annotations

import asyncio

import structlog

from worker.jobs.errors import StoreRefused, StoreUnavailable
from worker.jobs.job import Job, JobStatus
from worker.ports import ClaimEnding, JobStore, Recorded
from worker.runtime.metrics import METRICS

log = structlog.get_logger(__name__)

AWAY_SECONDS = 2.0
# Half an hour of an absent table: what is known of a POST is worth keeping that long.
SETTLE_TRIES = 900


def unsent(retry_seconds: float = 0.0, *, detail: str | None = None) -> ClaimEnding:
    """No submission was begun: the row goes back in line."""
    return ClaimEnding(status="queued", phase_detail=detail, retry_seconds=retry_seconds)


def failed(code: str, message: str, *, submission: str | None = None) -> ClaimEnding:
    """The job itself is over."""
    return ClaimEnding(
        status="failed",
        phase="done",
        error_code=code,
        error_message=message[:1000],
        submission=submission,
        raw_error=message[:2000] if submission else None,
    )


def unknown(why: str) -> ClaimEnding:
    """POST /run may have been accepted: nothing is sent until that is known."""
    return ClaimEnding(
        status="preparing",
        phase="confirming_submission",
        submission="unknown",
        raw_error=why[:2000],
    )


def refused(why: str, retry_seconds: float) -> ClaimEnding:
    """A submission was begun, but certainly no run: the row goes back in line, uncounted."""
    return ClaimEnding(
        status="queued",
        phase="in_line",
        retry_seconds=retry_seconds,
        submission="refused",
        raw_error=why[:2000],
    )


async def record(store: JobStore, job: Job, run_id: str) -> Recorded | None:
    """Write the run's id, however long the table is away; None when the submission is gone."""
    while True:
        try:
            return await store.record(job.id, job.attempt, run_id)
        except StoreUnavailable as error:
            log.warning("job.run_not_recorded_yet", run_id=run_id, reason=error.message)
            await asyncio.sleep(AWAY_SECONDS)


async def settle(store: JobStore, job: Job, ending: ClaimEnding) -> None:
    """Write what is known of the POST; without it, the expired lease makes it unknown."""
    for _ in range(SETTLE_TRIES):
        try:
            _count_end(await store.end_claim(job, ending), ending)
            return
        except StoreUnavailable:
            await asyncio.sleep(AWAY_SECONDS)


async def end(store: JobStore, job: Job, ending: ClaimEnding) -> None:
    """Write the ending of a claim; if the table is away for it, the lease runs out."""
    try:
        _count_end(await store.end_claim(job, ending), ending)
    except (StoreUnavailable, StoreRefused) as error:
        log.warning("job.left_to_its_lease", reason=error.message)


def _count_end(row: Job | None, ending: ClaimEnding) -> None:
    if row is not None and row.status.terminal:
        code = ending.error_code if row.status is JobStatus.FAILED else None
        METRICS.jobs_ended.labels(row.status.value, code or "").inc()
        log.info("job.ended", outcome=row.status.value, code=code)
