"""Once an hour: forgets old history and jobs, removes objects that the database calls unneeded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from worker.jobs.errors import StoreUnavailable
from worker.media.storage import StorageApi
from worker.ports import RemovablePage
from worker.runtime.readiness import Readiness

log = structlog.get_logger(__name__)

# Few enough for one short transaction: each deleted job also writes its timeline.
JOBS_AT_ONCE = 500
TROUBLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long things are kept; 0 days: for ever. `prepared_bucket` is None if nothing is prepared.

    Prepared inputs are looked for in `media_bucket` in any case: some may be left from before.
    """

    history_days: int
    job_days: int
    upload_days: int
    media_bucket: str
    media_hours: float
    prepared_bucket: str | None


class HousekeepingStore(Protocol):
    """What the table says may go."""

    async def prune(self, keep_days: int) -> None: ...

    async def prune_jobs(self, keep_days: int, most: int) -> int: ...

    async def orphaned_uploads(self, keep_days: int, *, after: str | None) -> RemovablePage: ...

    async def unneeded_inputs(
        self, bucket: str, keep_hours: float, *, after: str | None
    ) -> RemovablePage: ...


class Housekeeper:
    """Removes what nobody needs; no clock of this machine has a say in it."""

    def __init__(
        self,
        retention: Retention,
        *,
        store: HousekeepingStore,
        storage: StorageApi,
        readiness: Readiness,
    ) -> None:
        self._retention = retention
        self._store = store
        self._storage = storage
        self._readiness = readiness

    async def tick(self) -> float | None:
        """Do all of it; jobs do not depend on it, so a Storage that is away only degrades."""
        kept = self._retention
        await self._store.prune(kept.history_days)
        if kept.job_days:
            while await self._store.prune_jobs(kept.job_days, JOBS_AT_ONCE) == JOBS_AT_ONCE:
                pass
        try:
            if not await self._bucket_found():
                return TROUBLE_SECONDS
            await self._remove(
                lambda after: self._store.unneeded_inputs(
                    kept.media_bucket, kept.media_hours, after=after
                ),
                "housekeeping.inputs_removed",
            )
            if kept.upload_days:
                await self._remove(
                    lambda after: self._store.orphaned_uploads(kept.upload_days, after=after),
                    "housekeeping.uploads_removed",
                )
        except StoreUnavailable as error:
            self._readiness.report("housekeeping", f"old objects are kept: {error.message}")
            return TROUBLE_SECONDS
        self._readiness.clear("housekeeping")
        return None

    async def _bucket_found(self) -> bool:
        """Notice a missing bucket before the first job does."""
        bucket = self._retention.prepared_bucket
        if bucket is None or await self._storage.has_bucket(bucket):
            return True
        reason = (
            f"the bucket {bucket} for prepared inputs does not exist: run the migrations, create "
            "it as a private bucket, or correct MEDIA_BUCKET; jobs wait"
        )
        if self._readiness.report("bucket", reason, severity="down"):
            log.error("bucket.unusable", reason=reason)
        return False

    async def _remove(
        self, page_after: Callable[[str | None], Awaitable[RemovablePage]], event: str
    ) -> None:
        """Ask for each page and remove it at once, before a new job can name one of its objects."""
        after: str | None = None
        removed = 0
        while True:
            page = await page_after(after)
            if page.paths:
                await self._storage.delete(page.bucket, page.paths)
                removed += len(page.paths)
            after = page.after
            if after is None:
                break
        if removed:
            log.info(event, objects=removed)
