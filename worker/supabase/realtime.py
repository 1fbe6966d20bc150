"""Keeps one live subscription to the jobs table, whatever happens to the socket."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

import structlog

from worker.runtime.metrics import METRICS
from worker.supabase.realtime_reason import quiet_library_logs
from worker.supabase.realtime_session import ChangeHint, Ending, HintKind, Session, Timings

__all__ = ["ChangeHint", "HintKind", "Pace", "RealtimeListener", "Timings"]

log = structlog.get_logger(__name__)

ListenerState = Literal["connecting", "ready", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Backoff between sessions, in seconds, and how many missed changes end a session."""

    first: float = 0.5
    longest: float = 30.0
    # Realtime limits joins: after a refusal for their number, wait before the next one.
    rate_limited: float = 30.0
    # After a session that was ready for this long, the backoff starts again from `first`.
    proven: float = 60.0
    misses: int = 3


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
        self._session: Session | None = None
        self._last_event: float | None = None
        self._failures = 0
        self._silent_misses = 0
        self._heard = False
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
        return None if self._last_event is None else self._clock() - self._last_event

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
        self._silent_misses += 1
        if self._silent_misses >= self._pace.misses:
            session.end(f"{self._silent_misses} rows changed without an event")

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
            delay = self._delay(ending)
            log.warning("realtime.lost", reason=ending.reason, retry_in=round(delay, 1))
            await asyncio.sleep(delay)

    async def _run_session(self) -> Ending:
        timings = replace(self._timings, recycle=self._timings.recycle * (1 + self._jitter()))
        session = Session(
            url=self._url,
            key=self._key,
            table=self._table,
            timings=timings,
            on_hint=self._hear,
            on_ready=self._ready,
            clock=self._clock,
        )
        self._heard = False
        self._silent_misses = 0
        self._session = session
        self.sessions += 1
        try:
            return await session.run()
        finally:
            self._session = None

    def _delay(self, ending: Ending) -> float:
        pace = self._pace
        proven = self._heard or ending.ready_seconds >= pace.proven
        self._failures = 1 if proven else self._failures + 1
        delay = min(pace.first * 2.0 ** min(self._failures - 1, 10), pace.longest)
        if "RateLimit" in ending.reason:
            delay = max(delay, pace.rate_limited)
        return delay * (0.5 + self._jitter() / 2)

    def _hear(self, hint: ChangeHint) -> None:
        self._last_event = self._clock()
        self._heard = True
        self._silent_misses = 0
        METRICS.realtime_hints.labels(hint.kind.value).inc()
        self._call("on_hint", self._on_hint, hint)

    def _ready(self) -> None:
        self.reason = None
        log.info("realtime.ready", sessions=self.sessions)
        self._call("on_ready", self._on_ready)

    def _call(self, name: str, callback: Callable[..., None], *args: object) -> None:
        try:
            callback(*args)
        except Exception:
            # An exception here would end the library's reading task, without a log line.
            log.exception("realtime.callback_failed", callback=name)
