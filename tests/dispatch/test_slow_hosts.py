"""Hosts that hold places on purpose: real sockets, real decisions, and no time but waiting."""

import asyncio
from dataclasses import replace

import pytest

from tests import idle_time
from tests.data.media.hosts import host
from tests.jobs.cases import decided, job, written
from tests.media.test_fetch import answering, dripping, dripping_head, silent
from tests.media.test_inputs import POLICY
from worker.jobs.errors import InputUnavailable
from worker.jobs.events import InputNotDelivered
from worker.jobs.job import Case, Job, JobStatus
from worker.jobs.retry import INPUT_SECONDS, INPUT_TRIES
from worker.media.fetch import Fetcher
from worker.media.inputs import InputMedia


async def until_it_ends(answer) -> tuple[list[float], Job]:
    """Try a job whose files both come from such a host; return the seconds of each try."""
    row, held = job("preparing", lease_left=30.0), []
    clock = asyncio.get_running_loop().time
    async with host({"/i": answer, "/a": answer}) as site:
        base = f"http://127.0.0.1:{site.port}"
        fetcher = Fetcher(
            allow_private_hosts=[base.removeprefix("http://")], resolver=answering("127.0.0.1")
        )
        media = InputMedia(policy=POLICY, fetcher=fetcher)
        while not row.status.terminal:
            began = clock()
            with pytest.raises(InputUnavailable) as failed:
                async with media.open(
                    image_url=f"{base}/i",
                    audio_url=f"{base}/a",
                    user_id=None,
                    seconds=INPUT_SECONDS - row.input_seconds,
                ):
                    pass
            held.append(clock() - began)
            error = failed.value
            assert error.seconds == pytest.approx(held[-1], abs=0.1)
            event = InputNotDelivered(
                attempt=1,
                code=error.code,
                message=error.message,
                seconds=error.seconds,
                retry_in=error.retry_in,
            )
            case = Case(job_id=row.id, job=row)
            after = written(case, decided(row, event=event).change).job
            assert after is not None
            row = after
            if not row.status.terminal:
                row = replace(row, status=JobStatus.PREPARING, lease_left=30.0)
    return held, row


@pytest.mark.parametrize(
    ("answer", "most"),
    [
        (dripping_head(112), 61),
        (silent, 61),
        (dripping_head(19), 61),
        (dripping(100_000, piece=1, every=1), 31),
        (dripping(3_000_000, piece=9 * 1024, every=1.1), 121),
    ],
    ids=["a head for 112 s, then 503", "silent", "a head for 19 s", "drips", "is just fast enough"],
)
def test_no_host_holds_a_place_longer_than_120_seconds_in_all_its_tries(answer, most):
    """The first one held a place for 404 s."""
    held, row = idle_time.run(until_it_ends(answer))
    assert row.error_code in ("image_unreachable", "audio_unreachable")
    assert sum(held) <= most <= INPUT_SECONDS + 1
    assert len(held) <= INPUT_TRIES
