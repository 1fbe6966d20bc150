"""The limits that the database holds: written by a worker once, and compared ever after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from worker.jobs.waiting import UserLimits
from worker.runtime.readiness import Readiness
from worker.schedule import LimitsKeeper

OURS = UserLimits(
    max_in_flight_per_user=2,
    max_submissions_per_user_per_day=50,
    max_failed_preparations_per_user_per_hour=10,
    max_rows_per_user_per_day=200,
)


class Store:
    """The row of video_job_limits."""

    def __init__(self) -> None:
        self.row: dict[str, int] = {}
        self.writes = 0

    async def set_limits(self, limits: UserLimits) -> None:
        self.row, self.writes = limits.as_row(), self.writes + 1

    async def limits(self) -> Mapping[str, int]:
        return self.row


@pytest.fixture
def store() -> Store:
    return Store()


async def test_limits_are_written_once(store: Store) -> None:
    keeper = LimitsKeeper(cast("Any", store), OURS, Readiness())
    for _ in range(3):
        await keeper.compare()
    assert (store.row, store.writes) == (OURS.as_row(), 1)


async def test_two_workers_that_disagree_are_both_degraded_until_they_agree(store: Store) -> None:
    """The second one's limits hold; the first names what differs."""
    readiness = Readiness()
    keeper = LimitsKeeper(cast("Any", store), OURS, readiness)
    await keeper.compare()
    store.row = {**store.row, "max_in_flight_per_user": 9}
    await keeper.compare()
    assert readiness.reasons == [
        "limits: other limits are in force than this worker's settings: MAX_IN_FLIGHT_PER_USER=9; "
        "give all workers the same values and restart them"
    ]
    store.row = OURS.as_row()
    await keeper.compare()
    assert readiness.status == "ok"
