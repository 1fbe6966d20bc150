"""`workflow check` validates any template file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.conftest import Answer
from tests.workflow.templates import as_bytes, shipped
from worker.runtime.data_files import data_file, workflow_file

Run = Callable[..., Answer]


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A template that deviates, in a path longer than a terminal is wide."""
    folder = tmp_path / ("a long folder name " * 6).strip()
    folder.mkdir()
    graph = shipped()
    graph["16"]["inputs"]["shift"] = 5.0
    graph["13"]["inputs"]["motion_frame"] = 9
    path = folder / "mine.json"
    path.write_bytes(as_bytes(graph))
    return path


def test_the_shipped_template_passes(run: Run) -> None:
    """The output has its hash and the advance of its windows."""
    answer = run("workflow", "check", "--json")
    assert answer.code == 0
    assert answer.json["advance"] == 56
    assert len(answer.json["template_hash"]) == 64
    assert answer.json["problems"] == []
    plain = run("workflow", "check")
    assert plain.code == 0
    assert "is valid." in plain.out


def test_every_problem_is_reported(run: Run, changed: Path) -> None:
    """The exit code is 2."""
    answer = run("workflow", "check", str(changed), "--json")
    assert answer.code == 2
    assert answer.json["error_code"] == "workflow_invalid"
    assert len(answer.json["problems"]) == 2
    plain = run("workflow", "check", str(changed))
    assert (plain.code, plain.out) == (2, "")
    assert "node 16 (WanVideoSampler), input shift: found 5.0, wanted 11.0" in plain.err


def test_permitted_deviations_pass_and_paths_stay_whole(
    run: Run, changed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both from the option and from the setting."""
    monkeypatch.setenv("WORKFLOW_DEVIATIONS", "WanVideoSampler.shift")
    monkeypatch.setenv("WORKFLOW_PATH", str(changed))
    answer = run("workflow", "check", "--allow", "13.motion_frame")
    assert answer.code == 0
    assert f"{changed} is valid." in answer.out.splitlines()
    assert run("workflow", "check", "--allow", "13.motion_frame", "--json").json["advance"] == 72


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"{", "not valid JSON"), (b'{"nodes": [], "links": []}', "Export"),
     (b" " * 5_000_000, "too large")],
)  # fmt: skip
def test_files_that_are_not_templates_are_refused(
    run: Run, tmp_path: Path, content: bytes | None, message: str
) -> None:
    """Each with a helpful message."""
    path = tmp_path / "template.json"
    if content is not None:
        path.write_bytes(content)
    answer = run("workflow", "check", str(path), "--json")
    assert answer.code == 2
    assert message in answer.json["error_message"]


def test_data_files_are_found_in_the_package_or_in_the_repository(tmp_path: Path) -> None:
    """The wheel carries them inside the package."""
    inside, root = tmp_path / "worker" / "_data", tmp_path
    for place in (root, inside):
        (place / "sql").mkdir(parents=True)
    assert data_file("sql", places=(inside, root)) == inside / "sql"
    (inside / "sql").rmdir()
    assert data_file("sql", places=(inside, root)) == root / "sql"
    with pytest.raises(FileNotFoundError, match="no/file is missing"):
        data_file("no", "file")


def test_the_operators_template_replaces_the_shipped_one() -> None:
    """By WORKFLOW_PATH."""
    assert workflow_file("/srv/mine.json") == Path("/srv/mine.json")
    assert json.loads(workflow_file().read_text())["13"]


def test_escape_sequences_of_a_file_do_not_reach_the_terminal(run: Run, tmp_path: Path) -> None:
    graph = shipped()
    graph["9\x1b]0;title\x07\nnote: all is well"] = {
        "class_type": "INTConstant",
        "inputs": {"value": 1},
    }
    path = tmp_path / "odd.json"
    path.write_bytes(as_bytes(graph))
    answer = run("workflow", "check", str(path))
    assert answer.code == 0
    assert "\x1b" not in answer.out
    assert not any(line.startswith("note: all is well") for line in answer.out.splitlines())
