"""Runs every block of the documentation that its page marks as run."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, page
from tests.postgres import TEMPLATE, Database
from tests.world import Daemon, World

JS = ROOT / "tests" / "js"
KINDS = re.compile(r"|sql|migrated|stack|exit \d")


def _marked(language: str, *kinds: str) -> list[Block]:
    return [block for block in blocks(language) if block.how in kinds]


def _name(block: Block) -> str:
    return f"{block.page}-{block.text.split(maxsplit=6)[-1][:24]!r}"


def _bash(block: Block, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a block as a person does in the repository, with `.venv` active."""
    folder = Path(sys.executable).parent
    text = block.text.replace(".venv/bin/python", "python")
    command = ["bash", "-euo", "pipefail", "-c", text]
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": os.environ.get("HOME", "/")}
    own["ENV_FILE"] = "none"
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**own, "COLUMNS": "200", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=60)
        except BaseException:
            # Also kill the block's background processes.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_every_mark_is_one_that_is_run() -> None:
    marked = [block for block in blocks("sh", "sql", "ts", "text", "") if block.how is not None]
    assert marked
    assert not [block for block in marked if not KINDS.fullmatch(block.how or "")]
    assert not [
        block for block in marked if block.language != ("sql" if block.how == "sql" else "sh")
    ]


def test_every_line_of_sql_is_run_unless_its_page_says_why_not() -> None:
    """Not run: blocks that need Supabase's own schema, psql variables or an id."""
    left = [block.text for block in blocks("sql") if block.how is None]
    assert all(re.search(r"realtime\.|:'|'…'", text) for text in left)


@pytest.mark.parametrize("block", _marked("sh", ""), ids=_name)
def test_a_block_ends_well(block: Block) -> None:
    done = _bash(block)
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_what_plan_prints() -> None:
    (block,) = [block for block in page("README.md").blocks if block.how == ""]
    (shown,) = [block.text for block in page("README.md").blocks if block.text.startswith("Audio ")]
    printed = "\n".join(line.rstrip() for line in _bash(block).stdout.splitlines())
    without_seed = re.compile(r"^(Seed +)\d+$", re.MULTILINE)
    assert without_seed.sub(r"\1", printed).startswith(without_seed.sub(r"\1", shown))


@pytest.mark.parametrize("block", _marked("sh", "exit 1", "exit 2"), ids=_name)
def test_a_block_ends_with_the_exit_code_that_is_named(block: Block) -> None:
    done = _bash(block)
    assert f"exit {done.returncode}" == block.how, done.stderr
    (shown,) = [
        block.text for block in page(block.page).blocks if block.text.startswith("Cannot start")
    ]
    assert done.stderr.startswith(shown)


@pytest.mark.parametrize("block", _marked("sh", "migrated"), ids=_name)
def test_a_block_runs_against_a_migrated_database(database: Database, block: Block) -> None:
    done = _bash(block, {"DATABASE_URL": database.url})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "The database is up to date."


@pytest.mark.parametrize("block", _marked("sql", "sql"), ids=_name)
def test_a_block_of_sql_runs_for_a_failed_job(
    new_database: Callable[[str], Database], block: Block
) -> None:
    """Each on its own database, since some change tables; a later insert must still work."""
    database = new_database(TEMPLATE)
    job_id = database.insert()["id"]
    with database.connection.transaction():
        database.sql("select set_config('video_jobs.writer', 'worker', true)")
        database.sql(
            "update public.video_jobs set status = 'failed', phase = 'done', "
            "error_code = 'run_lost', completed_at = now() where id = %s",
            job_id,
        )
    with database.connection.transaction():
        database.connection.execute(block.text.replace("<job id>", str(job_id)).encode())
    later = database.insert()["id"]
    assert database.events(later) == ["inserted"]


@pytest.mark.e2e
@pytest.mark.parametrize("block", _marked("sh", "stack"), ids=_name)
def test_the_stack_by_hand_makes_a_video(block: Block) -> None:
    try:
        done = _bash(block)
        assert done.returncode == 0, done.stderr
        assert re.search(r"^status +completed$", done.stdout, re.MULTILINE)
    finally:
        (ROOT / ".env.stack").unlink(missing_ok=True)


@pytest.mark.e2e
@pytest.mark.node
@pytest.mark.xdist_group("node")
async def test_the_typescript_of_the_readme_makes_cancels_and_retries_videos(
    tmp_path: Path,
) -> None:
    """Run without the types, which not every node can read, and otherwise unchanged."""
    if shutil.which("node") is None or not (JS / "node_modules" / "@supabase").exists():
        pytest.skip("not run: node or tests/js/node_modules is missing")
    (block,) = blocks("ts")
    script = JS / f"readme-{os.getpid()}.mjs"
    script.write_text(PRELUDE + _without_types(block.text) + PEOPLE)
    try:
        async with World() as world:
            daemon = world.daemon()
            await daemon.start()
            await daemon.ready()
            said = await _node(script, world, daemon)
    finally:
        script.unlink()
    assert said.splitlines()[-2:] == ["completed http", "cancelled, then retried: true"]


async def _node(script: Path, world: World, daemon: Daemon) -> str:
    env = {
        "PATH": os.environ["PATH"],
        "NEXT_PUBLIC_SUPABASE_URL": world.stack.env["SUPABASE_URL"],
        "NEXT_PUBLIC_SUPABASE_ANON_KEY": world.stack.env["SUPABASE_ANON_KEY"],
        "IMAGE": str(ROOT / "devstack/samples/portrait.jpg"),
        "AUDIO": str(ROOT / "devstack/samples/speech.mp3"),
    }
    process = await asyncio.create_subprocess_exec(
        "node", str(script), env=env,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode() + out.decode() + daemon.words()[-2000:]
    return out.decode()


def _without_types(text: str) -> str:
    text = text.partition("\n")[2]  # the import, which the prelude makes after its polyfill
    text = re.sub(r": (?:File|string|any|\(job: any\) => void)(?=[,)])", "", text)
    return re.sub(r"(\w)!(?=[.,)])", r"\1", text).replace(" as const", "")


PRELUDE = """
import WS from 'ws'
import fs from 'node:fs'
globalThis.WebSocket ??= WS
const { createClient } = await import('@supabase/supabase-js')
"""
PEOPLE = """
const file = (path) => new File([fs.readFileSync(path)], path)
const until = (wanted, first) => new Promise((done) => {
  const seen = []
  const stop = makeVideo(file(process.env.IMAGE), file(process.env.AUDIO), async (job) => {
    seen.push(job.status)
    if (seen.length === 1) await first(job.id)
    if (job.status === wanted) done({ job, stop: await stop })
  })
})
const made = await until('completed', () => {})
made.stop()
console.log('completed', made.job.video_url.slice(0, 4))
const ended = await until('cancelled', cancelVideo)
const retried = await retryVideo(ended.job.id)
ended.stop()
console.log('cancelled, then retried:', retried.data?.[0]?.status === 'queued')
process.exit(0)
"""
