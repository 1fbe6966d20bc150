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
from worker.ports import Jitter, JobStore, Written
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
        self.webhooks_work = False
        self._store = store
        self._policy = policy
        self._effects = effects
        self._jitter = jitter
        self._on_change = on_change

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
        decisions = {number: self._decide(case, event) for number, (case, event) in batch.items()}
        changes = [decision.change for decision in decisions.values() if not decision.change.empty]
        try:
            answers = await self._store.write(changes) if changes else []
        except StoreRefused as error:
            if len(batch) == 1:
                ((number, (case, _)),) = batch.items()
                log.error("job.update_refused", job_id=case.job_id, reason=error.message)
                outcome[number] = Applied(case=case, reason=error.message, refused=True)
                return {}
            # One refused write must not hold up the others.
            fresh: dict[str, Case] = {}
            for number, news in batch.items():
                fresh |= await self._write({number: news}, outcome)
            return fresh
        written = {answer.job_id: answer for answer in answers}
        for number, (case, _) in batch.items():
            answer = written.get(case.job_id)
            applied = await self._took(case, decisions[number], answer)
            if applied is not None:
                outcome[number] = applied
        return {answer.job_id: answer.case for answer in answers}

    def _decide(self, case: Case, event: Event) -> Decision:
        return decide(
            case,
            event,
            self._policy,
            webhooks_work=self.webhooks_work,
            jitter=self._jitter(),
        )

    async def _took(self, case: Case, decision: Decision, answer: Written | None) -> Applied | None:
        """Act on a decision that took; None when it must be decided again."""
        if answer is not None and answer.locked:
            log.warning("job.row_locked", job_id=case.job_id)
            return Applied(case=answer.case, reason="the row is locked by somebody else")
        if answer is not None and not answer.took:
            return None
        await self._effects.run(case, decision)
        if decision.change.job:
            self._on_change()
        return Applied(case=case if answer is None else answer.case, decision=decision)
