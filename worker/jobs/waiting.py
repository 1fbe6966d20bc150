"""What a waiting row says: the sentences for people, and the limits of a user that they tell of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

IN_LINE = "Waiting in line."
"""Also the first sentence of a new row, in sql/migrations/0002_guards.sql."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLimits:
    """What one user may have; the columns of video_job_limits, which the database holds."""

    max_in_flight_per_user: int
    max_submissions_per_user_per_day: int
    max_failed_preparations_per_user_per_hour: int
    max_rows_per_user_per_day: int

    def as_row(self) -> dict[str, int]:
        """Return the columns of video_job_limits."""
        return asdict(self)


def sentences(limits: UserLimits) -> Mapping[str, str]:
    """Return what a row says for each value of video_job_users.held, and when nothing holds it."""
    return {
        "in_line": IN_LINE,
        "in_flight": "Waiting for another of your jobs to finish "
        f"({limits.max_in_flight_per_user} at a time).",
        "submissions": f"Waiting: the limit of {limits.max_submissions_per_user_per_day} "
        "submissions in 24 hours is reached.",
        "preparations": "Waiting: the files of "
        f"{limits.max_failed_preparations_per_user_per_hour} of your jobs could not be used within "
        "the last hour. The next one is tried when that hour is over.",
    }
