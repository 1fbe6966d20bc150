"""Events become rows here: decide, write, act. The only caller of decide() in the daemon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from worker.jobs.change import Decision
from worker.jobs.errors import StoreRefused
from worker.jobs.events import Event, News
from worker.jobs.job import Case
from worker.jobs.lifecycle import decide
from worker.jobs.retry import LifecyclePolicy
from worker.ports import Jitter, JobStore
from worker.reconcile.effects import EffectRunner

log = structlog.get_logger(__name__)

PAGE = 200
MAX_ROUNDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of an event; without a decision nothing was written, and `reason` says why."""

    case: Case
    decision: Decision | None = None
    reason: str | None = None
    refused: bool = False


class JobUpdater:
    """Applies events to jobs; whatever changed meanwhile is decided anew on what it is now."""

    def __init__(
        self,
        *,
        store: JobStore,
        policy: LifecyclePolicy,
        effects: EffectRunner,
        jitter: Jitter,
        on_change: Callable[[], None],
    ) -> None:
        self._webhooks_work = False
        self._store = store
        self._policy = policy
        self._effects = effects
        self._jitter = jitter
        self._on_change = on_change

    def note_webhook(self) -> None:
        """Remember that webhooks arrive: silent runs are then polled less often."""
        self._webhooks_work = True

    async def apply_one(self, case: Case, event: Event) -> Applied:
        """Apply one event; StoreUnavailable when the table is away."""
        (applied,) = await self.apply([(case, event)])
        return applied

    async def apply(self, news: Sequence[News]) -> list[Applied]:
        """Apply events, many jobs in one write; returns what became of each, in their order."""
        outcome: dict[int, Applied] = {}
        waiting = list(enumerate(news))
        rounds = MAX_ROUNDS + len(waiting) // PAGE
        while waiting and rounds > 0:
            rounds -= 1
            batch: dict[str, int] = {}
            for number, (case, _) in waiting:
                # One change per job and call: the next is decided on what this one made.
                if case.job_id not in batch and len(batch) < PAGE:
                    batch[case.job_id] = number
            events = dict(waiting)
            fresh = await self._write({n: events[n] for n in batch.values()}, outcome)
            waiting = [
                (number, (fresh.get(case.job_id, case), event))
                for number, (case, event) in waiting
                if number not in outcome
            ]
        for number, (case, event) in waiting:
            log.warning("job.update_given_up", job_id=case.job_id, happened=type(event).__name__)
            outcome[number] = Applied(case=case, reason="the row changed each time")
        return [outcome[number] for number in range(len(news))]

    async def _write(self, batch: dict[int, News], outcome: dict[int, Applied]) -> dict[str, Case]:
        """Decide and write one event for each job; returns the cases as they are now."""
        decisions = self._decide_all(batch, outcome)
        changes = [decision.change for decision in decisions.values() if not decision.change.empty]
        try:
            answers = await self._store.write(changes) if changes else []
        except StoreRefused as error:
            if len(batch) == 1:
                ((number, (case, _)),) = batch.items()
                log.error("job.update_refused", job_id=case.job_id, reason=error.message)
                outcome[number] = Applied(case=case, reason=error.message, refused=True)
                return {}
            # One refused write must not hold up the others: it is found by halving.
            items = list(batch.items())
            middle = len(items) // 2
            fresh = await self._write(dict(items[:middle]), outcome)
            return fresh | await self._write(dict(items[middle:]), outcome)
        written = {answer.job_id: answer for answer in answers}
        took: list[tuple[Case, Decision]] = []
        now: list[Case] = []
        for number, decision in decisions.items():
            case = batch[number][0]
            answer = written.get(case.job_id)
            if answer is not None and answer.locked:
                log.warning("job.row_locked", job_id=case.job_id)
                reason = "the row is locked by somebody else"
                outcome[number] = Applied(case=answer.case, reason=reason)
            elif answer is None or answer.took:
                after = case if answer is None else answer.case
                outcome[number] = Applied(case=after, decision=decision)
                took.append((case, decision))
                now.append(after)
        self._effects.settle(took, now)
        await self._effects.run(took)
        if any(decision.frees_room for _, decision in took):
            self._on_change()
        return {answer.job_id: answer.case for answer in answers}

    def _decide_all(
        self, batch: dict[int, News], outcome: dict[int, Applied]
    ) -> dict[int, Decision]:
        """Decide each by itself; one that cannot be decided is set aside, and the others go on."""
        decisions: dict[int, Decision] = {}
        for number, (case, event) in batch.items():
            try:
                decisions[number] = decide(
                    case,
                    event,
                    self._policy,
                    webhooks_work=self._webhooks_work,
                    jitter=self._jitter(),
                )
            except Exception:
                log.exception("job.undecidable", job_id=case.job_id)
                reason = "the row cannot be decided on"
                outcome[number] = Applied(case=case, reason=reason, refused=True)
        return decisions
