"""Prometheus' own promtool fires each rule on series made for it, and on no other service's.

`make alerts` fetches promtool; without it these tests are skipped, and test_alerts.py alone reads
the rules, with a parser.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT
from tests.docs.test_alerts import RULES
from worker.runtime.metrics import Metrics

_FOUND = shutil.which("promtool") or shutil.which("promtool", path=ROOT / ".promtool")
pytestmark = pytest.mark.skipif(_FOUND is None, reason="promtool is not there: run `make alerts`")
PROMTOOL = str(_FOUND)

HOURS = 60
OURS = {"worker": "talking-head", "instance": "a"}
OTHERS = {"worker": "other", "instance": "b"}
"""What another service on the same Prometheus might have."""
SEEN_FROM_THE_START = "0x180 0+1x60"
"""A counter that first moves after three hours, and then once a minute."""

# Alert: series that raise it within four hours, and the labels that it then has.
FIRING: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "WorkerDown": ({}, {"worker": "talking-head"}),
    "WorkerNotReady": ({"worker_ready": "0x240"}, {}),
    "ResultsUnwritten": ({"worker_runs_unwritten": "1x240"}, {}),
    "JobsWaitTooLong": ({'worker_oldest_job_seconds{status="queued"}': "4000x240"}, {}),
    "JobsFail": (
        {
            'worker_jobs_ended_total{outcome="failed",code="run_lost"}': SEEN_FROM_THE_START,
            'worker_jobs_ended_total{outcome="completed",code=""}': "0+1x240",
        },
        {},
    ),
    "SubmissionsUnknown": (
        {'worker_submissions_total{outcome="unknown"}': SEEN_FROM_THE_START},
        {},
    ),
    "SubmissionsPaused": ({"worker_breaker_open": "1x240"}, {}),
    "RunsNotFollowed": ({"worker_runs_blind": "0x239 1"}, {}),
    "RunsWaitForGpus": (
        {
            'worker_runpod_queue_wait_seconds_bucket{le="1200"}': "0x240",
            'worker_runpod_queue_wait_seconds_bucket{le="1800"}': "0+1x240",
            'worker_runpod_queue_wait_seconds_bucket{le="+Inf"}': "0+1x240",
        },
        {},
    ),
    "GpuTimeWasted": (
        {
            'worker_gpu_seconds_total{outcome="failed"}': "0+40x240",
            'worker_gpu_seconds_total{outcome="completed"}': "0+60x240",
        },
        {},
    ),
    "SpendHigh": (
        {
            'worker_gpu_seconds_total{outcome="completed"}': "0+300x240",
            'worker_gpu_seconds_total{outcome="failed"}': "0+100x240",
        },
        {},
    ),
    "RealtimeDown": ({"worker_realtime_ready": "0x240"}, {}),
    "RealtimeDeaf": ({"worker_realtime_unheard_rows": "3x240"}, {}),
    "InsertsNotHeard": ({"worker_realtime_missed_total": SEEN_FROM_THE_START}, {}),
    "WebhooksMissing": (
        {
            'worker_jobs_ended_total{outcome="completed",code=""}': "0+1x240",
            'worker_webhooks_total{result="forged"}': "0+1x240",
            'worker_webhooks_total{result="applied"}': "5x240",
        },
        {},
    ),
    "ForgedWebhooks": ({'worker_webhooks_total{result="forged"}': "0+10x240"}, {}),
    "LoopsInTrouble": (
        {'worker_loop_failures_total{loop="sweep"}': "0+4x240"},
        {"loop": "sweep"},
    ),
    "WorkersCrash": ({"worker_leases_expired_total": SEEN_FROM_THE_START}, {}),
    "EventLoopLags": ({"worker_loop_lag_seconds": "3x240"}, {}),
    "MemoryHigh": ({"process_resident_memory_bytes": "400000000x240"}, {}),
}
# Alert: series like those above, of a worker that is well.
QUIET: dict[str, dict[str, str]] = {
    "WorkerDown": {"worker_build_info": "1x240"},
    "RunsNotFollowed": {"worker_runs_blind": "0x240"},
    "SpendHigh": {'worker_gpu_seconds_total{outcome="completed"}': "0+300x240"},
    "RealtimeDeaf": {"worker_realtime_unheard_rows": "2x240"},
    "MemoryHigh": {"process_resident_memory_bytes": "200000000x240"},
    "WebhooksMissing": {
        'worker_jobs_ended_total{outcome="completed",code=""}': "0+1x240",
        'worker_webhooks_total{result="applied"}': "0+1x240",
    },
    "JobsFail": {
        'worker_jobs_ended_total{outcome="failed",code="audio_too_short"}': "0+1x240",
        'worker_jobs_ended_total{outcome="completed",code=""}': "0+1x240",
    },
}


def series(values: dict[str, str], labels: dict[str, str]) -> list[dict[str, str]]:
    """Return promtool's input series, with these labels on each."""
    more = ",".join(f'{name}="{value}"' for name, value in labels.items())
    named = {
        f"{name[:-1]},{more}}}" if name.endswith("}") else f"{name}{{{more}}}": steps
        for name, steps in values.items()
    }
    return [{"series": name, "values": steps} for name, steps in named.items()]


