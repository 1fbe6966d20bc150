"""docs/alerts.yml uses only existing metrics and labels, and alerts for good reasons."""

import re

import pytest
import yaml

from tests.docs.expressions import counters_without_rate, problems
from tests.docs.pages import ROOT
from worker.jobs.errors import CODES

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
    assert rule["annotations"]["runbook_url"] == f"docs/operating.md#{name.lower()}"


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
        ('worker_jobs{job_id="x"} > 0', ["worker_jobs has no label job_id"]),
        ("sum by (user) (worker_jobs) > 0", ["nothing has the label user"]),
        ("sum(worker_jobs > 0", ["unequal ()"]),
        ("1 > 0", ["it names no metric"]),
    ],
)
def test_what_does_not_exist_would_be_seen(expression: str, says: list[str]) -> None:
    assert problems(expression) == says


def test_a_counter_that_is_read_as_it_is_would_be_seen() -> None:
    assert counters_without_rate("sum(worker_claims_total) > 5") == ["worker_claims_total"]
