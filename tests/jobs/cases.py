"""Jobs, submissions and observations for tests, with what matters given."""

from dataclasses import replace
from typing import Any

from worker.jobs.change import Change, Decision, Limits, Observation, Seen
from worker.jobs.job import Case, Job, JobStatus, Submission, SubmissionState
from worker.jobs.lifecycle import decide
from worker.jobs.run import RunState, RunUpdate

VIDEO = "https://r2.example/v.mp4"
LIMITS = Limits()


def job(status: str = "submitted", **values: Any) -> Job:
    """A row; the second attempt of its first try unless told otherwise."""
    plain: dict[str, Any] = {
        "id": "j", "user_id": None, "phase": "waiting_gpu", "attempt": 1, "try_number": 1,
        "submissions": 1, "revision": 7, "runpod_job_id": "r1",
    }  # fmt: skip
    return Job(status=JobStatus(status), **(plain | values))


def sub(state: str = "queued", attempt: int = 1, **values: Any) -> Submission:
    """A submission, with a run of its own unless its outcome is unknown."""
    known = state not in ("submitting", "unknown", "refused", "expired")
    plain: dict[str, Any] = {
        "job_id": "j", "try_number": 1, "endpoint_id": "e", "plan": {"expected_seconds": 1000},
        "runpod_job_id": f"r{attempt}" if known else None, "age": 100.0, "ttl_left": 9000.0,
    }  # fmt: skip
    return Submission(state=SubmissionState(state), attempt=attempt, **(plain | values))


def seen(state: str, **values: Any) -> Seen:
    """What /status says."""
    if state == "completed":
        values = {"video_url": VIDEO} | values
    return Seen(update=RunUpdate(run_id="r1", state=RunState(state), **values))


def judged(
    row: Job | None,
    *subs: Submission,
    look: Observation,
    attempt: int = 1,
    limits: Limits = LIMITS,
    webhooks_work: bool = False,
) -> Decision:
    """What follows for a row and its submissions."""
    case = Case(job_id="j", job=row, submissions=subs)
    return decide(case, attempt, look, limits, webhooks_work=webhooks_work, jitter=1.0)


def written(case: Case, change: Change) -> Case:
    """The case after a change took."""
    row = case.job
    if row is not None and change.job is not None:
        values = {k: v for k, v in change.job.items() if k in Job.__slots__}
        values["status"] = JobStatus(str(values.get("status", row.status)))
        row = replace(row, **values, revision=row.revision + 1, lease_left=None)
    parts = {part.attempt: part for part in change.submissions}
    subs = []
    for one in case.submissions:
        if one.attempt in parts:
            part = parts[one.attempt]
            values = {k: v for k, v in part.set.items() if k in Submission.__slots__}
            values["state"] = SubmissionState(str(values.get("state", one.state)))
            asked = 0.0 if part.cancel_asked else one.cancel_asked_ago
            one = replace(one, **values, cancel_asked_ago=asked)
        subs.append(one)
    return Case(job_id=case.job_id, job=row, submissions=tuple(subs))
