"""Jobs, submissions and events for tests, with what matters given."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from tests.harness import POLICY, VIDEO
from worker.jobs.change import Change, Decision
from worker.jobs.events import Event, Observed
from worker.jobs.job import Case, Job, JobStatus, Submission, SubmissionState
from worker.jobs.lifecycle import decide
from worker.jobs.retry import LifecyclePolicy
from worker.jobs.run import RunState, RunUpdate


def job(status: str = "submitted", **values: Any) -> Job:
    """A row; the first attempt of its first try unless told otherwise."""
    plain: dict[str, Any] = {
        "id": "j", "user_id": None, "phase": "waiting_gpu", "attempt": 1, "try_number": 1,
        "revision": 7, "runpod_job_id": "r1",
    }  # fmt: skip
    return Job(status=JobStatus(status), **(plain | values))


def sub(state: str = "queued", attempt: int = 1, **values: Any) -> Submission:
    """A submission, with a run of its own unless its outcome is unknown."""
    known = state not in ("submitting", "unknown", "refused", "expired")
    plain: dict[str, Any] = {
        "job_id": "j", "try_number": 1, "endpoint_id": "e", "plan": {"expected_seconds": 1000},
        "runpod_job_id": f"r{attempt}" if known else None, "age": 100.0, "ttl_left": 9000.0,
        "next_poll_in": 10.0,
    }  # fmt: skip
    return Submission(state=SubmissionState(state), attempt=attempt, **(plain | values))


def seen(state: str, attempt: int = 1, **values: Any) -> Observed:
    """What /status says."""
    if state == "completed":
        values = {"video_url": VIDEO} | values
    update = RunUpdate(run_id=f"r{attempt}", state=RunState(state), **values)
    return Observed(attempt=attempt, update=update)


def decided(
    row: Job | None,
    *subs: Submission,
    event: Event,
    policy: LifecyclePolicy = POLICY,
    webhooks_work: bool = False,
) -> Decision:
    """What follows for a row and its submissions."""
    case = Case(job_id="j", job=row, submissions=subs)
    return decide(case, event, policy, webhooks_work=webhooks_work)


def written(case: Case, change: Change) -> Case:
    """The case after a change took, with no time passed."""
    row = case.job
    if row is not None and (change.job or change.job_instants):
        values = {name: v for name, v in change.job.items() if name in Job.__slots__}
        values["status"] = JobStatus(str(values.get("status", row.status)))
        if "lease_owner" in change.job:
            values["lease_left"] = None
        if "cost_usd" in values:
            values["cost_usd"] = Decimal(values["cost_usd"])
        row = replace(row, **values, revision=row.revision + 1)
    parts = {part.attempt: part for part in change.submissions}
    subs = []
    for before in case.submissions:
        if before.attempt in parts:
            part = parts[before.attempt]
            values = {name: v for name, v in part.values.items() if name in Submission.__slots__}
            values["state"] = SubmissionState(str(values.get("state", before.state)))
            if "cost_usd" in values:
                values["cost_usd"] = Decimal(values["cost_usd"])
            ages = {
                "cancel_asked_at": "cancel_asked_ago", "missing_since": "missing_for",
                "incomplete_since": "incomplete_for",
            }  # fmt: skip
            values |= {
                ages[name]: None if at is None else -at
                for name, at in part.instants.items()
                if name in ages
            }
            before = replace(before, **values)
        subs.append(before)
    return Case(job_id=case.job_id, job=row, submissions=tuple(subs))
