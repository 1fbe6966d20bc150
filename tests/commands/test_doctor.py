"""`doctor` as a command: settings, what is looked at here, and the examination itself."""

import asyncio
import json

import httpx
import pytest

from tests.commands.stand import (
    SECRET,
    Stand,
    levels,
)
from worker.doctor.context import Context
from worker.doctor.examine import CHECKS, Check, examine
from worker.doctor.result import Result, ok
from worker.settings import load_what_is_right

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("doctor")]


async def test_a_project_without_faults_passes_every_check(stand: Stand) -> None:
    found = await stand.examine()
    assert levels(found) == {}
    assert set(found) == {check.name for check in CHECKS} | {"settings", "runpod.workers"}


async def test_a_secret_key_of_the_new_kind_passes_too(stand: Stand) -> None:
    found = await stand.examine("supabase", SUPABASE_SERVICE_ROLE_KEY=stand.stack.keys.secret)
    assert levels(found) == {}
    assert "sb_secret_" in found["supabase.key"].message


async def test_each_wrong_setting_is_named_and_what_does_not_need_it_is_checked(
    stand: Stand,
) -> None:
    settings, problems = load_what_is_right(
        {**stand.env, "RUNPOD_API_KEY": "", "PORT": "eighty", "WEBHOOK_SECRET": "short"}
    )
    async with httpx.AsyncClient(trust_env=False) as http:
        results = await examine(Context(settings=settings, problems=problems, http=http))
    said = [one for one in results if one.name == "settings"]
    assert {one.level for one in said} == {"fail"}
    messages = " ".join(one.message for one in said)
    assert "RUNPOD_API_KEY is missing" in messages
    assert "PORT is wrong: Input should be a valid integer" in messages
    assert "WEBHOOK_SECRET is wrong: each secret needs at least 16 characters" in messages
    others = {one.name: one for one in results}
    assert others["runpod.endpoint"].mend == "Mend RUNPOD_API_KEY first."
    assert others["webhook"].mend == "Mend WEBHOOK_SECRET first."
    assert others["supabase.realtime"].level == "ok"


async def test_without_any_setting_the_local_checks_still_run(stand: Stand) -> None:
    settings, problems = load_what_is_right({})
    async with httpx.AsyncClient(trust_env=False) as http:
        results = await examine(Context(settings=settings, problems=problems, http=http))
    found = {one.name: one for one in results}
    assert (found["template"].level, found["media"].level) == ("ok", "ok")
    assert {one.level for name, one in found.items() if name.startswith("supabase")} == {"warn"}


async def test_an_id_and_an_address_of_different_endpoints_are_told(stand: Stand) -> None:
    found = await stand.examine("runpod", RUNPOD_ENDPOINT_ID="other")
    assert "but RUNPOD_ENDPOINT_URL ends in localendpoint" in found["settings"].message


async def test_a_template_that_the_guard_refuses_is_told(stand: Stand, tmp_path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"nodes": [], "links": []}))
    one = (await stand.examine("template", WORKFLOW_PATH=str(path)))["template"]
    assert one.level == "fail"
    assert "WORKFLOW_PATH" in one.mend
    gone = (await stand.examine("template", WORKFLOW_PATH=str(tmp_path / "no.json")))["template"]
    assert (gone.level, "cannot be read" in gone.message) == ("fail", True)


async def test_a_library_without_heic_is_told(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_image: object) -> None:
        raise RuntimeError("no encoder")

    monkeypatch.setattr("worker.doctor.local.pillow_heif.from_pillow", broken)
    one = (await stand.examine("media"))["media"]
    assert (one.level, "HEIC" in one.message) == ("fail", True)
    assert "requirements.lock" in one.mend


async def test_a_check_that_hangs_costs_only_its_own_time(stand: Stand) -> None:
    async def hangs(_context: Context) -> Result:
        await asyncio.Event().wait()
        return ok("hangs", "")

    async def odd(_context: Context) -> Result:
        raise KeyError("nothing like that")

    settings, problems = load_what_is_right(stand.env)
    checks = [Check(name="hangs", run=hangs, seconds=0.1), Check(name="odd", run=odd)]
    async with httpx.AsyncClient() as http:
        results = await examine(
            Context(settings=settings, problems=problems, http=http), [*checks, CHECKS[1]]
        )
    assert [(one.name, one.level) for one in results[1:]] == [
        ("hangs", "fail"), ("odd", "fail"), ("media", "ok"),
    ]  # fmt: skip


