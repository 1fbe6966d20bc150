"""Makes rows agree with runs: polls and webhooks bring events, the updater applies them."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import structlog

from worker.jobs.errors import (
    OperatorFault,
    RunGone,
    RunPodUnavailable,
    StoreUnavailable,
    TransientError,
)
from worker.jobs.events import Accepted, Observed, Reported, Reviewed
from worker.jobs.job import Case, Submission
from worker.jobs.retry import LifecyclePolicy
from worker.jobs.run import RunUpdate, parse_run
from worker.ports import Clock, JobStore
from worker.reconcile.effects import EffectRunner
from worker.reconcile.not_accepted import NotAcceptedDetector
from worker.reconcile.poller import Poller
from worker.reconcile.tracker import RunTracker
from worker.reconcile.updater import PAGE, Applied, JobUpdater

log = structlog.get_logger(__name__)

UNNAMED_SECONDS = 60.0
UNNAMED = 20


class WebhookResult(StrEnum):
    """What became of a signed webhook."""

    APPLIED = "applied"
    NOT_WRITTEN = "not_written"
    UNKNOWN_JOB = "unknown_job"
    NO_RUN_ID = "no_run_id"
    KEPT = "kept"
    ALREADY_ENDED = "already_ended"


class Reconciler:
    """Polls what is due, reviews what is stranded, and answers webhooks."""

    def __init__(
        self,
        *,
        store: JobStore,
        updater: JobUpdater,
        poller: Poller,
        tracker: RunTracker,
        detector: NotAcceptedDetector,
        effects: EffectRunner,
        policy: LifecyclePolicy,
        clock: Clock,
        exclusive: bool,
        on_adopted: Callable[[], None],
    ) -> None:
        self._store = store
        self._updater = updater
        self._poller = poller
        self._tracker = tracker
        self._detector = detector
        self._effects = effects
        self._policy = policy
        self._clock = clock
        self._exclusive = exclusive
        self._on_adopted = on_adopted
        self._started = False
        self._after = ""

    async def tick(self) -> float | None:
        """Poll every open submission that is due; return seconds until the next one is."""
        try:
            cases = await self._due()
        except StoreUnavailable:
            await self._poller.poll_from_memory(self._policy.poll)
            raise
        applied = await self._updater.apply(await self._poller.poll(cases))
        # Not before all runs are known: an end that was not counted would hide another.
        if self._exclusive and self._started:
            applied += await self._updater.apply(await self._detector.search(cases))
        self._tracker.forget_stale()
        self._tracker.count()
        if not self._started or len(cases) >= PAGE * 3 // 4:
            return 0.0  # a full page: there is more
        return _next_poll(applied)

    async def _due(self) -> list[Case]:
        """Return the cases whose poll is due; after the start every open one, page by page."""
        if self._started:
            return await self._store.take_due(PAGE)
        cases: list[Case] = []
        after = self._after
        while page := await self._store.take_due(PAGE, everything_after=after):
            cases += page
            # A row that fell due meanwhile may come out of order.
            after = max(after, page[-1].job_id)
            if len(cases) >= PAGE // 2:
                break  # the next tick goes on from here
        self._after, self._started = after, not page
        return cases

    async def sweep(self) -> None:
        """Review what no poll brings up: expired leases, lost senders, rows without a run."""
        await self._sweep_stranded()
        await self._sweep_unnamed()

    async def _sweep_unnamed(self) -> None:
        """Ask for runs in memory that the table has not named for long.

        Another worker may have written their end, or our write took and its answer was lost. A
        run that the table does not know at all, since it was restored to an earlier moment, is
        cancelled: nobody would ever see its video.
        """
        for key, run in self._tracker.unnamed(self._policy.slow_poll + UNNAMED_SECONDS)[:UNNAMED]:
            job_id, attempt = key
            case = await self._store.case(job_id)
            sub = None if case is None else case.submission(attempt)
            if sub is not None and sub.state.open:
                run.named_at = self._clock()
                continue
            known = case is not None and case.job is not None and case.job.attempt >= attempt
            if sub is None and not known:
                log.warning("run.not_in_table", job_id=job_id, run_id=run.run_id)
                await self._effects.cancel_run(run.run_id, run.endpoint_id, job_id=job_id)
            self._tracker.finish(key)
            self._detector.note_end(run.run_id)

    async def _sweep_stranded(self) -> None:
        after: str | None = None
        while page := await self._store.stranded(PAGE, after=after):
            await self._updater.apply([(case, Reviewed()) for case in page])
            after = page[-1].job_id
            if len(page) < PAGE:
                return

    async def webhook(self, job_id: str, attempt: int, body: object) -> WebhookResult:
        """Take a signed webhook as a hint to ask /status.

        Raises StoreUnavailable or RunPodUnavailable, so that RunPod sends it again.
        """
        said = _parsed(body)
        case = await self._store.case(job_id)
        sub = None if case is None else case.submission(attempt)
        if case is None or sub is None:
            if said is not None:
                seconds = (said.execution_ms or 0) / 1000
                log.warning("run.orphaned", run_id=said.run_id, gpu_seconds=seconds)
            return WebhookResult.UNKNOWN_JOB
        self._updater.note_webhook()
        run_id = sub.runpod_job_id
        if run_id is None:
            if said is None:
                return WebhookResult.NO_RUN_ID
            adopted = await self._adopt(case, sub, said.run_id)
            case, sub = adopted.case, adopted.case.submission(attempt)
            if sub is None or (run_id := sub.runpod_job_id) is None:
                return WebhookResult.UNKNOWN_JOB if adopted.refused else WebhookResult.NOT_WRITTEN
        if not sub.state.open and (case.job is None or case.job.status.terminal):
            return WebhookResult.ALREADY_ENDED
        try:
            update = await self._confirmed(sub, run_id, said)
        except (OperatorFault, TransientError):
            # RunPod forgets a result after 30 minutes, and sends this webhook but a few times.
            if said is None or not await self._kept(case, attempt, said):
                raise
            return WebhookResult.KEPT
        if sub.state.open:
            # Kept in memory in case the table is away, until its end is written.
            self._tracker.track((job_id, attempt), sub.endpoint_id, run_id).note(update)
        applied = await self._updater.apply_one(case, Observed(attempt=attempt, update=update))
        return WebhookResult.NOT_WRITTEN if applied.reason else WebhookResult.APPLIED

    async def _adopt(self, case: Case, sub: Submission, run_id: str) -> Applied:
        """Give a submission the run that its webhook names, if RunPod itself knows that run."""
        try:
            await self._poller.status(run_id, sub.endpoint_id)
        except RunGone as error:
            raise RunPodUnavailable(404, "RunPod does not know the webhook's run.") from error
        applied = await self._updater.apply_one(case, Accepted(attempt=sub.attempt, run_id=run_id))
        if applied.decision is not None:
            self._on_adopted()
            log.info("run.adopted", job_id=case.job_id, attempt=sub.attempt, run_id=run_id)
        return applied

    async def _kept(self, case: Case, attempt: int, said: RunUpdate) -> bool:
        """Keep what the webhook said of the run's end; True once it is in the table."""
        applied = await self._updater.apply_one(case, Reported(attempt=attempt, update=said))
        sub = applied.case.submission(attempt)
        return sub is not None and sub.reported is not None

    async def _confirmed(self, sub: Submission, run_id: str, said: RunUpdate | None) -> RunUpdate:
        """Return what /status says; the body counts only where the run would be lost otherwise."""
        try:
            return await self._poller.status(run_id, sub.endpoint_id)
        except RunGone as error:
            missing = sub.missing_for is not None and sub.missing_for >= self._policy.patience
            if not missing or said is None or said.run_id != run_id or not said.state.terminal:
                raise RunPodUnavailable(404, "RunPod does not know the run just now.") from error
            return said


def _next_poll(applied: list[Applied]) -> float | None:
    pauses = [
        seconds
        for entry in applied
        if entry.decision is not None
        for change in entry.decision.change.submissions
        if (seconds := change.instants.get("next_poll_at")) is not None
    ]
    return min(pauses, default=None)


def _parsed(body: object) -> RunUpdate | None:
    try:
        return parse_run(body)
    except TransientError:
        return None
