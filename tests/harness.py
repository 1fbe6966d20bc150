"""Dispatch and reconcile, wired as worker/app.py does, with everything around them faked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.fakes import FakeMedia, FakeRunPod, FakeStore, job_id
from tests.plan.policies import GUIDE
from tests.workflow import templates
from worker.dispatch.dispatcher import Dispatcher
from worker.dispatch.gate import SubmissionGate
from worker.dispatch.preparer import Preparer
from worker.dispatch.submitter import Submitter
from worker.jobs.events import Accepted, Event
from worker.jobs.job import Job
from worker.jobs.retry import LifecyclePolicy
from worker.jobs.run import RunState, RunUpdate
from worker.ports import ClaimLimits, NewSubmission
from worker.reconcile.effects import EffectRunner
from worker.reconcile.not_accepted import NotAcceptedDetector
from worker.reconcile.poller import Poller
from worker.reconcile.reconciler import Reconciler
from worker.reconcile.tracker import RunTracker
from worker.reconcile.updater import Applied, JobUpdater
from worker.runtime.readiness import Readiness

POLICY = LifecyclePolicy(
    max_submissions=3, queue_deadline=3600.0, poll=30.0, slow_poll=300.0, soon=5.0, patience=60.0,
    unknown_wait=None, retry_first=15.0, gpu_price_per_second=None,
)  # fmt: skip
LIMITS = ClaimLimits(
    max_in_flight=99, max_queued_runs=99, max_preparing=12,
)  # fmt: skip
SUBMISSION = NewSubmission(
    max_submissions=3, endpoint_id="endpoint", ttl_seconds=9000.0, template_hash="t",
    plan={"expected_seconds": 1000}, columns={}, input_objects=("inputs/a",),
)  # fmt: skip
VIDEO = "https://r2.example/v.mp4"
LEASE = 60.0


def update(state: RunState, run_id: str = "run-1", **values: Any) -> RunUpdate:
    """What /status says of a run."""
    return RunUpdate(run_id=run_id, state=state, **values)


def done(run_id: str = "run-1") -> RunUpdate:
    """A run that made its video."""
    return update(RunState.COMPLETED, run_id, video_url=VIDEO, execution_ms=60_000)


class Harness:
    """`store.now` is the database's clock and the monotonic one, `now` the boot clock."""

    def __init__(self, *, exclusive: bool = False, policy: LifecyclePolicy = POLICY) -> None:
        self.store, self.runpod, self.media = FakeStore(), FakeRunPod(), FakeMedia()
        self.readiness = Readiness()
        self.exclusive, self.policy, self.limits = exclusive, policy, LIMITS
        self.now = 1000.0
        self.slept: list[float] = []
        self.claimed: list[Job] = []
        self.changes = 0
        self.restart()

    def restart(self) -> None:
        """A new process: nothing is known from memory."""
        self.tracker = RunTracker(clock=lambda: self.store.now)
        poller = Poller(
            runpod=self.runpod,
            tracker=self.tracker,
            readiness=self.readiness,
            clock=lambda: self.store.now,
            jitter=lambda: 0.5,
        )
        self.detector = NotAcceptedDetector(
            runpod=self.runpod, poller=poller, tracker=self.tracker, clock=lambda: self.store.now
        )
        effects = EffectRunner(
            runpod=self.runpod, media=self.media, tracker=self.tracker, detector=self.detector
        )
        self.updater = JobUpdater(
            store=self.store,
            policy=self.policy,
            effects=effects,
            jitter=lambda: 0.5,
            on_change=self._on_change,
        )
        self.gate = SubmissionGate(
            runpod=self.runpod, readiness=self.readiness, clock=self.clock, jitter=lambda: 0.5
        )
        self.reconciler = Reconciler(
            store=self.store,
            updater=self.updater,
            poller=poller,
            tracker=self.tracker,
            detector=self.detector,
            effects=effects,
            policy=self.policy,
            clock=lambda: self.store.now,
            exclusive=self.exclusive,
            on_adopted=self.gate.record_adopted,
        )
        template = templates.load()
        preparer = Preparer(
            media=self.media,
            template=template,
            policy=GUIDE,
            readiness=self.readiness,
            own_addresses=("storage://",),
            clock=self.clock,
            jitter=lambda: 0.5,
        )
        submitter = Submitter(
            store=self.store,
            runpod=self.runpod,
            preparer=preparer,
            gate=self.gate,
            updater=self.updater,
            tracker=self.tracker,
            effects=effects,
            readiness=self.readiness,
            template=template,
            limits=self.limits,
            max_submissions=self.policy.max_submissions,
            lease_seconds=LEASE,
            webhook_url=lambda job, attempt: f"https://w/{job}/{attempt}",
            clock=self.clock,
            sleep=self.sleep,
        )
        self.dispatcher = Dispatcher(
            store=self.store,
            gate=self.gate,
            submitter=submitter,
            updater=self.updater,
            limits=self.limits,
            clock=self.clock,
            on_claim=self.claimed.append,
            on_room=lambda: None,
        )

    def _on_change(self) -> None:
        self.changes += 1

    def clock(self) -> float:
        """Seconds since boot."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """No time passes, but others get their turn."""
        self.slept.append(seconds)
        await asyncio.sleep(0)

    async def dispatch(self) -> float | None:
        """One tick of the dispatcher, and all that it started."""
        async with asyncio.TaskGroup() as tasks:
            return await self.dispatcher.tick(tasks)

    async def during(
        self, reached: asyncio.Event, act: Callable[[], Awaitable[Any]], *gates: asyncio.Event
    ) -> None:
        """A tick of the dispatcher, in the middle of which something happens."""
        async with asyncio.TaskGroup() as tasks:
            await self.dispatcher.tick(tasks)
            await reached.wait()
            await act()
            for gate in gates:
                gate.set()

    async def pass_time(self, seconds: float) -> float | None:
        """Time passes, and the reconciler ticks."""
        self.store.now += seconds
        return await self.reconciler.tick()

    async def apply(self, number: int, event: Event) -> Applied:
        """An event happens to a row as it is now."""
        return await self.updater.apply_one(self.store.look(job_id(number)), event)

    async def submitted(self, number: int = 1, run_id: str | None = None) -> None:
        """A row whose run is recorded; with run_id '' its POST got no answer."""
        if number not in (int(key[-1]) for key in self.store.rows):
            self.store.insert(number)
        (case,) = await self.store.claim(1, LIMITS, holding=list(self.store.rows))
        assert case.job is not None
        await self.store.begin(case.job, SUBMISSION, LIMITS)
        if run_id == "":
            self.store.now += LEASE + 1
            await self.reconciler.sweep()
            return
        run_id = run_id or f"run-{number}"
        self.runpod.runs.setdefault(run_id, update(RunState.QUEUED, run_id))
        await self.apply(number, Accepted(attempt=case.job.attempt, run_id=run_id))