async def test_the_command_prints_one_line_for_each_check_and_exits_with_0(stand: Stand) -> None:
    done = await stand.command("doctor")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert len(lines) == len(CHECKS) + 3
    assert all(line.startswith("ok  ") for line in lines[:-1])
    assert lines[-1] == f"{len(CHECKS) + 2} ok, 0 warn, 0 fail"


async def test_with_json_a_fault_exits_with_1_and_no_secret_is_printed(stand: Stand) -> None:
    done = await stand.command(
        "doctor",
        "--json",
        RUNPOD_API_KEY="rpa_wrong_and_secret",
        DATABASE_URL="postgresql://a:pw@b/c",
    )
    assert done.code == 1
    assert done.json["ok"] is False
    bad = [one for one in done.json["checks"] if one["level"] == "fail"]
    assert [one["name"] for one in bad] == ["runpod.endpoint"]
    for secret in ("rpa_wrong_and_secret", stand.stack.keys.service_role, SECRET, ":pw@"):
        assert secret not in done.out + done.err


async def test_without_settings_the_command_says_what_to_set(stand: Stand) -> None:
    done = await stand.command(
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


async def test_some_checks_alone_can_be_asked_for(stand: Stand) -> None:
    done = await stand.command("doctor", "--only", "supabase.k", "--only", "media", "--json")
    assert [one["name"] for one in done.json["checks"]] == ["media", "supabase.key"]
    settings = await stand.command("doctor", "--only", "settings", "--json", PORT="eighty")
    assert [(one["name"], one["level"]) for one in settings.json["checks"]] == [
        ("settings", "fail")
    ]
    unknown = await stand.command("doctor", "--only", "teapot")
    assert unknown.code == 2
    assert "supabase.realtime" in unknown.err


async def test_settings_that_the_chosen_checks_do_not_need_are_left_in_peace(stand: Stand) -> None:
    without_runpod = {"RUNPOD_API_KEY": "", "RUNPOD_ENDPOINT_URL": "", "PORT": "eighty"}
    done = await stand.command("doctor", "--only", "supabase", **without_runpod)
    assert (done.code, "RUNPOD" in done.out, "PORT" in done.out) == (0, False, False)
    needed = await stand.command("doctor", "--only", "runpod", "--json", **without_runpod)
    assert needed.code == 1
    assert [(one["name"], one["level"]) for one in needed.json["checks"]] == [
        ("settings", "fail"), ("settings", "fail"), ("runpod.endpoint", "warn"),
    ]  # fmt: skip


async def test_a_missing_setting_is_told_once_with_what_belongs_there(stand: Stand) -> None:
    done = await stand.command(
        "doctor", "--only", "settings", RUNPOD_ENDPOINT_URL="", RUNPOD_API_KEY="", SUPABASE_URL="",
        WEBHOOK_SECRET="short",
    )  # fmt: skip
    assert [line.removeprefix("fail  settings  ") for line in done.out.splitlines()[:-1]] == [
        "RUNPOD_ENDPOINT_ID is missing. Set it, or RUNPOD_ENDPOINT_URL.",
        "SUPABASE_URL is missing. Set it: your project's URL, like https://abc.supabase.co.",
        "RUNPOD_API_KEY is missing. Set it: a RunPod API key that may use the endpoint.",
        "WEBHOOK_SECRET is wrong: each secret needs at least 16 characters; `openssl rand -hex 32`"
        " makes one. Correct it where the worker's environment is set.",
    ]


async def test_the_probe_run_costs_nothing_unless_it_is_agreed_to(stand: Stand) -> None:
    before = len(stand.runpod.runs)
    done = await stand.command("doctor", "--probe-run")
    assert done.code == 2
    assert "takes about 68 s of a GPU" in done.err
    assert "add --yes" in done.err
    assert len(stand.runpod.runs) == before
