"""The probe run of `doctor` renders a small video and checks it."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from devstack.postgres import Postgres
from devstack.stack import Stack
from tests.commands.backend import Backend, running_backend
from worker.doctor.context import Context
from worker.doctor.probe import ProbeOptions, probe
from worker.doctor.result import Result
from worker.settings import load_valid_settings

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


async def probed(env: dict[str, str], messages: list[str], **options: Any) -> Result:
    settings, problems = load_valid_settings(env)
    async with httpx.AsyncClient(trust_env=False) as http:
        context = Context(settings=settings, problems=problems, http=http)
        return await probe(context, ProbeOptions(**({"poll": 0.1} | options)), messages.append)


@pytest.mark.timeout(180)
async def test_an_81_frame_video_is_received_and_nothing_stays_behind(stack: Stack) -> None:
    messages: list[str] = []
    result = await probed(environment(stack), messages)
    assert result.level == "ok", result
    assert re.match(
        r"Received an 81-frame video. It waited \d+ s and used \d+ GPU seconds \(\$0\.\d{3}\)\.",
        result.message,
    )
    assert messages[0].startswith("submitted as ")
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
async def backend(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Backend]:
    """An endpoint that the tests control, without rendering."""
    async with running_backend(postgres, tmp_path_factory.mktemp("backend")) as part:
        yield part


async def options(backend: Backend, **values: object) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.put(f"{backend.runpod.url}/_control/options", json=values)
        assert answer.status_code == 200, answer.text


async def test_a_run_that_fails_is_explained(backend: Backend) -> None:
    await options(backend, fail_text="CUDA out of memory", fail_probability=1.0)
    try:
        result = await probed(backend.env, [])
    finally:
        await options(backend, fail_text=None)
    assert result.level == "fail"
    assert "memory" in result.message
    assert result.fix


async def test_a_video_that_cannot_be_downloaded_is_reported(backend: Backend) -> None:
    result = await probed(backend.env, [])
    assert (result.level, "The video cannot be downloaded (HTTP 404)" in result.message) == (
        "fail",
        True,
    )


async def test_a_run_without_end_is_cancelled(backend: Backend) -> None:
    await options(backend, no_workers=True)
    try:
        result = await probed(backend.env, [], patience=1.0)
    finally:
        await options(backend, no_workers=False)
    assert (result.level, "did not end in time and was cancelled" in result.message) == (
        "fail",
        True,
    )
    assert backend.runpod.runs[-1].state.value == "CANCELLED"


async def test_an_interrupted_probe_leaves_no_run_behind(backend: Backend) -> None:
    await options(backend, no_workers=True)
    messages: list[str] = []
    try:
        task = asyncio.ensure_future(probed(backend.env, messages))
        while not messages:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        await options(backend, no_workers=False)
    assert backend.runpod.runs[-1].state.value == "CANCELLED"


async def test_a_missing_bucket_for_its_media_is_said(backend: Backend) -> None:
    before = len(backend.runpod.runs)
    result = await probed({**backend.env, "MEDIA_BUCKET": "nowhere"}, [])
    assert (result.level, "bucket nowhere" in result.message) == ("fail", True)
    assert len(backend.runpod.runs) == before


async def test_media_that_cannot_be_used_cost_no_run(backend: Backend) -> None:
    before = len(backend.runpod.runs)
    result = await probed(
        backend.env, [], image="https://127.0.0.1/i.png", audio="https://127.0.0.1/a"
    )
    assert result.level == "fail"
    assert len(backend.runpod.runs) == before


async def test_a_refused_submission_is_reported(backend: Backend) -> None:
    result = await probed({**backend.env, "RUNPOD_API_KEY": "rpa_wrong"}, [])
    assert (result.level, "refuses the API key" in result.message) == ("fail", True)


async def test_an_unknown_outcome_warns_of_a_second_bill(backend: Backend) -> None:
    rule = backend.runpod.faults.add(
        {"path": "/run$", "method": "POST", "action": "status", "status": 502, "when": "after"}
    )
    try:
        result = await probed(backend.env, [])
    finally:
        backend.runpod.faults.remove(rule.id)
    assert (result.level, "may have been accepted" in result.message) == ("fail", True)
    assert "console before you try again" in result.fix
