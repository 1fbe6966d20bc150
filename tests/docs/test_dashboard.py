"""docs/grafana-dashboard.json shows every metric, names no other, and no panel hides another."""

import json
import re
from itertools import combinations
from typing import Any

from tests.docs.expressions import at_start, counters_without_rate, problems
from tests.docs.pages import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_every_panel_names_only_what_exists() -> None:
    assert {
        expression: wrong for expression in EXPRESSIONS if (wrong := problems(expression))
    } == {}
    assert [name for expression in EXPRESSIONS for name in counters_without_rate(expression)] == []


def test_every_metric_of_ours_is_shown() -> None:
    text = " ".join(EXPRESSIONS)
    unshown = [
        name
        for name in at_start()
        if name.startswith("worker_") and not name.endswith(("_sum", "_count")) and name not in text
    ]
    assert unshown == []


def test_what_each_worker_counts_alone_is_added_up() -> None:
    assert [
        expression
        for expression in EXPRESSIONS
        if re.search(r"(?:max|min|avg)\s*\(\s*increase", expression)
    ] == []


def test_panels_have_their_own_ids_and_places() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for one, other in combinations((panel["gridPos"] for panel in DASHBOARD["panels"]), 2):
        apart = (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        )  # fmt: skip
        assert apart, (one, other)


def test_it_can_be_imported_into_any_grafana() -> None:
    """It has no fixed data source: people choose one."""
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}
    assert [variable["type"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
    assert "__inputs" not in DASHBOARD
