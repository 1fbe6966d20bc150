"""Keeps one live subscription to the jobs table, whatever happens to the socket."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Literal
from urllib.parse import urlsplit

import structlog

from worker.jobs.job import Job
from worker.runtime.metrics import METRICS
from worker.supabase.realtime_hearing import Hearing
from worker.supabase.realtime_pace import Backoff, Pace
from worker.supabase.realtime_reason import quiet_library_logs
from worker.supabase.realtime_rows import NewRows
from worker.supabase.realtime_session import ChangeHint, Ending, HintKind, Session, Timings

__all__ = ["ChangeHint", "HintKind", "Pace", "RealtimeListener", "Timings"]

log = structlog.get_logger(__name__)

ListenerState = Literal["connecting", "ready", "down"]

# Realtime repeats "Subscribed" once for each binding when the publication has changed.
BURST_SECONDS = 10.0


class RealtimeListener:
    """Gives a hint for each row that was inserted, cancelled, retried or deleted.

    Delivery is at most once: every hint may be lost, and only the sweep finds rows for certain.
    `on_ready` is called each time changes begin to flow; the caller should sweep then, because
    earlier changes are not replayed.
    """

    def __init__(
        self,
        *,
        url: str,
        key: str,
        on_hint: Callable[[ChangeHint], None],
        on_ready: Callable[[], None],
        table: str = "video_jobs",
        timings: Timings | None = None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Take the project's `url` (https://<ref>.supabase.co) and any kind of service key."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the Supabase URL must begin with https:// or http://")
        self._url = f"{url.rstrip('/')}/realtime/v1"
        self._key = key
        self._table = table
        self._on_hint = on_hint
        self._on_ready = on_ready
        self._clock = clock
        self._timings = timings or Timings()
        self._pace = pace or Pace()
        self._jitter = jitter
        self._sleep = sleep
        self._backoff = Backoff(self._pace, jitter)
        self._hearing = Hearing(clock)
        self._rows = NewRows(clock)
        self._session: Session | None = None
        # Public unless the project permits only private channels: see JobsChannel.
        self._private = False
        self._ready_logged = float("-inf")
        self._reason_logged: str | None = None
        self.reason: str | None = None
        self.sessions = 0
        self.rebuilds = 0
        self.misses = 0

    @property
    def state(self) -> ListenerState:
        """Return `ready` while changes flow, `down` from a failure until they flow again."""
        if self.ready_for is not None:
            return "ready"
        return "connecting" if self.reason is None else "down"

    @property
    def ready_for(self) -> float | None:
        """Return the seconds since changes began to flow, None while they do not."""
        since = self._session.ready_since if self._session else None
        return None if since is None else self._clock() - since

    @property
    def last_event_age(self) -> float | None:
        """Return the seconds since the last event, None before the first."""
        return self._hearing.last_event_age

    @property
    def unheard(self) -> int:
        """Return how many new rows only the sweep has found since the last event."""
        return self._hearing.unheard

    @property
    def problem(self) -> str | None:
        """Return why new rows are not heard of, as a sentence for /readyz; None if they are."""
        if self.state != "ready":
            return "no changes are heard; rows are found by the sweep alone"
        return self._hearing.problem

    def claimed(self, job: Job) -> None:
        """Tell of a row that was claimed, to compare with what was heard.

        Only a first claim can tell: for a later one there may have been no event at all.
        """
        if job.attempt == 1 and job.try_number == 1 and job.waited is not None:
            self._rows.claim(job.id, job.waited)
        self.check_missed()

    def check_missed(self) -> None:
        """Count the claimed rows whose event should have come by now."""
        for age in self._rows.unheard():
            self.missed(age)

    def missed(self, age: float = 0.0) -> None:
        """Report a row that the sweep found `age` seconds after a change without an event.

        After several such rows with no event in between, the session is closed: it receives
        nothing although the socket looks healthy. This happens after a restart of Postgres, or
        beyond Realtime's rate limit.
        """
        session, ready_for = self._session, self.ready_for
        if session is None or ready_for is None or age >= ready_for:
            return
        self.misses += 1
        METRICS.realtime_missed.inc()
        self._hearing.miss()
        if self._hearing.unheard == 1:
            log.warning("realtime.unheard", age=round(age, 1))
        silent = self._hearing.unheard_in_session
        if silent >= self._pace.misses:
            session.end(f"{silent} rows changed without an event")

    async def run(self) -> None:
        """Keep a session alive until cancelled; network errors never raise."""
        quiet_library_logs()
        while True:
            ending = await self._run_session()
            if ending.planned:
                continue
            self.reason = ending.reason
            self.rebuilds += 1
            METRICS.realtime_lost.inc()
            self._choose_privacy(ending.reason)
            delay = self._backoff.after(
                ending.reason,
                ready_seconds=ending.ready_seconds,
                heard=self._hearing.heard_in_session,
            )
            self._log_lost(ending.reason, delay)
            await self._sleep(delay)

    def _choose_privacy(self, reason: str) -> None:
        """Join as the project permits: hearing inserts matters more than who else may send."""
        if "PrivateOnly" in reason:
            self._private = True
        elif "Unauthorized" in reason:
            self._private = False

    def _log_lost(self, reason: str, delay: float) -> None:
        """Warn once per outage and reason: it is tried several times a minute."""
        write = log.debug if reason == self._reason_logged else log.warning
        self._reason_logged = reason
        write("realtime.lost", reason=reason, retry_in=round(delay, 1))

    async def _run_session(self) -> Ending:
        timings = replace(self._timings, recycle=self._timings.recycle * (1 + self._jitter()))
        session = Session(
            url=self._url,
            key=self._key,
            table=self._table,
            private=self._private,
            timings=timings,
            on_hint=self._hear,
            on_ready=self._ready,
            clock=self._clock,
        )
        self._hearing.begin_session()
        self._ready_logged = float("-inf")
        self._session = session
        self.sessions += 1
        try:
            return await session.run()
        finally:
            self._session = None

    def _hear(self, hint: ChangeHint) -> None:
        if hint.job_id is not None:
            self._rows.hear(hint.job_id)
        if unheard := self._hearing.hear():
            log.info("realtime.heard_again", rows_unheard=unheard)
        METRICS.realtime_hints.labels(hint.kind.value).inc()
        self._call("on_hint", self._on_hint, hint)

    def _ready(self) -> None:
        self.reason = self._reason_logged = None
        if self._clock() - self._ready_logged >= BURST_SECONDS:
            log.info("realtime.ready", sessions=self.sessions)
        self._ready_logged = self._clock()
        self._call("on_ready", self._on_ready)

    def _call(self, name: str, callback: Callable[..., None], *args: object) -> None:
        try:
            callback(*args)
        except Exception:
            # An exception here would end the library's reading task, without a log line.
            log.exception("realtime.callback_failed", callback=name)
