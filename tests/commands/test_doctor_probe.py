"""The probe run of `doctor` renders a small video for real and looks at it."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from devstack.postgres import Postgres
from devstack.stack import Stack
from tests.commands.stand import Stand, standing
from worker.doctor.context import Context
from worker.doctor.probe import ProbeOptions, probe
from worker.doctor.result import Result
from worker.settings import load_what_is_right

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("doctor_probe")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """A project and an endpoint whose worker renders."""
    path = tmp_path_factory.mktemp("probe")
    async with Stack(data=path, postgres=postgres, database="probe") as part:
        yield part


def environment(stack: Stack) -> dict[str, str]:
    assert stack.runpod is not None
    return {
        "SUPABASE_URL": stack.url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.keys.service_role,
        "RUNPOD_API_KEY": stack.runpod.api_key,
        "RUNPOD_ENDPOINT_URL": stack.runpod.endpoint_url,
        "INPUT_BUCKETS": "inputs",
        "GPU_PRICE_PER_SECOND": "0.001",
    }


async def probed(env: dict[str, str], said: list[str], **options: Any) -> Result:
    settings, problems = load_what_is_right(env)
    async with httpx.AsyncClient(trust_env=False) as http:
        context = Context(settings=settings, problems=problems, http=http)
        return await probe(context, ProbeOptions(**({"look": 0.1} | options)), said.append)


@pytest.mark.timeout(180)
async def test_a_video_of_81_frames_comes_and_nothing_stays_behind(stack: Stack) -> None:
    said: list[str] = []
    one = await probed(environment(stack), said)
    assert one.level == "ok", one
    assert re.match(
        r"A video of 81 frames came. It waited \d+ s and took \d+ s of a GPU, \$0\.\d{3}\.",
        one.message,
    )
    assert said[0].startswith("submitted as ")
    assert stack.runpod is not None
    sent = stack.runpod.runs[-1].request.input
    assert (sent["width"], sent["height"]) == (832, 480)
    async with httpx.AsyncClient(trust_env=False) as http:
        listed = await http.post(
            f"{stack.url}/storage/v1/object/list/inputs",
            headers={"apikey": stack.keys.service_role},
            json={"prefix": "doctor"},
        )
    assert listed.json() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stand]:
    """An endpoint that does what it is told, without rendering."""
    async with standing(postgres, tmp_path_factory.mktemp("stand")) as part:
        yield part


async def options(stand: Stand, **values: object) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.put(f"{stand.runpod.url}/_control/options", json=values)
        assert answer.status_code == 200, answer.text


async def test_a_run_that_fails_is_explained(stand: Stand) -> None:
    await options(stand, fail_text="CUDA out of memory", fail_probability=1.0)
    try:
        one = await probed(stand.env, [])
    finally:
        await options(stand, fail_text=None)
    assert one.level == "fail"
    assert "memory" in one.message
    assert one.mend


async def test_a_video_that_cannot_be_loaded_is_told(stand: Stand) -> None:
    one = await probed(stand.env, [])
    assert (one.level, "The video cannot be loaded (HTTP 404)" in one.message) == ("fail", True)


async def test_a_run_without_end_is_cancelled(stand: Stand) -> None:
    await options(stand, no_workers=True)
    try:
        one = await probed(stand.env, [], patience=1.0)
    finally:
        await options(stand, no_workers=False)
    assert (one.level, "did not end in time and was cancelled" in one.message) == ("fail", True)
    assert stand.runpod.runs[-1].state.value == "CANCELLED"


async def test_an_interrupted_probe_leaves_no_run_behind(stand: Stand) -> None:
    await options(stand, no_workers=True)
    said: list[str] = []
    try:
        task = asyncio.ensure_future(probed(stand.env, said))
        while not said:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        await options(stand, no_workers=False)
    assert stand.runpod.runs[-1].state.value == "CANCELLED"


async def test_without_a_bucket_addresses_are_asked_for(stand: Stand) -> None:
    before = len(stand.runpod.runs)
    one = await probed({**stand.env, "INPUT_BUCKETS": ""}, [])
    assert (one.level, "give --image and --audio" in one.message) == ("fail", True)
    assert len(stand.runpod.runs) == before


async def test_media_that_cannot_be_used_cost_no_run(stand: Stand) -> None:
    before = len(stand.runpod.runs)
    one = await probed(stand.env, [], image="https://127.0.0.1/i.png", audio="https://127.0.0.1/a")
    assert one.level == "fail"
    assert len(stand.runpod.runs) == before


async def test_a_refused_submission_is_told(stand: Stand) -> None:
    one = await probed({**stand.env, "RUNPOD_API_KEY": "rpa_wrong"}, [])
    assert (one.level, "refuses the API key" in one.message) == ("fail", True)


async def test_an_unknown_outcome_warns_of_a_second_bill(stand: Stand) -> None:
    rule = stand.runpod.faults.add(
        {"path": "/run$", "method": "POST", "action": "status", "status": 502, "when": "after"}
    )
    try:
        one = await probed(stand.env, [])
    finally:
        stand.runpod.faults.remove(rule.id)
    assert (one.level, "may have been accepted" in one.message) == ("fail", True)
    assert "console before you try again" in one.mend
