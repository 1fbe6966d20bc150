"""`doctor` as a command: settings, local checks, and how the checks are run."""

import asyncio
import json

import httpx
import pytest

from tests.commands.backend import SECRET, Backend, levels
from worker.doctor.context import Context
from worker.doctor.examine import CHECKS, Check, examine
from worker.doctor.result import Result, ok
from worker.settings import load_valid_settings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("doctor")]


async def test_a_project_without_faults_passes_every_check(backend: Backend) -> None:
    found = await backend.examine()
    assert levels(found) == {}
    assert set(found) == {check.name for check in CHECKS} | {"settings", "runpod.workers"}


async def test_a_secret_key_of_the_new_kind_passes_too(backend: Backend) -> None:
    found = await backend.examine("supabase", SUPABASE_SERVICE_ROLE_KEY=backend.stack.keys.secret)
    assert levels(found) == {}
    assert "sb_secret_" in found["supabase.key"].message


async def test_each_wrong_setting_is_named_and_what_does_not_need_it_is_checked(
    backend: Backend,
) -> None:
    settings, problems = load_valid_settings(
        {**backend.env, "RUNPOD_API_KEY": "", "PORT": "eighty", "WEBHOOK_SECRET": "short"}
    )
    async with httpx.AsyncClient(trust_env=False) as http:
        results = await examine(Context(settings=settings, problems=problems, http=http))
    settings_results = [result for result in results if result.name == "settings"]
    assert {result.level for result in settings_results} == {"fail"}
    messages = " ".join(result.message for result in settings_results)
    assert "RUNPOD_API_KEY is missing" in messages
    assert "PORT is invalid: Input should be a valid integer" in messages
    assert "WEBHOOK_SECRET is invalid: each secret needs at least 16 characters" in messages
    others = {result.name: result for result in results}
    assert others["runpod.endpoint"].fix == "Fix RUNPOD_API_KEY first."
    assert others["webhook"].fix == "Fix WEBHOOK_SECRET first."
    assert others["supabase.realtime"].level == "ok"


async def test_without_any_setting_the_local_checks_still_run(backend: Backend) -> None:
    settings, problems = load_valid_settings({})
    async with httpx.AsyncClient(trust_env=False) as http:
        results = await examine(Context(settings=settings, problems=problems, http=http))
    found = {result.name: result for result in results}
    assert (found["template"].level, found["media"].level) == ("ok", "ok")
    assert {result.level for name, result in found.items() if name.startswith("supabase")} == {
        "warn"
    }


async def test_an_id_and_a_url_of_different_endpoints_are_reported(backend: Backend) -> None:
    found = await backend.examine("runpod", RUNPOD_ENDPOINT_ID="other")
    assert "but RUNPOD_ENDPOINT_URL ends in localendpoint" in found["settings"].message


async def test_an_invalid_template_is_reported(backend: Backend, tmp_path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"nodes": [], "links": []}))
    result = (await backend.examine("template", WORKFLOW_PATH=str(path)))["template"]
    assert result.level == "fail"
    assert "WORKFLOW_PATH" in result.fix
    gone = (await backend.examine("template", WORKFLOW_PATH=str(tmp_path / "no.json")))["template"]
    assert (gone.level, "cannot be read" in gone.message) == ("fail", True)


async def test_a_library_without_heic_is_reported(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_image: object) -> None:
        raise RuntimeError("no encoder")

    monkeypatch.setattr("pillow_heif.from_pillow", broken)
    result = (await backend.examine("media"))["media"]
    assert (result.level, "HEIC" in result.message) == ("fail", True)
    assert "requirements.lock" in result.fix


async def test_a_check_that_hangs_costs_only_its_own_time(backend: Backend) -> None:
    async def hangs(_context: Context) -> Result:
        await asyncio.Event().wait()
        return ok("hangs", "")

    async def odd(_context: Context) -> Result:
        raise KeyError("nothing like that")

    settings, problems = load_valid_settings(backend.env)
    checks = [Check(name="hangs", run=hangs, seconds=0.1), Check(name="odd", run=odd)]
    async with httpx.AsyncClient() as http:
        results = await examine(
            Context(settings=settings, problems=problems, http=http), [*checks, CHECKS[1]]
        )
    assert [(result.name, result.level) for result in results[1:]] == [
        ("hangs", "fail"), ("odd", "fail"), ("media", "ok"),
    ]  # fmt: skip


