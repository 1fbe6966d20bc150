"""The daemon's loops: what each does in a tick, how often, and what wakes it."""

from __future__ import annotations

import asyncio

from worker.dispatch.dispatcher import Dispatcher
from worker.housekeeping import Housekeeper
from worker.jobs.waiting import UserLimits, sentences
from worker.reconcile.reconciler import Reconciler
from worker.runtime.loops import Heartbeats, Wakeup, every
from worker.runtime.metrics import METRICS
from worker.runtime.readiness import Readiness
from worker.runtime.watchdog import measure_lag
from worker.settings import Settings
from worker.supabase.realtime import ChangeHint, RealtimeListener
from worker.supabase.store import SupabaseStore

SLOWEST_TICK = 120.0
HOUR = 3600.0
# Places in line that are written into rows, and users that are counted anew, in a sweep.
PLACES = 200
RECOUNTED = 200


class Wakeups:
    """Wakes loops before their time."""

    def __init__(self) -> None:
        self.dispatch = Wakeup()
        self.reconcile = Wakeup()
        self.sweep = Wakeup()
        self.lease = Wakeup()
        self.prune = Wakeup()

    def hear(self, hint: ChangeHint) -> None:
        """A row was inserted or changed: wake only the loops that it concerns."""
        if hint.kind in ("insert", "retry"):
            self.dispatch.set()
        else:
            self.reconcile.set()
            self.lease.set()

    def look_again(self) -> None:
        """Changes may have gone unheard."""
        for wakeup in (self.dispatch, self.reconcile, self.sweep):
            wakeup.set()

    def all(self) -> None:
        """Let every loop see that it is over."""
        for wakeup in (self.dispatch, self.reconcile, self.sweep, self.lease, self.prune):
            wakeup.set()


class LimitsKeeper:
    """Writes the limits of users into the database, and notices when they are not ours."""

    def __init__(self, store: SupabaseStore, limits: UserLimits, readiness: Readiness) -> None:
        self._store = store
        self._limits = limits
        self._readiness = readiness
        self._written = False

    async def compare(self) -> None:
        """Write the limits the first time; afterwards report others that another worker wrote."""
        if not self._written:
            await self._store.set_limits(self._limits)
            self._written = True
        known, ours = await self._store.limits(), self._limits.as_row()
        differ = [name for name in ours if known.get(name) != ours[name]]
        others = [f"{name.upper()}={known.get(name)}" for name in differ]
        if others:
            reason = (
                f"other limits are in force than this worker's settings: {', '.join(others)}; "
                "give all workers the same values and restart them"
            )
            self._readiness.report("limits", reason)
        else:
            self._readiness.clear("limits")


class Schedule:
    """Starts the loops; its own is the sweep."""

    def __init__(
        self,
        settings: Settings,
        *,
        limits: UserLimits,
        store: SupabaseStore,
        housekeeper: Housekeeper,
        listener: RealtimeListener,
        dispatcher: Dispatcher,
        reconciler: Reconciler,
        wakeups: Wakeups,
        readiness: Readiness,
        beats: Heartbeats,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._limits_keeper = LimitsKeeper(store, limits, readiness)
        self._store = store
        self._housekeeper = housekeeper
        self._listener = listener
        self._dispatcher = dispatcher
        self._reconciler = reconciler
        self._wakeups = wakeups
        self._readiness = readiness
        self._beats = beats

    def start(self, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> list[asyncio.Task[None]]:
        """Start every loop; each ends after the tick in which `stop` is set."""
        settings, wakeups = self._settings, self._wakeups
        dispatcher, sweep_seconds = self._dispatcher, settings.sweep_seconds
        plans = (
            ("dispatch", lambda: dispatcher.tick(tasks), sweep_seconds, wakeups.dispatch),
            ("reconcile", self._reconciler.tick, sweep_seconds, wakeups.reconcile),
            ("sweep", self.sweep, sweep_seconds, wakeups.sweep),
            ("lease", dispatcher.renew, settings.lease_seconds / 3, wakeups.lease),
            ("prune", self._housekeeper.tick, HOUR, wakeups.prune),
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
                    readiness=self._readiness,
                    # Thousands of objects are removed in small batches; nothing waits for it.
                    slowest_tick=HOUR if name == "prune" else SLOWEST_TICK,
                ),
                name=name,
            )
            for name, tick, seconds, wakeup in plans
        ]
        return [*loops, tasks.create_task(measure_lag(stop, self._beats), name="lag")]

    async def sweep(self) -> float | None:
        """Find what no event told of: stranded rows, waiting rows, a Realtime that is silent."""
        await self._reconciler.sweep()
        await self._store.recount_users(RECOUNTED)
        await self._store.refresh_queue(PLACES, sentences(self._limits))
        await self._limits_keeper.compare()
        self._wakeups.dispatch.set()
        self._listener.check_missed()
        self._readiness.show("realtime", self._listener.problem)
        METRICS.count_jobs(await self._store.count())
        return None
