"""Where settings come from: the environment, a local .env; and names and values that mislead."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.docs import env_example
from worker import environment
from worker.jobs.errors import SettingsInvalid
from worker.settings import (
    PLACEHOLDERS,
    Settings,
    load_planning_settings,
    load_settings,
    load_table_settings,
    load_valid_settings,
)

NAMES = frozenset(name.upper() for name in Settings.model_fields)
RIGHT = {
    "SUPABASE_URL": "https://p.supabase.co",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x",
    "RUNPOD_API_KEY": "rpa_x",
    "RUNPOD_ENDPOINT_ID": "abc",
}
FILE = """
# as a person writes it
SUPABASE_URL=https://p.supabase.co
export SUPABASE_SERVICE_ROLE_KEY="sb_secret_$x"
RUNPOD_API_KEY='rpa_x'
RUNPOD_ENDPOINT_ID=abc
MAX_FRAMES=153  # a comment
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a .env file that may be read."""
    (tmp_path / ".env").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENV_FILE")
    return tmp_path


def test_a_file_in_the_current_folder_is_enough_to_start(folder: Path) -> None:
    settings = load_settings()
    assert settings.supabase_url == "https://p.supabase.co"
    assert settings.supabase_service_role_key.get_secret_value() == "sb_secret_$x"
    assert (settings.runpod_endpoint_id, settings.max_frames) == ("abc", 153)
    assert load_table_settings().supabase_url == "https://p.supabase.co"
    assert load_planning_settings().max_frames == 153


def test_a_variable_of_the_environment_comes_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPABASE_URL", "https://other.supabase.co")
    monkeypatch.setenv("RUNPOD_ENDPOINT_URL", "https://api.runpod.ai/v2/other")
    settings = load_settings()
    assert settings.supabase_url == "https://other.supabase.co"
    assert settings.runpod_endpoint_id == "other"  # not mixed with the file's
    assert settings.max_frames == 153


def test_env_file_names_another_file_or_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "other").write_text("MAX_FRAMES=225")
    monkeypatch.setenv("ENV_FILE", "other")
    assert load_planning_settings().max_frames == 225
    monkeypatch.setenv("ENV_FILE", "none")
    assert load_planning_settings().max_frames == 1089


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV_FILE", "missing.env")
    with pytest.raises(
        SettingsInvalid, match=r"ENV_FILE: missing.env cannot be read: No such file"
    ):
        load_settings()
    (folder / ".env").write_bytes(b"A=\xff\xfe")
    monkeypatch.delenv("ENV_FILE")
    with pytest.raises(SettingsInvalid, match="it is not UTF-8 text"):
        load_settings()
    assert "ENV_FILE" in load_valid_settings()[1]


def test_the_image_and_the_tests_read_no_file() -> None:
    dockerfile = env_example.FILE.with_name("Dockerfile").read_text()
    assert "ENV_FILE=none" in dockerfile
    assert os.environ["ENV_FILE"] == "none"


def test_the_example_is_what_make_docs_writes_and_names_every_setting() -> None:
    text = env_example.FILE.read_text("utf-8")
    assert text == env_example.text(), "run `make docs`"
    named = {line.partition("=")[0].lstrip("#") for line in text.splitlines() if "=" in line}
    assert named >= NAMES


def test_a_filled_in_example_starts_with_every_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = env_example.text()
    for name, value in RIGHT.items():
        assert f"\n{name}=\n" in filled
        filled = filled.replace(f"\n{name}=\n", f"\n{name}={value}\n")
    for uncommented in (False, True):
        text = filled.replace("\n#", "\n") if uncommented else filled
        lines = [
            line for line in text.splitlines() if "=" in line and " " not in line.split("=")[0]
        ]
        (tmp_path / ".env").write_text("\n".join(lines))
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("ENV_FILE", raising=False)
        assert load_settings() == load_settings(RIGHT)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("SUPABASE_SERVICE_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
        ("SUPABSE_URL", "SUPABASE_URL"),
        ("RUNPOD_APIKEY", "RUNPOD_API_KEY"),
        ("RUNPOD_ENDPOINT", "RUNPOD_ENDPOINT_ID"),
        ("MAX_INFLIGHT", "MAX_IN_FLIGHT"),
        ("WEBHOOK_SECRETS", "WEBHOOK_SECRET"),
        ("INPUT_BUCKET", "INPUT_BUCKETS"),
        ("GPU_PRICE_PER_SECONDS", "GPU_PRICE_PER_SECOND"),
        ("max_in_flight", "MAX_IN_FLIGHT"),
    ],
)
def test_a_misspelt_name_is_one_problem_with_the_right_name(wrong: str, right: str) -> None:
    env = {name: value for name, value in RIGHT.items() if name != right} | {wrong: "hidden-value"}
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(env)
    assert refused.value.problems == [f"{right}: is not set, but {wrong} is. Did you mean {right}?"]
    settings, problems = load_valid_settings(env)
    assert list(problems) == [right]
    assert settings.supabase_url == ("http://unset.invalid" if right == "SUPABASE_URL"
                                     else RIGHT["SUPABASE_URL"])  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "HOSTNAME", "LOGNAME", "LOGLEVEL", "PORTS", "MAX_WORKERS", "DATABASE_URI", "PUBLIC_KEY",
        "SUPABASE_DB_URL", "SUPABASE_ANON_KEY_2", "SUPABASE_ADMIN_KEY", "SUPABASE_SECRET_KEY",
        "NEXT_PUBLIC_SUPABASE_URL", "RUNPOD_POD_ID", "RUNPOD_ENDPOINT_BASE", "RUNPOD_AI_API_KEY",
        "SUPABASE_JWT_SECRET", "GITHUB_TOKEN", "FLY_MACHINE_ID", "PYTHONUNBUFFERED",
    ],
)  # fmt: skip
def test_names_of_other_programs_are_left_alone(name: str) -> None:
    load_settings(RIGHT | {name: "anything"})


@given(
    st.dictionaries(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1, max_size=30), st.just("x"))
)
def test_no_name_is_reported_whose_right_name_is_set(env: dict[str, str]) -> None:
    assert environment.misspelt(env | dict.fromkeys(NAMES, "set"), NAMES) == {}


@pytest.mark.parametrize(
    ("given_url", "used"),
    [
        ("https://api.runpod.ai/v2/abc", "https://api.runpod.ai/v2/abc"),
        ("https://api.runpod.ai/v2/abc/", "https://api.runpod.ai/v2/abc"),
        ("https://api.runpod.ai/v2/abc/run", "https://api.runpod.ai/v2/abc"),
        ("https://api.runpod.ai/v2/abc/run/", "https://api.runpod.ai/v2/abc"),
        ("https://api.runpod.ai/v2/abc/runsync", "https://api.runpod.ai/v2/abc"),
        ("https://api.runpod.ai/v2/run", "https://api.runpod.ai/v2/run"),
    ],
)
def test_the_endpoints_url_may_be_the_one_that_requests_go_to(given_url: str, used: str) -> None:
    env = {name: value for name, value in RIGHT.items() if name != "RUNPOD_ENDPOINT_ID"}
    settings = load_settings(env | {"RUNPOD_ENDPOINT_URL": given_url})
    assert settings.runpod_endpoint_url == used
    assert settings.runpod_endpoint_id == used.rpartition("/")[2]


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        (
            "SUPABASE_URL",
            "https://supabase.com/dashboard/project/abcd/settings/api-keys",
            "is a page of the dashboard; use https://abcd.supabase.co",
        ),
        ("SUPABASE_URL", "https://app.supabase.com/", "use https://<ref>.supabase.co"),
        ("SUPABASE_URL", "https://db.abcd.supabase.co", "use https://abcd.supabase.co"),
        (
            "SUPABASE_URL",
            "https://aws-0-eu-west-1.pooler.supabase.com",
            "is the address of the database",
        ),
        (
            "SUPABASE_URL",
            "https://abcd.supabase.co/rest/v1/",
            "must be https://abcd.supabase.co, without a path",
        ),
        ("SUPABASE_URL", "http://abcd.supabase.co", "must be https://abcd.supabase.co"),
        ("SUPABASE_URL", "https://<ref>.supabase.co", "has '<' in its host"),
        ("PUBLIC_URL", "https://my app.example", "has ' ' in its host"),
        (
            "RUNPOD_ENDPOINT_URL",
            "https://console.runpod.io/serverless/user/endpoint/abc",
            "must be https://api.runpod.ai/v2/abc",
        ),
        ("RUNPOD_ENDPOINT_URL", "https://rest.runpod.io/v1/endpoints/abc", "/v2/abc"),
        ("RUNPOD_ENDPOINT_URL", "https://api.runpod.ai/v2/abc/status/u1", "/v2/abc"),
        ("RUNPOD_ENDPOINT_URL", "https://api.runpod.ai/v2/abc/health", "/v2/abc"),
        ("RUNPOD_ENDPOINT_URL", "http://api.runpod.ai/v2/abc", "https://api.runpod.ai/v2/abc"),
        ("RUNPOD_ENDPOINT_URL", "https://api.runpod.ai/abc", "https://api.runpod.ai/v2/<id>"),
    ],
)
def test_an_address_of_the_wrong_page_is_refused_with_the_right_one(
    name: str, given: str, says: str
) -> None:
    env = {key: value for key, value in RIGHT.items() if key != "RUNPOD_ENDPOINT_ID"}
    env |= {"RUNPOD_ENDPOINT_URL": "https://api.runpod.ai/v2/abc"}
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(env | {name: given})
    (problem,) = refused.value.problems
    assert problem.startswith(f"{name}: ")
    assert says in problem


@pytest.mark.parametrize(
    "wrong",
    [
        {"RUNPOD_ENDPOINT_URL": "https://console.runpod.io/serverless/user/endpoint/abc"},
        {"RUNPOD_ENDPOINT_ID": "https://api.runpod.ai/v2/abc/run"},
        {"RUNPOD_ENDPOINT_ID": "https://console.runpod.io/serverless/user/endpoint/abc"},
        {"RUNPOD_ENDPOINT_URL": "https://api.runpod.ai/v2/<id>"},
    ],
)
def test_a_wrong_endpoint_is_one_problem(wrong: dict[str, str]) -> None:
    env = {key: value for key, value in RIGHT.items() if key != "RUNPOD_ENDPOINT_ID"}
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(env | wrong)
    assert len(refused.value.problems) == 1
    _, problems = load_valid_settings(env | wrong)
    assert problems.keys() <= {"RUNPOD_ENDPOINT_ID", "RUNPOD_ENDPOINT_URL"}
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("SUPABASE_URL", "https://supabase.example.com/api"),
        ("SUPABASE_URL", "http://127.0.0.1:54321"),
        ("SUPABASE_URL", "https://abcd.supabase.red"),
        ("RUNPOD_ENDPOINT_URL", "https://proxy.example.com/runpod/abc"),
        ("RUNPOD_ENDPOINT_URL", "http://127.0.0.1:8000/v2/abc"),
    ],
)
def test_other_hosts_are_not_judged(name: str, given: str) -> None:
    env = {key: value for key, value in RIGHT.items() if key != "RUNPOD_ENDPOINT_ID"}
    env |= {"RUNPOD_ENDPOINT_URL": "https://api.runpod.ai/v2/abc"}
    load_settings(env | {name: given})


@pytest.mark.parametrize("price", ["1.9", "0.44", "1580", "0.051"])
def test_a_price_per_hour_is_refused_with_the_price_per_second(price: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(RIGHT | {"GPU_PRICE_PER_SECOND": price})
    (problem,) = refused.value.problems
    assert problem.startswith("GPU_PRICE_PER_SECOND: ")
    assert f"${price} per hour is {float(price) / 3600:.6f}" in problem


@pytest.mark.parametrize("price", ["0.00044", "0.0025", "0.05"])
def test_a_price_per_second_is_accepted(price: str) -> None:
    assert str(load_settings(RIGHT | {"GPU_PRICE_PER_SECOND": price}).gpu_price_per_second) == price


def test_placeholders_are_all_that_must_be_set() -> None:
    assert set(PLACEHOLDERS) == set(RIGHT)
