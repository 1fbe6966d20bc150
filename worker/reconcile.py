"""The way back: webhook and poll ask GET /status, the core decides, one guarded write follows."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from worker.core.change import Decision, Gone, Limits, NotAccepted, Nothing, Observation, Seen
from worker.core.errors import (
    OperatorFault,
    RunGone,
    RunPodUnavailable,
    StoreRefused,
    StoreUnavailable,
    TransientError,
)
from worker.core.evidence import Evidence, Round
from worker.core.health import Health
from worker.core.job import Case, Submission, SubmissionState
from worker.core.lifecycle import decide
from worker.core.run import RunState, RunUpdate, parse_run
from worker.metrics import METRICS
from worker.ports import JobStore, Media, RunPod

log = structlog.get_logger(__name__)

AT_ONCE = 32
PAGE = 200
MAX_ROUNDS = 8
FORGET_AFTER = 6 * 3600.0
# A round ends long before the watchdog would take a slow RunPod for a loop that is stuck.
LOOK_SECONDS = 45.0
# How long RunPod keeps a result.
RESULT_SECONDS = 1800.0
ENDED_KEPT = 10_000

Key = tuple[str, int]
News = tuple[Case, int, Observation]


@dataclass(slots=True)
class _Held:
    """An open run in memory, so that it is watched while the table is away."""

    endpoint_id: str
    run_id: str
    looked_at: float
    brought: RunUpdate | None = None

    def bring(self, update: RunUpdate) -> None:
        """Keep the end of the run; a completed one without a video must be looked at again."""
        if update.state.terminal and not (
            update.state is RunState.COMPLETED and update.video_url is None
        ):
            self.brought = update


class Reconciler:
    """Makes rows agree with runs; the only place where a run's news is applied."""

    def __init__(
        self,
        *,
        store: JobStore,
        runpod: RunPod,
        media: Media,
        limits: Limits,
        exclusive: bool = False,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.webhooks_work = False
        self.changed: Callable[[], None] = lambda: None
        self._store = store
        self._runpod = runpod
        self._media = media
        self._limits = limits
        self._exclusive = exclusive
        self._clock = clock
        self._jitter = jitter
        self._held: dict[Key, _Held] = {}
        self._evidence: dict[Key, Evidence] = {}
        self._ended_runs: OrderedDict[str, None] = OrderedDict()
        self._ended_so_far = 0
        self._discarded: set[Key] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._started = False
        self._after = ""

    def hold(self, job_id: str, attempt: int, endpoint_id: str, run_id: str) -> None:
        """Watch a run from now on, whether or not the table already knows of it."""
        self._held[job_id, attempt] = _Held(endpoint_id, run_id, self._clock())

    async def tick(self) -> float | None:
        """Look at every open submission that is due; returns seconds until the next one is."""
        try:
            cases = await self._due()
        except StoreUnavailable:
            await self._watch_from_memory()
            raise
        news = await self._look_at(cases)
        decisions = await self.apply(news)
        # Not before all runs are known: an end that was not counted would hide another.
        if self._exclusive and self._started:
            decisions += await self.apply(await self._search_evidence(cases))
        self._let_go()
        METRICS.open_runs.set(len(self._held))
        METRICS.runs_unwritten.set(sum(one.brought is not None for one in self._held.values()))
        if not self._started or len(cases) >= PAGE * 3 // 4:
            return 0.0  # a full page: there is more
        pauses = [
            part.poll_seconds
            for decision in decisions
            for part in decision.change.submissions
            if not part.ended
        ]
        return min(pauses, default=None)

    async def _due(self) -> list[Case]:
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

    async def _look_at(self, cases: Sequence[Case]) -> list[News]:
        open_ones = [(case, sub) for case in cases for sub in case.submissions if sub.state.open]
        # Another order each time: a round that is cut short must not leave out the same ones again.
        open_ones.sort(key=lambda _: self._jitter())
        health: dict[str, asyncio.Task[bool]] = {}
        async with asyncio.TaskGroup() as group:

            def healthy(endpoint_id: str) -> asyncio.Task[bool]:
                if endpoint_id not in health:
                    health[endpoint_id] = group.create_task(self._healthy(endpoint_id))
                return health[endpoint_id]

            looks = [group.create_task(self._observe(sub, healthy)) for _, sub in open_ones]
            await _in_time(looks)
            for asked in health.values():
                asked.cancel()
        seen_by = (None if look.cancelled() else look.result() for look in looks)
        found = zip(open_ones, seen_by, strict=True)
        return [(case, sub.attempt, seen) for (case, sub), seen in found if seen is not None]

    async def _observe(
        self, sub: Submission, healthy: Callable[[str], asyncio.Task[bool]]
    ) -> Observation | None:
        """One look at one submission; None when the provider is at fault and nothing is known."""
        if not sub.state.live or sub.runpod_job_id is None:
            return Nothing()
        key = (sub.job_id, sub.attempt)
        held = self._held.setdefault(key, _Held(sub.endpoint_id, sub.runpod_job_id, self._clock()))
        held.looked_at = self._clock()
        if held.brought is not None:
            return Seen(update=held.brought)
        try:
            update = await self._status(sub.runpod_job_id, sub.endpoint_id)
        except RunGone:
            return Gone(healthy=await healthy(sub.endpoint_id))
        except (OperatorFault, TransientError) as error:
            log.debug("run.not_seen", job_id=sub.job_id, run_id=held.run_id, reason=error.message)
            # RunPod has ended it and forgotten its result: no later answer can tell more.
            over = sub.ttl_left <= -RESULT_SECONDS
            return Gone(healthy=False) if over else None
        held.bring(update)
        return Seen(update=update)

    async def _status(self, run_id: str, endpoint_id: str) -> RunUpdate:
        async with self._slots:
            try:
                update = await self._runpod.status(run_id, endpoint_id=endpoint_id)
            except RunGone:
                METRICS.polls.labels("gone").inc()
                raise
            except (OperatorFault, TransientError):
                METRICS.polls.labels("unavailable").inc()
                raise
        METRICS.polls.labels(update.state.value).inc()
        return update

    async def _healthy(self, endpoint_id: str) -> bool:
        return await self._health(endpoint_id) is not None

    async def _health(self, endpoint_id: str) -> Health | None:
        try:
            return await self._runpod.health(endpoint_id=endpoint_id)
        except (OperatorFault, TransientError):
            return None

    async def _watch_from_memory(self) -> None:
        """The table is away: look at the runs we know of, and keep what they bring."""
        now = self._clock()
        due = [one for one in self._held.values() if now - one.looked_at >= self._limits.poll]

        async def look(one: _Held) -> None:
            one.looked_at = now
            if one.brought is not None:
                return
            try:
                update = await self._status(one.run_id, one.endpoint_id)
            except (RunGone, OperatorFault, TransientError):
                return
            one.bring(update)

        async with asyncio.TaskGroup() as group:
            await _in_time([group.create_task(look(one)) for one in due])
        METRICS.runs_unwritten.set(sum(one.brought is not None for one in self._held.values()))

    def _let_go(self) -> None:
        """Forget runs that the table has not brought up for long: another worker saw their end."""
        stale = self._clock() - FORGET_AFTER
        for key in [key for key, one in self._held.items() if one.looked_at < stale]:
            del self._held[key]

    async def webhook(self, job_id: str, attempt: int, body: object) -> str:
        """An authenticated webhook: a hint to ask /status. Returns what became of it.

        Raises StoreUnavailable or RunPodUnavailable so that RunPod sends it again.
        """
        said = _parsed(body)
        case = await self._store.case(job_id)
        sub = None if case is None else case.submission(attempt)
        if case is None or sub is None:
            return "unknown_job"
        self.webhooks_work = True
        if sub.runpod_job_id is None:
            if said is None:
                return "no_run_id"
            # Whoever knows the URL could name any run: RunPod itself must know this one.
            known = await self._known(said.run_id, sub.endpoint_id)
            recorded = await self._store.record(job_id, attempt, said.run_id)
            if recorded is None:
                return "unknown_job"
            log.info("run.adopted", job_id=job_id, attempt=attempt, run_id=said.run_id)
            case, sub = recorded.case, recorded.case.submission(attempt)
            if sub is not None and not recorded.wanted and not known.state.terminal:
                # The record already counts this cancel as asked, so nobody else would ask it soon.
                await self._cancel(sub)
        if sub is None or sub.runpod_job_id is None:
            return "unknown_job"
        if not sub.state.open and (case.job is None or case.job.status.terminal):
            return "known_already"
        return await self._apply_webhook(case, sub, sub.runpod_job_id, said)

    async def _known(self, run_id: str, endpoint_id: str) -> RunUpdate:
        try:
            return await self._status(run_id, endpoint_id)
        except RunGone as error:
            raise RunPodUnavailable(404, "RunPod does not know the webhook's run.") from error

    async def _apply_webhook(
        self, case: Case, sub: Submission, run_id: str, said: RunUpdate | None
    ) -> str:
        try:
            update = await self._status(run_id, sub.endpoint_id)
        except RunGone as error:
            # The body is only believed where the run would count as lost otherwise.
            missing = sub.missing_for is not None and sub.missing_for >= self._limits.missing
            if not missing or said is None or said.run_id != run_id or not said.state.terminal:
                raise RunPodUnavailable(404, "RunPod does not know the run just now.") from error
            update = said
        if sub.state.open:
            self.hold(sub.job_id, sub.attempt, sub.endpoint_id, run_id)
            self._held[sub.job_id, sub.attempt].bring(update)
        decisions = await self.apply([(case, sub.attempt, Seen(update=update))])
        return decisions[-1].outcome if decisions else "not_written"

    async def apply(self, news: Sequence[News]) -> list[Decision]:
        """Decide and write until each change took; what changed meanwhile is decided anew."""
        todo = list(news)
        done: list[Decision] = []
        rounds = MAX_ROUNDS + len(todo) // PAGE
        while todo and rounds > 0:
            rounds -= 1
            now: dict[str, tuple[Case, int, Observation, Decision]] = {}
            later: list[News] = []
            for case, attempt, seen in todo:
                # One change per job and call: the second must be decided on what the first made.
                if case.job_id in now or len(now) == PAGE:
                    later.append((case, attempt, seen))
                    continue
                decision = decide(
                    case,
                    attempt,
                    seen,
                    self._limits,
                    webhooks_work=self.webhooks_work,
                    jitter=self._jitter(),
                )
                now[case.job_id] = (case, attempt, seen, decision)
            todo = await self._write(now, later, done)
        for case, attempt, _ in todo:
            log.warning("run.update_given_up", job_id=case.job_id, attempt=attempt)
        return done

    async def _write(
        self,
        now: dict[str, tuple[Case, int, Observation, Decision]],
        later: list[News],
        done: list[Decision],
    ) -> list[News]:
        fresh: dict[str, Case] = {}
        again: list[News] = []
        changes = [decision.change for *_, decision in now.values()]
        try:
            written = await self._store.write(changes)
        except StoreRefused as error:
            if len(changes) == 1:
                log.error("run.update_refused", job_id=changes[0].job_id, reason=error.message)
                return later
            # One refused write must not hold up the others.
            for job_id, entry in now.items():
                again += await self._write({job_id: entry}, [], done)
            return again + later
        for answer in written:
            fresh[answer.job_id] = answer.case
            case, attempt, seen, decision = now[answer.job_id]
            if not answer.took:
                again.append((answer.case, attempt, seen))
                continue
            done.append(decision)
            await self._took(case, decision)
        return again + [(fresh.get(case.job_id, case), n, seen) for case, n, seen in later]

    async def _took(self, case: Case, decision: Decision) -> None:
        job = decision.change.job or {}
        for part in decision.change.submissions:
            if part.ended:
                await self._forget(case, part.attempt, decision)
        parts = decision.change.submissions
        sub = case.submission(parts[-1].attempt) if parts else None
        what = {
            "job_id": case.job_id,
            "attempt": sub.attempt if sub else None,
            "run_id": sub.runpod_job_id if sub else None,
            "outcome": decision.outcome,
        }
        if decision.change.completed:
            outcome = str(job.get("status"))
            code = job.get("error_code") or ""
            METRICS.jobs_ended.labels(outcome, code).inc()
            log.info("job.ended", **what, status=outcome, code=code or None)
        elif decision.outcome not in ("running", "waiting", "waiting_gpu", "unchanged"):
            log.info("job.changed", **what)
        if decision.cancel:
            await asyncio.gather(*(self._cancel(sub) for sub in decision.cancel))
        for sub in _unwanted(case, decision):
            await self._discard(sub)
        if job or decision.change.completed:
            self.changed()

    async def _forget(self, case: Case, attempt: int, decision: Decision) -> None:
        held = self._held.pop((case.job_id, attempt), None)
        self._evidence.pop((case.job_id, attempt), None)
        if held is not None:
            self._note_end(held.run_id)
            if held.brought is not None and held.brought.execution_ms is not None:
                METRICS.gpu_seconds.labels(held.brought.state.value).inc(
                    held.brought.execution_ms / 1000
                )
            if held.brought is not None and held.brought.delay_ms is not None:
                METRICS.queue_wait.observe(held.brought.delay_ms / 1000)
        sub = case.submission(attempt)
        if sub is not None and decision.outcome != "completed":
            await self._discard(sub)
            self._discarded.discard((case.job_id, attempt))

    async def _discard(self, sub: Submission) -> None:
        """Take the inputs away, once: a run that starts in spite of us dies at its download."""
        key = (sub.job_id, sub.attempt)
        if not sub.input_objects or key in self._discarded:
            return
        try:
            await self._media.discard(sub.input_objects)
            self._discarded.add(key)
        except (StoreUnavailable, StoreRefused) as error:
            log.warning("inputs.not_discarded", job_id=sub.job_id, reason=error.message)

    async def _cancel(self, sub: Submission) -> None:
        if sub.runpod_job_id is None:
            return
        try:
            await self._runpod.cancel(sub.runpod_job_id, endpoint_id=sub.endpoint_id)
            log.info("run.cancelled", job_id=sub.job_id, run_id=sub.runpod_job_id)
        except (RunGone, OperatorFault, TransientError) as error:
            # It is asked again while the run is seen alive.
            log.warning("run.cancel_failed", run_id=sub.runpod_job_id, reason=error.message)

    async def _search_evidence(self, cases: Sequence[Case]) -> list[News]:
        """On an endpoint of our own, /health can prove that an unknown POST was not accepted."""
        unknown = [
            (case, sub)
            for case in cases
            for sub in case.submissions
            if sub.state is SubmissionState.UNKNOWN and sub.endpoint_id == self._runpod.endpoint_id
        ]
        search = [
            (case, sub, self._evidence.setdefault((sub.job_id, sub.attempt), Evidence()))
            for case, sub in unknown
        ]
        search = [one for one in search if not one[2].hopeless]
        if not search:
            return []
        look = await self._round()
        if look is None:
            return []
        return [
            (case, sub.attempt, NotAccepted())
            for case, sub, evidence in search
            if evidence.add(look, age=sub.age)
        ]

    async def _round(self) -> Round | None:
        """All our runs by /status, then /health: the counters must not exceed what we know."""
        mine = [one for one in self._held.values() if one.endpoint_id == self._runpod.endpoint_id]

        async def live(one: _Held) -> bool:
            try:
                update = await self._status(one.run_id, one.endpoint_id)
            except (RunGone, OperatorFault, TransientError):
                return False
            one.bring(update)
            if update.state.terminal:
                self._note_end(one.run_id)
            return not update.state.terminal

        try:
            async with asyncio.timeout(LOOK_SECONDS):
                confirmed = sum(await asyncio.gather(*(live(one) for one in mine)))
                health = await self._health(self._runpod.endpoint_id)
        except TimeoutError:
            return None
        if health is None:
            return None
        return Round(
            at=self._clock(),
            health=health,
            confirmed_live=confirmed,
            ended_so_far=self._ended_so_far,
        )

    def _note_end(self, run_id: str) -> None:
        """Count each run's end once."""
        if run_id in self._ended_runs:
            return
        self._ended_so_far += 1
        self._ended_runs[run_id] = None
        if len(self._ended_runs) > ENDED_KEPT:
            self._ended_runs.popitem(last=False)


async def _in_time(looks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for the looks of one round; those that take too long are left for the next."""
    if looks:
        await asyncio.wait(looks, timeout=LOOK_SECONDS)
    for look in looks:
        look.cancel()


def _unwanted(case: Case, decision: Decision) -> tuple[Submission, ...]:
    """Submissions whose run must not render any more: cancelled, or never confirmed and unasked."""
    stopped = decision.outcome == "cancelling" or case.job is None
    unknown = (one for one in case.submissions if one.state is SubmissionState.UNKNOWN)
    return decision.cancel + (tuple(unknown) if stopped else ())


def _parsed(body: object) -> RunUpdate | None:
    try:
        return parse_run(body)
    except TransientError:
        return None
