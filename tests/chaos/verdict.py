"""Holds rows, submissions and runs against each other when everything has come to rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from devstack.runpod.runs import State
from tests.chaos.people import People
from tests.world import World, run_key

TERMINAL = ("completed", "failed", "cancelled")
# Submissions that may be followed by another one in the same try.
CLOSED = ("expired", "lost", "failed", "cancelled", "refused")


@dataclass(slots=True)
class Verdict:
    """Figures for the table, and every broken invariant in words."""

    figures: dict[str, object] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


async def judge(world: World, people: People) -> Verdict:
    """Read everything and check the invariants."""
    verdict = Verdict()
    rows = {str(row["id"]): row for row in await world.sql("select * from public.video_jobs")}
    attempts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in await world.sql("select * from public.video_job_attempts order by attempt"):
        attempts[str(one["job_id"])].append(one)
    unknown = await world.sql(
        "select job_id::text, attempt from public.video_job_events "
        "where event = 'submission_unknown'"
    )
    runs: dict[str, list[Any]] = defaultdict(list)
    for run in world.runpod.runs:
        runs[run_key(run)[0]].append(run)
    for job_id in people.inserted:
        row = rows.get(job_id)
        if row is None:
            if job_id not in people.deleted:
                verdict.broken.append(f"lost: {job_id} vanished")
            continue
        verdict.broken += _check_row(row, runs[job_id], attempts[job_id], people)
    unknown_keys = {(one["job_id"], one["attempt"]) for one in unknown}
    for job_id, of_job in runs.items():
        verdict.broken += _check_runs(job_id, of_job, attempts[job_id])
    live = [run.id for run in world.runpod.runs if not run.state.terminal and not run.gone]
    verdict.broken += [f"run {run_id} is live without an owner" for run_id in live]
    _count(verdict, rows, runs, attempts, unknown_keys)
    return verdict


def _check_row(
    row: dict[str, Any], runs: list[Any], attempts: list[dict[str, Any]], people: People
) -> list[str]:
    job_id, status = str(row["id"]), row["status"]
    if status not in TERMINAL:
        return [f"not terminal: {job_id} is {status}/{row['phase']} ({row['phase_detail']})"]
    if status == "completed":
        names = [run for run in runs if run.state is State.COMPLETED and run.id in row["video_url"]]
        return [] if names else [f"wrong: {job_id} is completed with a video of no run of its own"]
    if status == "cancelled":
        asked = job_id in people.cancelled
        return [] if asked else [f"wrong: {job_id} is cancelled and nobody asked for it"]
    code = row["error_code"]
    reasons = {
        "audio_unreachable": job_id in people.bad,
        "run_timed_out": any("executionTimeout" in str(run.error) for run in runs),
        "result_missing": any(run.state is State.COMPLETED for run in runs),
        "run_lost": len(attempts) > 0,
        "too_many_submissions": len(attempts) > 2,
    }
    if reasons.get(code):
        return []
    return [f"wrong: {job_id} failed with {code}: {row['error_message']}"]


def _check_runs(job_id: str, runs: list[Any], attempts: list[dict[str, Any]]) -> list[str]:
    broken = []
    by_attempt = Counter(run_key(run)[1] for run in runs)
    known = {one["attempt"]: one for one in attempts}
    for attempt, count in by_attempt.items():
        if attempt not in known:
            broken.append(f"paid unseen: {job_id} attempt {attempt} has a run but no record")
        if count > 1:
            broken.append(f"paid twice: {job_id} attempt {attempt} has {count} runs")
    by_try: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for one in attempts:
        by_try[one["try_number"]].append(one)
    for of_try in by_try.values():
        for earlier in of_try[:-1]:
            if earlier["state"] not in CLOSED:
                broken.append(
                    f"paid twice: {job_id} was submitted again after attempt {earlier['attempt']} "
                    f"({earlier['state']})"
                )
    return broken


def _count(
    verdict: Verdict,
    rows: dict[str, dict[str, Any]],
    runs: dict[str, list[Any]],
    attempts: dict[str, list[dict[str, Any]]],
    unknown: set[tuple[str, int]],
) -> None:
    statuses = Counter(f"jobs {row['status']}" for row in rows.values())
    codes = Counter(f"failed: {row['error_code']}" for row in rows.values() if row["error_code"])
    states = Counter(one["state"] for of_job in attempts.values() for one in of_job)
    extra = sum(len(of_job) - len({run_key(run)[1] for run in of_job}) for of_job in runs.values())
    verdict.figures |= {
        "jobs": len(rows),
        **dict(sorted(statuses.items())),
        **dict(sorted(codes.items())),
        "runs accepted": sum(len(of_job) for of_job in runs.values()),
        "jobs with more than one run": sum(len(of_job) > 1 for of_job in runs.values()),
        "unexplained second runs": extra,
        "submissions that were unknown": len(unknown),
        "submissions lost (404)": states["lost"],
        "submissions given up": states["expired"],
        "submissions refused": states["refused"],
        "lost": sum(line.startswith(("lost", "not terminal")) for line in verdict.broken),
        "wrong": sum(line.startswith("wrong") for line in verdict.broken),
    }
