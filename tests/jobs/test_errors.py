"""The codes are stable, documented, and the only ones that a row can end with."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from worker.jobs.errors import (
    CODES,
    InputUnavailable,
    JobFailed,
    RunPodRateLimited,
    RunPodUnavailable,
    SettingsInvalid,
    StoreUnavailable,
    TransientError,
    WorkerError,
    WorkflowInvalid,
)
from worker.plan.warnings import WARNINGS

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "inputs.md").read_text()
PROMISED = [
    "image_missing",
    "image_unreachable",
    "image_unreadable",
    "image_too_large",
    "audio_missing",
    "audio_unreachable",
    "audio_unreadable",
    "audio_truncated",
    "audio_too_short",
    "audio_too_long",
    "audio_too_large",
    "input_forbidden",
    "size_invalid",
    "quality_invalid",
    "seed_invalid",
    "run_refused",
    "run_failed",
    "run_timed_out",
    "run_lost",
    "result_missing",
    "input_download_failed",
    "model_not_on_endpoint",
    "queue_timeout",
    "too_many_submissions",
    "too_many_crashes",
    "quota_exceeded",
]


@pytest.mark.parametrize("code", PROMISED)
def test_a_promised_code_never_disappears(code: str) -> None:
    """Apps compare against these."""
    assert code in CODES


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_says_what_it_means_who_fixes_it_and_how(code: str) -> None:
    """In whole sentences."""
    info = CODES[code]
    assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", code)
    assert info.fixed_by in {"user", "operator", "provider"}
    assert info.meaning.endswith(".")
    assert info.advice.endswith(".")


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_is_documented_as_the_code_has_it(code: str) -> None:
    """docs/inputs.md has one row for each: who fixes it, what it means, how."""
    info = CODES[code]
    assert (
        f"| `{code}` | {info.fixed_by} | {info.meaning} | {info.advice} |" in DOCUMENT.splitlines()
    )


@pytest.mark.parametrize(("code", "meaning"), sorted(WARNINGS.items()))
def test_every_warning_is_documented_as_the_code_has_it(code: str, meaning: str) -> None:
    """docs/inputs.md has one row for each."""
    assert f"| `{code}` | {meaning} |" in DOCUMENT.splitlines()


def test_the_documents_name_no_code_that_does_not_exist() -> None:
    """A row of docs/inputs.md that begins with a code names a code or a warning."""
    named = set(re.findall(r"^\| `([a-z]+(?:_[a-z]+)+)` \|", DOCUMENT, re.MULTILINE))
    assert named <= {*CODES, *WARNINGS}


def test_every_code_in_the_source_exists() -> None:
    """No JobFailed is raised, and no PlanWarning made, with a code that nobody can look up."""
    known: dict[str, Mapping[str, object]] = {
        "JobFailed": CODES,
        "PlanWarning": WARNINGS,
    }
    for file in (ROOT / "worker").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            first = call.args[0] if call.args else None
            if call.func.id in known and isinstance(first, ast.Constant):
                assert first.value in known[call.func.id], f"{file}:{call.lineno}"


def test_a_job_cannot_fail_with_an_unknown_code() -> None:
    """Such a code would be found by nobody."""
    with pytest.raises(ValueError, match="unknown"):
        JobFailed("no_such_code", "message")
    with pytest.raises(ValueError, match="unknown"):
        InputUnavailable("no_such_code", "message")


def test_an_error_carries_its_code_and_message() -> None:
    """Both for people and for programs."""
    error = JobFailed("audio_too_short", "Too short.")
    assert (error.code, error.message, str(error)) == (
        "audio_too_short",
        "Too short.",
        "Too short.",
    )


def test_transient_errors_say_when_to_try_again() -> None:
    """Only if that is known."""
    assert StoreUnavailable("away").retry_in is None
    assert RunPodRateLimited(2.5).retry_in == 2.5
    assert InputUnavailable("audio_unreachable", "503", retry_in=1.0).code == "audio_unreachable"
    assert RunPodUnavailable(502).status == 502
    for kind in (StoreUnavailable, RunPodRateLimited, RunPodUnavailable, InputUnavailable):
        assert issubclass(kind, TransientError)


@pytest.mark.parametrize("kind", [WorkflowInvalid, SettingsInvalid])
def test_all_problems_are_told_at_once(kind: type[WorkflowInvalid]) -> None:
    """One line for each."""
    error = kind(["one", "two"])
    assert isinstance(error, WorkerError)
    assert error.problems == ["one", "two"]
    assert error.message == "one\ntwo"
