"""fly.toml fits the app that it starts."""

import re
import tomllib

from tests.packaging.conftest import ROOT
from worker.app import STOP_SECONDS
from worker.runpod.api import SUBMIT_SECONDS
from worker.settings import Settings

FLY = tomllib.loads((ROOT / "fly.toml").read_text("utf-8"))
SERVICE = FLY["http_service"]


def test_the_ports_are_the_port_of_the_app() -> None:
    """Routing, metrics and the default of the settings meet."""
    port = Settings.model_fields["port"].default
    assert SERVICE["internal_port"] == FLY["metrics"]["port"] == int(FLY["env"]["PORT"]) == port


def test_the_paths_are_routes_of_the_app() -> None:
    """The check and the scraper ask for what web.py serves."""
    web = (ROOT / "worker" / "web.py").read_text("utf-8")
    routes = set(re.findall(r'Route\(\s*"([^"]+)"', web))
    assert {check["path"] for check in SERVICE["checks"]} == {"/livez"}
    assert {"/livez", FLY["metrics"]["path"]} <= routes


def test_the_machine_never_sleeps() -> None:
    """No request comes while a row waits: a sleeping machine would never wake for it."""
    assert SERVICE["auto_stop_machines"] == "off"
    assert SERVICE["min_machines_running"] >= 1


def test_a_dead_worker_is_started_again() -> None:
    """Also after it ended itself because a loop was stuck."""
    assert [entry["policy"] for entry in FLY["restart"]] == ["always"]


def test_a_stop_leaves_time_to_hand_work_back() -> None:
    """SIGTERM instead of Fly's SIGINT, and more than the longest drain; Fly allows 300 seconds."""
    assert FLY["kill_signal"] == "SIGTERM"
    assert max(60, SUBMIT_SECONDS + STOP_SECONDS) < FLY["kill_timeout"] <= 300


def test_a_deploy_migrates_first_and_replaces_one_by_one() -> None:
    """The command is an argument of the image's entry point."""
    assert FLY["deploy"]["release_command"] == "migrate"
    assert FLY["deploy"]["strategy"] == "rolling"


def test_the_machine_has_room_for_one_large_image() -> None:
    """Decoding a 50 megapixel picture takes several hundred megabytes."""
    assert [machine["memory"] for machine in FLY["vm"]] == ["1gb"]


def test_no_secret_is_in_the_file() -> None:
    """They go in with `fly secrets set`."""
    assert not [name for name in FLY["env"] if re.search("KEY|SECRET|TOKEN|DATABASE", name)]


def test_http_is_redirected_but_checks_are_not() -> None:
    """Fly's proxy does the redirect, so a check inside the machine gets a plain 200."""
    assert SERVICE["force_https"] is True