async def test_the_command_prints_one_line_for_each_check_and_exits_with_0(
    backend: Backend,
) -> None:
    done = await backend.command("doctor")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert len(lines) == len(CHECKS) + 3
    assert all(line.startswith("ok  ") for line in lines[:-1])
    assert lines[-1] == f"{len(CHECKS) + 2} ok, 0 warn, 0 fail"


async def test_with_json_a_fault_exits_with_1_and_no_secret_is_printed(backend: Backend) -> None:
    done = await backend.command(
        "doctor",
        "--json",
        RUNPOD_API_KEY="rpa_wrong_and_secret",
        DATABASE_URL="postgresql://a:pw@b/c",
    )
    assert done.code == 1
    assert done.json["ok"] is False
    assert all(set(row) == {"name", "level", "message", "fix"} for row in done.json["checks"])
    bad = [result for result in done.json["checks"] if result["level"] == "fail"]
    assert [result["name"] for result in bad] == ["runpod.endpoint"]
    for secret in ("rpa_wrong_and_secret", backend.stack.keys.service_role, SECRET, ":pw@"):
        assert secret not in done.out + done.err


async def test_without_settings_the_command_says_what_to_set(backend: Backend) -> None:
    done = await backend.command(
        "doctor", SUPABASE_URL="", SUPABASE_SERVICE_ROLE_KEY="", RUNPOD_API_KEY="",
        RUNPOD_ENDPOINT_URL="", PUBLIC_URL="",
    )  # fmt: skip
    assert done.code == 1
    for name in (
        "SUPABASE_URL",
        "SUPABASE_SERVICE_ROLE_KEY",
        "RUNPOD_API_KEY",
        "RUNPOD_ENDPOINT_ID",
    ):
        assert f"{name} is missing" in done.out


async def test_checks_can_be_chosen_by_prefix(backend: Backend) -> None:
    done = await backend.command("doctor", "--only", "supabase.k", "--only", "media", "--json")
    assert [result["name"] for result in done.json["checks"]] == ["media", "supabase.key"]
    settings = await backend.command("doctor", "--only", "settings", "--json", PORT="eighty")
    assert [(result["name"], result["level"]) for result in settings.json["checks"]] == [
        ("settings", "fail")
    ]
    unknown = await backend.command("doctor", "--only", "teapot")
    assert unknown.code == 2
    assert "supabase.realtime" in unknown.err


async def test_settings_that_the_chosen_checks_do_not_need_are_not_reported(
    backend: Backend,
) -> None:
    without_runpod = {"RUNPOD_API_KEY": "", "RUNPOD_ENDPOINT_URL": "", "PORT": "eighty"}
    done = await backend.command("doctor", "--only", "supabase", **without_runpod)
    assert (done.code, "RUNPOD" in done.out, "PORT" in done.out) == (0, False, False)
    needed = await backend.command("doctor", "--only", "runpod", "--json", **without_runpod)
    assert needed.code == 1
    assert [(result["name"], result["level"]) for result in needed.json["checks"]] == [
        ("settings", "fail"), ("settings", "fail"), ("runpod.endpoint", "warn"),
    ]  # fmt: skip


async def test_a_missing_setting_is_reported_once_with_advice(backend: Backend) -> None:
    done = await backend.command(
        "doctor", "--only", "settings", RUNPOD_ENDPOINT_URL="", RUNPOD_API_KEY="", SUPABASE_URL="",
        WEBHOOK_SECRET="short",
    )  # fmt: skip
    assert [line.removeprefix("fail  settings  ") for line in done.out.splitlines()[:-1]] == [
        "RUNPOD_ENDPOINT_ID is missing. Set it, or RUNPOD_ENDPOINT_URL.",
        "SUPABASE_URL is missing. Set it: your project's URL, like https://abc.supabase.co.",
        "RUNPOD_API_KEY is missing. Set it: a RunPod API key with access to the endpoint.",
        "WEBHOOK_SECRET is invalid: each secret needs at least 16 characters; create one with "
        "`openssl rand -hex 32`. Correct it in the worker's environment.",
    ]


async def test_the_probe_run_needs_a_confirmation(backend: Backend) -> None:
    before = len(backend.runpod.runs)
    done = await backend.command("doctor", "--probe-run")
    assert done.code == 2
    assert "a paid GPU run: about 68 s" in done.err
    assert "add --yes" in done.err
    assert len(backend.runpod.runs) == before
