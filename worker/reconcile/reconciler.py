"""The way back: webhook or poll bring news, the core decides, one guarded write follows."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import structlog

from worker.jobs.change import Decision, Limits, Observation, Seen
from worker.jobs.errors import (
    RunGone,
    RunPodUnavailable,
    StoreRefused,
    StoreUnavailable,
    TransientError,
)
from worker.jobs.job import Case, Submission
from worker.jobs.lifecycle import decide
from worker.jobs.run import RunUpdate, parse_run
from worker.ports import JobStore, Media, RunPod
from worker.reconcile.effects import FollowUp
from worker.reconcile.poller import News, RunWatch
from worker.reconcile.proof import ProofSearch

log = structlog.get_logger(__name__)

PAGE = 200
MAX_ROUNDS = 8


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
        self._limits = limits
        self._exclusive = exclusive
        self._jitter = jitter
        self._watch = RunWatch(runpod=runpod, poll_seconds=limits.poll, clock=clock, jitter=jitter)
        self._proof = ProofSearch(runpod=runpod, watch=self._watch, clock=clock)
        self._follow_up = FollowUp(runpod=runpod, media=media)
        self._started = False
        self._after = ""

    def hold(self, job_id: str, attempt: int, endpoint_id: str, run_id: str) -> None:
        """Watch a run from now on, whether or not the table already knows of it."""
        self._watch.hold((job_id, attempt), endpoint_id, run_id)

    async def tick(self) -> float | None:
        """Look at every open submission that is due; returns seconds until the next one is."""
        try:
            cases = await self._due()
        except StoreUnavailable:
            await self._watch.look_from_memory()
            raise
        news = await self._watch.look_at(cases)
        decisions = await self.apply(news)
        # Not before all runs are known: an end that was not counted would hide another.
        if self._exclusive and self._started:
            decisions += await self.apply(await self._proof.search(cases))
        self._watch.forget_stale()
        self._watch.count()
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
                await self._follow_up.cancel(sub)
        if sub is None or sub.runpod_job_id is None:
            return "unknown_job"
        if not sub.state.open and (case.job is None or case.job.status.terminal):
            return "known_already"
        return await self._apply_webhook(case, sub, sub.runpod_job_id, said)

    async def _known(self, run_id: str, endpoint_id: str) -> RunUpdate:
        try:
            return await self._watch.status(run_id, endpoint_id)
        except RunGone as error:
            raise RunPodUnavailable(404, "RunPod does not know the webhook's run.") from error

    async def _apply_webhook(
        self, case: Case, sub: Submission, run_id: str, said: RunUpdate | None
    ) -> str:
        try:
            update = await self._watch.status(run_id, sub.endpoint_id)
        except RunGone as error:
            # The body is only believed where the run would count as lost otherwise.
            missing = sub.missing_for is not None and sub.missing_for >= self._limits.missing
            if not missing or said is None or said.run_id != run_id or not said.state.terminal:
                raise RunPodUnavailable(404, "RunPod does not know the run just now.") from error
            update = said
        if sub.state.open:
            self._watch.hold((sub.job_id, sub.attempt), sub.endpoint_id, run_id).bring(update)
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
        change = decision.change
        for part in change.submissions:
            if part.ended:
                key = (case.job_id, part.attempt)
                held = self._watch.let_go(key)
                self._proof.drop(key)
                if held is not None:
                    self._proof.note_end(held.run_id)
        await self._follow_up.after(case, decision)
        if change.job or change.completed:
            self.changed()


def _parsed(body: object) -> RunUpdate | None:
    try:
        return parse_run(body)
    except TransientError:
        return None
