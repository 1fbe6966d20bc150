"""The image: who it runs as, what it holds, how it is started and looked after."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import worker
from tests.packaging.conftest import ROOT, clean_python

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
INSTRUCTIONS = re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()


def arguments(instruction: str) -> list[str]:
    """What follows each use of the instruction."""
    prefix = f"{instruction} "
    return [line.removeprefix(prefix) for line in INSTRUCTIONS if line.startswith(prefix)]


def test_the_linter_finds_nothing() -> None:
    """hadolint, with all its rules."""
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_daemon_is_process_one_and_gets_the_signals() -> None:
    """Exec form: a shell in between would swallow SIGTERM. `migrate` and the rest replace `run`."""
    assert json.loads(arguments("ENTRYPOINT")[-1]) == ["python", "-m", "worker"]
    assert json.loads(arguments("CMD")[-1]) == ["run"]


def test_the_daemon_is_not_root() -> None:
    """A number, so that an orchestrator can check it."""
    user, group = arguments("USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_only_wheels_with_known_hashes_are_installed() -> None:
    """Nothing is compiled or resolved; the last stage installs nothing."""
    installs = [line for line in arguments("RUN") if "install" in line]
    assert len(installs) == 1
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(installs[0].split())
    assert installs[0].endswith("&& python3 -m pip --python /opt/venv/bin/python check")
    last_stage = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert not re.search(r"^RUN ", last_stage, re.MULTILINE)


def test_the_label_tells_the_version() -> None:
    """Unless a build gives another."""
    assert f"VERSION={worker.__version__}" in arguments("ARG")


def test_the_build_sees_only_what_the_image_needs() -> None:
    """No keys in an .env file, no history, no tests: everything is shut out but a few names."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").split()
    copied = {line.split()[0] for line in arguments("COPY") if not line.startswith("--from")}
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied


def test_the_image_s_own_files_are_enough(tmp_path: Path) -> None:
    """The command of the image, started with what COPY brings and nothing else."""
    for source, target in (line.split() for line in arguments("COPY") if "--from" not in line):
        if target.startswith("/app"):
            shutil.copytree(ROOT / source, tmp_path / target[1:])
    app = tmp_path / "app"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(app)}
    question = ["request", "--json", "--image-url", "https://cdn.example/a.png"]
    question += ["--audio-url", "https://cdn.example/a.mp3", "--audio-seconds", "21"]
    done = subprocess.run(
        [clean_python(tmp_path), "-m", "worker", *question],
        cwd=app,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["input"]["workflow"]


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server that answers every GET of /livez with the status; yields its port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False)])
def test_the_health_check_asks_livez(status: int, healthy: bool) -> None:
    """On the port of the environment, past any proxy."""
    command = json.loads(arguments("HEALTHCHECK")[-1].partition("CMD ")[2])
    with answering(status) as port:
        environment = {"PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
        done = subprocess.run([sys.executable, *command[1:]], env=environment, capture_output=True)
    assert (done.returncode == 0) is healthy
