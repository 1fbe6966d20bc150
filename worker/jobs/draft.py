"""Puts a decision together: the row's change, the submissions' changes, and the effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from worker.jobs.change import Change, Decision, Effects, Kind, SubmissionChange
from worker.jobs.job import Case, Job, Submission
from worker.jobs.observation import SubmissionUpdate
from worker.jobs.retry import LifecyclePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A decision on a case to be: what the event made of the submissions is in it already."""

    case: Case
    after: Case
    updates: tuple[SubmissionUpdate, ...]
    policy: LifecyclePolicy

    def cancel_due(self, sub: Submission) -> bool:
        """Whether RunPod is to be asked to stop it, for the first time or again."""
        return sub.cancel_asked_ago is None or sub.cancel_asked_ago >= self.policy.cancel_again

    def abandon(self, subs: list[Submission]) -> tuple[Submission, ...]:
        """Return those to take the inputs from: without them, an unwanted run ends soon."""
        stoppable = (sub for sub in subs if sub.nameless or sub.state.live)
        return tuple(sub for sub in stoppable if sub.cancel_asked_ago is None)

    def if_new(self, job: Job, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values if any differs: each write is an event for every browser."""
        same = all(getattr(job, name) == value for name, value in values.items())
        return {} if same and job.lease_left is None else values

    def build(
        self,
        kind: Kind,
        job: Mapping[str, Any] | None = None,
        instants: Mapping[str, float | None] | None = None,
        *,
        cancel: tuple[Submission, ...] = (),
        discard: tuple[Submission, ...] = (),
        code: str | None = None,
    ) -> Decision:
        """Put together the row's change, the submissions' changes, and the effects."""
        row = self.case.job
        values, moments = dict(job or {}), dict(instants or {})
        ended = [update.now for update in self.updates if update.ended]
        lease_left = None if row is None or not values else row.lease_left
        if lease_left is not None:
            values |= {"lease_owner": None, "lease_expires_at": None}
        if row is not None:
            values |= self._cost(row, ended)
        change = Change(
            job_id=self.case.job_id,
            revision=None if row is None else row.revision,
            states=self.case.states,
            job=values,
            job_instants=moments,
            submissions=self._submission_changes({sub.attempt for sub in (*cancel, *discard)}),
        )
        return Decision(
            change=change,
            kind=kind,
            code=code,
            effects=Effects(
                cancel=cancel,
                discard=(*ended, *discard),
                ended=tuple(sub.attempt for sub in ended),
                lease_expired=lease_left is not None and lease_left < 0,
            ),
        )

    def _cost(self, row: Job, ended: list[Submission]) -> dict[str, Any]:
        """What the ended submissions add to the row's cost, over all its tries."""
        added = Decimal(0)
        for sub in ended:
            before = self.case.submission(sub.attempt)
            if sub.cost_usd is not None:
                added += sub.cost_usd - ((before and before.cost_usd) or 0)
        return {"cost_usd": str((row.cost_usd or Decimal(0)) + added)} if added else {}

    def _submission_changes(self, asked: set[int]) -> tuple[SubmissionChange, ...]:
        """Add to the event's own changes which runs are asked to end, and when to look again."""
        changes = {update.now.attempt: update.change for update in self.updates}
        for sub in self.after.submissions:
            mine = changes.get(sub.attempt)
            stopping = sub.state.live and sub.cancel_asked_ago is not None
            if sub.attempt not in asked and not (mine is not None and stopping):
                continue
            mine = mine or SubmissionChange(attempt=sub.attempt)
            instants = {**mine.instants, "next_poll_at": self.policy.soon}
            if sub.attempt in asked:
                instants["cancel_asked_at"] = 0.0
            changes[sub.attempt] = replace(mine, instants=instants)
        return tuple(changes[attempt] for attempt in sorted(changes))
