"""The Postgres launcher: as any user, with any kind of end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from devstack.launch import (
    PostgresMissing,
    find_binaries,
    plan_launch,
    privileges_can_be_kept,
    user_namespaces_work,
)
from devstack.postgres import Postgres

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")


def one(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def gone(pid: int, seconds: float = 10) -> bool:
    """Return whether a process ends in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def postgres():
    made = Postgres()
    made.start()
    yield made
    made.remove()


def test_it_answers_with_logical_decoding_on(postgres):
    url = postgres.url("template1", user="supabase_admin")
    assert one(url, "show wal_level") == "logical"
    assert one(url, "show listen_addresses") == "127.0.0.1"


def test_rows_survive_a_restart_and_a_crash(postgres):
    url = postgres.url("template1", user="supabase_admin")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table kept as select 7 as n")
    postgres.restart()
    assert one(url, "select n from kept") == 7
    postgres.kill()
    postgres.start()
    assert one(url, "select n from kept") == 7


def test_stop_ends_open_sessions_at_once(postgres):
    connection = psycopg.connect(postgres.url("template1", user="supabase_admin"))
    started = time.monotonic()
    postgres.stop()
    assert time.monotonic() - started < 3
    connection.close()


def test_a_database_is_cloned_from_a_template_with_what_is_in_it(server):
    url = server.create_database("cloned", template="gateway_template")
    try:
        assert one(url, "select count(*) from public.notes") == 0
        assert one(url, "select count(*) from pg_publication_tables") == 4
    finally:
        server.drop_database("cloned")


def test_remove_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    postgres = Postgres()
    postgres.start()
    postgres.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_given_directory_is_kept(tmp_path):
    for _ in range(2):
        postgres = Postgres(tmp_path / "kept")
        postgres.start()
        postgres.remove()
    assert (tmp_path / "kept" / "pgdata" / "PG_VERSION").exists()


@needs_root
def test_as_root_below_a_private_directory_it_starts_in_a_user_namespace(tmp_path):
    if not user_namespaces_work():
        pytest.skip("not run: this machine forbids user namespaces")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    postgres = Postgres(private / "data")
    postgres.start()
    try:
        assert one(postgres.url("template1", user="supabase_admin"), "select 1") == 1
    finally:
        postgres.remove()


@needs_root
def test_as_root_without_namespaces_it_starts_below_a_private_directory(tmp_path, monkeypatch):
    """A default container forbids namespaces; the right to enter directories is kept instead."""
    if not privileges_can_be_kept():
        pytest.skip("not run: this machine lets no right be kept")
    monkeypatch.setattr("devstack.launch.user_namespaces_work", lambda: False)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for _ in range(2):
        postgres = Postgres(private / "data")
        postgres.start()
        try:
            assert one(postgres.url("template1", user="supabase_admin"), "select 1") == 1
            scratch = postgres._plan().scratch
        finally:
            postgres.remove()
        assert scratch is not None
        assert not scratch.exists()


@needs_root
def test_as_root_without_either_a_private_directory_is_refused_with_a_sentence(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("devstack.launch.user_namespaces_work", lambda: False)
    monkeypatch.setattr("devstack.launch.privileges_can_be_kept", lambda: False)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(PostgresMissing, match="choose a data directory"):
        plan_launch(find_binaries(), private / "pgdata", tmp_path)


@needs_root
def test_as_root_private_binaries_are_copied_when_there_are_no_namespaces(tmp_path, monkeypatch):
    monkeypatch.setattr("devstack.launch.user_namespaces_work", lambda: False)
    monkeypatch.setattr("devstack.launch._everyone_reaches", lambda path: path != find_binaries())
    launch = plan_launch(find_binaries(), tmp_path / "data", tmp_path / "copy")
    assert launch.user == "nobody"
    shown = subprocess.run(
        [launch.binaries / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    assert "PostgreSQL" in shown.stdout


def test_pg_bin_dir_comes_first(tmp_path, monkeypatch):
    for name in ("initdb", "postgres"):
        (tmp_path / name).touch()
    monkeypatch.setenv("PG_BIN_DIR", str(tmp_path))
    assert find_binaries() == tmp_path


def test_without_binaries_a_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("devstack.launch.SYSTEM", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PostgresMissing, match="make setup"):
        find_binaries()


def test_it_dies_with_a_killed_parent():
    program = (
        "import sys, time\n"
        "from devstack.postgres import Postgres\n"
        "p = Postgres(); p.start(); print(p.pid, p._home, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid, home = parent.stdout.readline().decode().split()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    try:
        assert gone(int(pid))
    finally:
        subprocess.run(["rm", "-rf", home], check=True)
