"""The daemon's loops: what each does in a tick, how often it comes round, and what wakes it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import UTC, datetime, timedelta

import structlog

from worker.dispatch.dispatcher import Dispatcher
from worker.jobs.job import Job
from worker.media.inputs import InputDesk
from worker.reconcile.reconciler import Reconciler
from worker.runtime.loops import Heartbeats, Wakeup, every
from worker.runtime.metrics import METRICS
from worker.runtime.readiness import Board
from worker.runtime.watchdog import measure_lag
from worker.settings import Settings
from worker.supabase.realtime import ChangeHint, RealtimeListener
from worker.supabase.store import SupabaseStore

log = structlog.get_logger(__name__)

HINT_SECONDS = 3.0
HINTS_KEPT = 10_000
SLOWEST_TICK = 120.0
HOUR = 3600.0


class Wakeups:
    """Wakes loops before their time, and remembers which rows Realtime has told of."""

    def __init__(self) -> None:
        self.dispatch = Wakeup()
        self.reconcile = Wakeup()
        self.sweep = Wakeup()
        self.lease = Wakeup()
        self.housekeeping = Wakeup()
        self._heard: OrderedDict[str, None] = OrderedDict()

    def hear(self, hint: ChangeHint) -> None:
        """A row was inserted or changed: only the loops that it concerns look."""
        if hint.job_id is not None:
            self._heard[hint.job_id] = None
            if len(self._heard) > HINTS_KEPT:
                self._heard.popitem(last=False)
        if hint.kind in ("insert", "retry"):
            self.dispatch.set()
        else:
            self.reconcile.set()
            self.lease.set()

    def has_heard(self, job_id: str) -> bool:
        """Whether Realtime told of this row, as far as is remembered."""
        return job_id in self._heard

    def look_again(self) -> None:
        """Changes may have gone unheard."""
        for wakeup in (self.dispatch, self.reconcile, self.sweep):
            wakeup.set()

    def all(self) -> None:
        """Let every loop see that it is over."""
        for wakeup in (
            self.dispatch, self.reconcile, self.sweep, self.lease, self.housekeeping,
        ):  # fmt: skip
            wakeup.set()


class Schedule:
    """Starts the loops; its own are the sweep and the housekeeping."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: SupabaseStore,
        desk: InputDesk,
        listener: RealtimeListener,
        dispatcher: Dispatcher,
        reconciler: Reconciler,
        wakeups: Wakeups,
        board: Board,
        beats: Heartbeats,
    ) -> None:
        self._settings = settings
        self._store = store
        self._desk = desk
        self._listener = listener
        self._dispatcher = dispatcher
        self._reconciler = reconciler
        self._wakeups = wakeups
        self._board = board
        self._beats = beats
        dispatcher.freed = wakeups.dispatch.set
        dispatcher.claimed = self._check_realtime
        reconciler.changed = wakeups.dispatch.set

    def start(self, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> list[asyncio.Task[None]]:
        """Start every loop; each ends after the tick in which `stop` is set."""
        settings, wakeups = self._settings, self._wakeups
        dispatcher, sweep_seconds = self._dispatcher, settings.sweep_seconds
        plans = (
            ("dispatch", lambda: dispatcher.tick(tasks), sweep_seconds, wakeups.dispatch),
            ("reconcile", self._reconciler.tick, sweep_seconds, wakeups.reconcile),
            ("sweep", self.sweep, sweep_seconds, wakeups.sweep),
            ("lease", dispatcher.renew, settings.lease_seconds / 3, wakeups.lease),
            ("housekeeping", self.keep_house, HOUR, wakeups.housekeeping),
        )
        loops = [
            tasks.create_task(
                every(
                    name,
                    tick,
                    seconds=seconds,
                    stop=stop,
                    wakeup=wakeup,
                    beats=self._beats,
                    board=self._board,
                    # Thousands of folders are looked through one by one; nothing waits for it.
                    slowest_tick=HOUR if name == "housekeeping" else SLOWEST_TICK,
                ),
                name=name,
            )
            for name, tick, seconds, wakeup in plans
        ]
        return [*loops, tasks.create_task(measure_lag(stop, self._beats), name="lag")]

    async def sweep(self) -> float | None:
        """Take back expired leases, keep the line's places, see whether Realtime works."""
        recovered = await self._store.recover()
        METRICS.recovered.inc(len(recovered))
        for job in recovered:
            log.info("job.recovered", job_id=job.id, attempt=job.attempt, status=job.status.value)
            if job.status.terminal:
                METRICS.jobs_ended.labels(job.status.value, job.error_code or "").inc()
        await self._store.refresh_queue(100)
        self._wakeups.dispatch.set()
        if self._listener.state != "ready":
            reason = "no changes are heard; rows are found by the sweep alone"
            self._board.note("realtime", reason)
        else:
            self._board.clear("realtime")
        METRICS.count_jobs(await self._store.count())
        return None

    async def keep_house(self) -> float | None:
        """Once an hour: forget old history, remove prepared inputs of jobs that are over."""
        await self._store.prune(self._settings.history_keep_days)
        if self._settings.media_bucket:
            kept = timedelta(hours=self._settings.media_retention_hours)
            await self._desk.purge_older_than(datetime.now(UTC) - kept)
        return None

    def _check_realtime(self, job: Job) -> None:
        """Count a new row that the sweep found and Realtime did not tell of."""
        waited = job.waited
        first = job.attempt == 1 and job.try_number == 1
        if not first or waited is None or waited <= HINT_SECONDS:
            return
        if not self._wakeups.has_heard(job.id):
            METRICS.realtime_missed.inc()
            self._listener.missed(waited)
