"""`python -m devstack up`: what it prints, how it ends, what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]


def descendants(pid: int) -> list[int]:
    """The processes below a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


class Up:
    """A running stack with its own temporary directory."""

    def __init__(self, scratch: Path, *options: str) -> None:
        scratch.mkdir(exist_ok=True)
        self.scratch = scratch
        self.process = subprocess.Popen(
            [sys.executable, "-m", "devstack", "up", "--json", "--no-runpod", *options],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(scratch)},
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.env = json.loads(line) if line else {}
        self.children = descendants(self.process.pid)

    def end(self, with_signal: signal.Signals) -> int:
        self.process.send_signal(with_signal)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.rest = self.process.stdout.read()
        self.process.stdout.close()
        return code

    def everyone_gone(self, seconds: float = 10) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not any(alive(child) for child in self.children):
                return True
            time.sleep(0.05)
        return False


@pytest.fixture
def up(tmp_path):
    started: list[Up] = []

    def start(*options: str) -> Up:
        started.append(Up(tmp_path / "scratch", *options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_one_line_of_settings_and_leaves_nothing(up, ended_by):
    stack = up("--port", "18080")
    assert set(stack.env) >= {
        "SUPABASE_URL", "SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY", "DATABASE_URL",
        "PUBLIC_URL", "PORT", "WEBHOOK_SECRET", "INPUT_ALLOW_PRIVATE_HOSTS", "INPUT_BUCKETS",
        "SAMPLE_IMAGE_URL", "SAMPLE_AUDIO_URL",
    }  # fmt: skip
    assert not [name for name in stack.env if name.startswith("RUNPOD")]
    assert (stack.env["PORT"], stack.env["PUBLIC_URL"]) == ("18080", "http://127.0.0.1:18080")
    answer = httpx.get(stack.env["SAMPLE_IMAGE_URL"], trust_env=False)
    assert answer.status_code == 200
    with psycopg.connect(stack.env["DATABASE_URL"]) as connection:
        assert connection.execute("select count(*) from public.video_jobs").fetchone() == (0,)
    assert stack.end(ended_by) == 0
    assert stack.rest == b""
    assert stack.everyone_gone()
    assert list(stack.scratch.iterdir()) == []


def test_children_die_with_a_killed_stack(up):
    stack = up()
    assert stack.children
    stack.end(signal.SIGKILL)
    assert stack.everyone_gone()


def test_a_data_directory_keeps_rows_keys_and_files(up, tmp_path):
    kept = str(tmp_path / "kept")
    first = up("--data", kept)
    with psycopg.connect(first.env["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("create table public.remembered as select 7 as n")
    first.end(signal.SIGTERM)
    second = up("--data", kept)
    assert second.env["SUPABASE_SERVICE_ROLE_KEY"] == first.env["SUPABASE_SERVICE_ROLE_KEY"]
    with psycopg.connect(second.env["DATABASE_URL"]) as connection:
        assert connection.execute("select n from public.remembered").fetchone() == (7,)
    assert second.end(signal.SIGTERM) == 0


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path):
    (tmp_path / "initdb").touch(mode=0o755)
    (tmp_path / "postgres").touch(mode=0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "devstack", "up", "--no-runpod"],
        cwd=ROOT,
        env=os.environ | {"PG_BIN_DIR": str(tmp_path), "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("The local stack did not start: ")
    assert "Traceback" not in done.stderr
    assert list(scratch.iterdir()) == []
