"""What the log says of runs that end without a video."""

import pytest
from structlog.testing import capture_logs

from tests.harness import Harness, done, update
from worker.jobs.run import RunState


@pytest.fixture
def harness() -> Harness:
    return Harness()


async def test_a_failed_run_is_a_warning_with_runpods_reason(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = update(
        RunState.FAILED, error="CUDA error:\nout of \x1b[31mmemory, token=abc12345"
    )
    with capture_logs() as logs:
        await harness.pass_time(30)
    (line,) = [line for line in logs if line["event"] == "run.failed"]
    assert line["log_level"] == "warning"
    assert line["reason"] == "CUDA error: out of memory, [hidden]"
    assert (line["run_id"], line["code"], line["attempt"]) == ("run-1", "run_failed", 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ('Traceback (most recent call last):\n  File "h.py", line 1\nValueError: odd', "odd"),
        ('{"error_type": "X", "error_message": "odd", "error_traceback": "Traceback: y"}', "odd"),
    ],
)
async def test_the_reason_is_without_its_traceback(
    harness: Harness, error: str, reason: str
) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = update(RunState.FAILED, error=error)
    with capture_logs() as logs:
        await harness.pass_time(30)
    (line,) = [line for line in logs if line["event"] == "run.failed"]
    assert line["reason"].endswith(reason)
    assert "Traceback" not in line["reason"]


async def test_a_run_that_made_its_video_is_none(harness: Harness) -> None:
    await harness.submitted()
    harness.runpod.runs["run-1"] = done()
    with capture_logs() as logs:
        await harness.pass_time(30)
    assert [line["event"] for line in logs if line["log_level"] != "info"] == []