def case(alert: str, given: list[dict[str, str]], *labels: dict[str, str]) -> dict[str, Any]:
    """Return one test of promtool: the alert fires with each of these labels at the end."""
    rule = RULES[alert]
    fired = [
        {"exp_labels": {**rule["labels"], **one}, "exp_annotations": rule["annotations"]}
        for one in labels
    ]
    test = {"eval_time": f"{4 * HOURS}m", "alertname": alert, "exp_alerts": fired}
    return {"interval": "1m", "input_series": given, "alert_rule_test": [test]}


def promtool(*arguments: str, given: bytes | None = None) -> None:
    """Run promtool; a failure shows what it says."""
    done = subprocess.run([PROMTOOL, *arguments], input=given, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def evaluate(folder: Path, tests: list[dict[str, Any]]) -> None:
    """Let promtool evaluate the rules on the series of each test."""
    file = folder / "tests.yml"
    rules = {"rule_files": [str(ROOT / "docs" / "alerts.yml")], "evaluation_interval": "1m"}
    # JSON is YAML, too.
    file.write_text(json.dumps({**rules, "tests": tests}))
    promtool("test", "rules", str(file))


def test_every_rule_has_series_that_raise_it() -> None:
    assert set(FIRING) == set(RULES)


def test_the_rules_and_the_metrics_are_as_prometheus_wants_them() -> None:
    promtool("check", "rules", str(ROOT / "docs" / "alerts.yml"))
    promtool("check", "metrics", given=Metrics().text())


@pytest.mark.parametrize("alert", FIRING)
def test_the_alert_is_raised_and_only_for_this_worker(tmp_path: Path, alert: str) -> None:
    values, labels = FIRING[alert]
    tests = [case(alert, series(values, OURS), labels)]
    if alert != "WorkerDown":
        tests.append(case(alert, series(values, OTHERS)))
    else:
        tests.append(case(alert, series(QUIET[alert], OTHERS), labels))
    evaluate(tmp_path, tests)


@pytest.mark.parametrize("alert", QUIET)
def test_a_worker_that_is_well_raises_no_alert(tmp_path: Path, alert: str) -> None:
    evaluate(tmp_path, [case(alert, series(QUIET[alert], OURS))])


def test_the_first_failure_of_a_kind_counts_only_if_its_series_was_there(tmp_path: Path) -> None:
    """Why all series exist from the start: a new one that begins at 3 has not increased."""
    name = 'worker_submissions_total{outcome="unknown"}'
    there, new = {name: "0x180 3x60"}, {name: "_x180 3x60"}
    alert = "SubmissionsUnknown"
    evaluate(
        tmp_path,
        [case(alert, series(there, OURS), {}), case(alert, series(new, OURS))],
    )
