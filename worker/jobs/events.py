"""What can happen to a case: each event is a fact, and decide() says what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from worker.jobs.job import Case
from worker.jobs.run import RunUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """GET /status answered; or a signed webhook said so where /status cannot be asked."""

    attempt: int
    update: RunUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A signed webhook told of the end of a known run, and RunPod cannot be asked about it now."""

    attempt: int
    update: RunUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFound:
    """GET /status answered 404; `healthy`: the endpoint's /health answered meanwhile."""

    attempt: int
    healthy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NotAccepted:
    """Evidence says that an unknown submission never reached RunPod's queue."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """RunPod has taken the POST: it answered with the run's id, or a webhook named it."""

    attempt: int
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No run exists: the POST was not sent or not taken. With a `code` the job can never succeed.

    Without one it is sent again after `retry_seconds`.
    """

    attempt: int
    reason: str
    retry_seconds: float = 0.0
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeUnknown:
    """The POST may have been taken: nothing is sent again until that is known."""

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The claimed job can never succeed as it is, and nothing was sent."""

    attempt: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The claim ends with nothing sent, for reasons that pass; `detail` is shown to the user."""

    attempt: int
    retry_seconds: float = 0.0
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputNotDelivered:
    """A host did not deliver an input of the claimed job, and nothing was sent.

    `code` and `message` are what the job ends with if it stays so. The files were being fetched for
    `seconds`; the host asked for a pause of `retry_in` seconds.
    """

    attempt: int
    code: str
    message: str
    seconds: float
    retry_in: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """No news. What the case itself says is due: requests of people, leases, deadlines."""


SubmissionEvent = Observed | Reported | NotFound | NotAccepted | Accepted | Refused | OutcomeUnknown
Event = SubmissionEvent | Rejected | Released | InputNotDelivered | Reviewed

News = tuple[Case, Event]
"""An event, and the case that it was seen on."""
