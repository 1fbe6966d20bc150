"""When a job is sent again by us, and how long to wait before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from worker.jobs.errors import CODES
from worker.jobs.job import Submission, SubmissionState

# How often one failure is answered with another submission within a try (the first one included).
SUBMISSIONS_PER_CODE: Mapping[str, int] = {"input_download_failed": 2, "run_failed": 2}
# How often a host is asked for the inputs of one job.
INPUT_TRIES = 3
INPUT_SECONDS = 120.0
"""How long all files of a job may take to arrive, in all tries together."""
# With less time left, another try could hardly succeed.
INPUT_LEAST_SECONDS = 10.0
INPUT_WAIT_SECONDS, SHORTEST_INPUT_WAIT, LONGEST_INPUT_WAIT = 10.0, 2.0, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecyclePolicy:
    """How patient decide() is; all durations in seconds, the price in US dollars."""

    max_submissions: int
    queue_deadline: float
    poll: float
    slow_poll: float
    soon: float
    patience: float
    """How long a missing run or a result without a video is asked for again."""
    unknown_wait: float | None
    """How long to wait for an unknown submission; None: until its ttl has passed."""
    retry_first: float
    gpu_price_per_second: Decimal | None
    missing_looks: int = 3
    report_patience: float = 1200.0
    """How long RunPod is asked about an end that only a webhook told of; it keeps results 1800."""
    cancel_again: float = 30.0
    retry_most: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a try without a video is over, or that it is sent again."""

    code: str
    message: str
    resend: bool


def verdict(ended: Sequence[Submission], *, max_submissions: int) -> Verdict:
    """Say what follows when every submission of a try has ended without a video.

    It depends on the submissions alone, never on the order in which their ends were seen:
    the latest one that was not cancelled tells why.
    """
    told = [sub for sub in ended if sub.error_code in CODES]
    told.sort(key=lambda sub: (sub.state is not SubmissionState.CANCELLED, sub.attempt))
    if not told:
        return Verdict(
            code="run_lost",
            message="The record of this job's run is gone. Try the job again; the operator should "
            "not delete rows of video_job_attempts by hand.",
            resend=False,
        )
    last = told[-1]
    code = str(last.error_code)
    message = last.error_message or CODES[code].meaning
    same = sum(sub.error_code == code for sub in ended)
    if not last.resend or same >= SUBMISSIONS_PER_CODE.get(code, max_submissions + 1):
        return Verdict(code=code, message=message, resend=False)
    if len(ended) >= max_submissions:
        return Verdict(
            code="too_many_submissions",
            message=f"{too_many(len(ended))} Last: {message}",
            resend=False,
        )
    return Verdict(code=code, message=message, resend=True)


def too_many(made: int) -> str:
    """Return why a job is not sent again though another submission might help."""
    return f"The job was submitted {made} times without a video, which is all that is permitted."


def input_wait(tries: int, seconds: float, asked: float | None) -> float | None:
    """Return the seconds to wait before a host is asked again; None if it had all its chances.

    It has failed `tries` times, within `seconds` in all, and asked for a pause of `asked` seconds.
    """
    if tries >= INPUT_TRIES or INPUT_SECONDS - seconds < INPUT_LEAST_SECONDS:
        return None
    wait = INPUT_WAIT_SECONDS * tries**2 if asked is None else asked
    return min(max(wait, SHORTEST_INPUT_WAIT), LONGEST_INPUT_WAIT)


def backoff(tries: int, *, first: float, most: float, jitter: float) -> float:
    """Return seconds before try number `tries` + 1; the caller draws `jitter` from 0 to 1.

    The wait lies between half and all of min(most, first * 2**(tries - 1)).
    """
    if tries < 1:
        return 0.0
    whole = min(most, first * 2.0 ** min(tries - 1, 60))
    return whole * (0.5 + 0.5 * min(max(jitter, 0.0), 1.0))
