"""Names in the documentation exist: settings, commands, codes, metrics, tables, files."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import typer

from tests.docs.pages import ROOT, Page, blocks, page, pages
from worker.commands.cli import app
from worker.jobs.errors import CODES
from worker.runtime.metrics import PREFIX, Metrics
from worker.settings import Settings

EACH = pytest.mark.parametrize("document", pages().values(), ids=pages())
SCHEMA = (ROOT / "sql" / "schema.sql").read_text()
CODE = "\n".join(path.read_text() for path in sorted((ROOT / "worker").rglob("*.py")))
# Not ours: the endpoint's, the app's, Fly's, RunPod's words, make's, and the stand-ins' own.
OTHER_NAMES = {
    "R2_ENDPOINT_URL", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET_NAME",
    "R2_PUBLIC_URL", "FLY_APP_NAME", "SAMPLE_IMAGE_URL", "SAMPLE_AUDIO_URL", "SUPABASE_ANON_KEY",
    "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "IN_QUEUE", "IN_PROGRESS", "TIMED_OUT",
    "Q4_0", "Q5_0", "Q6_K",
}  # fmt: skip
FOLDERS = "worker|devstack|tests|docs|sql|workflows|benchmarks|examples"
MADE_IN_BLOCKS = re.compile(r"create (?:function|table|sequence|trigger) (?:public\.)?(\w+)")


def _commands(group: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, command in group.commands.items():
        yield " ".join((*path, name))
        if isinstance(command, typer.core.TyperGroup):
            yield from _commands(command, (*path, name))


def _options(path: list[str]) -> set[str]:
    command = typer.main.get_command(app)
    for name in path:
        assert isinstance(command, typer.core.TyperGroup)
        command = command.commands[name]
    named = {text for option in command.params for text in (*option.opts, *option.secondary_opts)}
    return named | {"--help"}


def _calls(text: str) -> Iterator[tuple[list[str], set[str]]]:
    """Yield the command and the options of each `python -m worker …`."""
    known = set(_commands(typer.main.get_command(app)))  # type: ignore[arg-type]
    for line in text.replace("\\\n", " ").splitlines():
        for found in re.finditer(r"python -m worker\b([^`\n|&;]*)", line):
            words = found.group(1).split()
            path: list[str] = []
            while words and " ".join([*path, words[0]]) in known:
                path.append(words.pop(0))
            stray = words[0] if words and re.fullmatch(r"[a-z]+", words[0]) else None
            assert path or not stray, f"no such command: {found.group()}"
            yield path, {re.split(r"[=\]]", word)[0] for word in words if word.startswith("--")}


@EACH
def test_every_command_and_option_exists(document: Page) -> None:
    for path, options in _calls(document.text):
        assert options <= _options(path), f"{document.name}: {path} {options}"


def test_the_readme_names_every_command() -> None:
    section = page("README.md").section("Commands")
    for command in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert re.search(rf"\b{command}\b", section), command


@EACH
def test_every_make_target_exists(document: Page) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join([*document.spans, *(block.text for block in document.blocks)])
    assert set(re.findall(r"(?:^|&& )make ([a-z0-9-]+)", code, re.MULTILINE)) <= targets


@EACH
def test_every_setting_exists(document: Page) -> None:
    named = {
        word
        for span in [*document.spans, *(b.text for b in document.blocks if b.language == "sh")]
        for word in re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b", span)
    }
    known = {name.upper() for name in Settings.model_fields} | OTHER_NAMES
    known |= set(re.findall(r"^([A-Z_]+) = ", CODE, re.MULTILINE))
    assert {name for name in named if not name.startswith(("NEXT_PUBLIC_", "ON_"))} <= known


def test_every_error_code_is_in_the_runbook_and_among_the_inputs() -> None:
    assert sorted(page("docs/operating.md").first_column("Error codes")) == sorted(CODES)
    assert sorted(page("docs/inputs.md").first_column("Error codes")) == sorted(CODES)


def test_every_metric_is_explained_and_none_invented() -> None:
    exported = {
        sample.name
        for family in Metrics().registry.collect()
        for sample in family.samples
        if sample.name.startswith(f"{PREFIX}_")
    }
    families = {
        re.sub(r"_(bucket|sum|count|created)$", "", name).removeprefix(f"{PREFIX}_")
        for name in exported
    }
    # A counter with labels has no sample before its first event.
    families |= {
        f"{family.name.removeprefix(f'{PREFIX}_')}" + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
        if family.name.startswith(f"{PREFIX}_")
    }
    families -= {name.removesuffix("_total") for name in families if name.endswith("_total")}
    assert set(page("docs/operating.md").first_column("Metrics")) == families
    for document in pages().values():
        for name in re.findall(rf"\b{PREFIX}_[a-z_]+\b", document.prose):
            assert name.removeprefix(f"{PREFIX}_") in families, f"{document.name}: {name}"


def test_every_log_event_of_the_runbook_is_logged() -> None:
    for event in page("docs/operating.md").first_column("Logs"):
        assert f'"{event}"' in CODE, event


@EACH
def test_every_table_and_function_exists(document: Page) -> None:
    sql = "\n".join(block.text for block in document.blocks if block.language == "sql")
    code = "\n".join(
        [*document.spans, sql, *(b.text for b in document.blocks if b.language == "ts")]
    )
    made = set(MADE_IN_BLOCKS.findall(sql)) | set(re.findall(r"rename to (\w+)", sql))
    named = set(re.findall(r"\b(?:[a-z_]*_v\d|video_job[a-z0-9_]*)\b", code)) - made
    named = {name for name in named if not re.fullmatch(r"_v\d", name)}
    assert {name for name in named if not re.search(rf"\b{name}\b", SCHEMA)} == set()


@EACH
def test_every_file_that_is_named_exists(document: Page) -> None:
    for span in document.spans:
        for found in re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./*-]*", span):
            path = found.rstrip(".")
            assert list(ROOT.glob(path.rstrip("/"))), f"{document.name}: {path}"


def test_the_architecture_names_every_part_of_the_worker() -> None:
    section = page("docs/architecture.md").section("The files")
    for path in sorted((ROOT / "worker").iterdir()):
        if path.name.startswith("__init__") or path.suffix not in (".py", ""):
            continue
        if path.is_dir() and not (path / "__init__.py").exists():
            continue
        assert path.name in section, path.name
    for name in re.findall(r"`([a-z_]+\.py)`", section):
        assert list((ROOT / "worker").rglob(name)), name


def test_every_doctor_line_that_is_shown_can_be_said() -> None:
    shown = [block for block in blocks("text") if re.match(r"(?:ok|warn|fail)  ", block.text)]
    assert shown
    for block in shown:
        for line in block.text.splitlines():
            name = line.split()[1]
            assert f'"{name}"' in CODE, name


def test_the_changelog_names_every_migration() -> None:
    section = page("CHANGELOG.md").text
    names = [path.stem for path in sorted((ROOT / "sql" / "migrations").glob("*.sql"))]
    assert names[0] in section
    assert names[-1] in section
