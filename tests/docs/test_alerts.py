"""docs/alerts.yml uses only existing metrics and labels, and alerts for good reasons."""

import re

import pytest
import yaml

from tests.docs.expressions import counters_without_rate, problems
from tests.docs.pages import ROOT, page
from worker.jobs.errors import CODES

OURS = 'worker="talking-head"'
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}


@pytest.mark.parametrize("name", RULES)
def test_the_rule_names_only_what_exists(name: str) -> None:
    assert problems(RULES[name]["expr"]) == []
    assert counters_without_rate(RULES[name]["expr"]) == []


@pytest.mark.parametrize("name", RULES)
def test_the_rule_is_complete(name: str) -> None:
    rule = RULES[name]
    assert re.fullmatch(r"\d+m", rule["for"])
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor == name.lower()
    assert anchor in page(path).anchors


def test_what_each_worker_counts_alone_is_added_up() -> None:
    """Also expired leases: only the worker that finds one counts it."""
    for name, rule in RULES.items():
        assert not re.search(r"(?:max|min|avg)\s*\(\s*increase\(", rule["expr"]), name


def test_failures_that_users_cause_do_not_alert() -> None:
    """A new error code must be excluded or included here."""
    found = re.search(r'code!~"([^"]*)"', RULES["JobsFail"]["expr"])
    assert found
    excluded = {code for code in CODES if re.fullmatch(found[1], code)}
    assert excluded == {code for code, info in CODES.items() if info.fixed_by == "user"}


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("worker_no_such_thing > 0", ["there is no metric worker_no_such_thing"]),
        (f'worker_jobs{{{OURS},job_id="x"}} > 0', ["worker_jobs has no label job_id"]),
        (f"sum by (user) (worker_jobs{{{OURS}}}) > 0", ["nothing has the label user"]),
        ("sum(worker_jobs > 0", ["unclosed left parenthesis"]),
        ("1 > bool 0", ["it names no metric"]),
        ("worker_jobs > 0", ["worker_jobs of any service is meant"]),
        (
            'process_resident_memory_bytes{worker!="other"} > 0',
            ["process_resident_memory_bytes of any service is meant"],
        ),
        (
            f'increase(worker_polls_total{{{OURS},result="new"}}[1h]) > 0',
            ["worker_polls_total: no such series at the start"],
        ),
        (
            f"sum(increase(worker_claims_total{{{OURS}}})) > 0",
            ["expected type matrix in call to function 'increase', got vector"],
        ),
    ],
)
def test_what_is_wrong_would_be_seen(expression: str, says: list[str]) -> None:
    assert problems(expression) == says


def test_a_counter_that_is_read_as_it_is_would_be_seen() -> None:
    assert counters_without_rate("sum(worker_claims_total) > 5") == ["worker_claims_total"]
