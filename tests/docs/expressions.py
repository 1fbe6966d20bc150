"""Reads PromQL with a parser, and compares it with what /metrics shows right after a start."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import promql_parser as promql
from prometheus_client.parser import text_string_to_metric_families

from worker.runtime.metrics import SCOPE, Metrics

TARGET_LABELS = {"instance"}
"""What Prometheus adds to every series."""


@dataclass(frozen=True)
class Selector:
    """A metric with its matchers; `ranged`: over a time, as rate() and increase() need it."""

    name: str
    matchers: tuple[promql.Matcher, ...]
    ranged: bool

    def matches(self, labels: dict[str, str]) -> bool:
        """Return whether a series of this metric is selected."""
        return all(_holds(matcher, labels.get(matcher.name, "")) for matcher in self.matchers)

    @property
    def scoped(self) -> bool:
        """Return whether only series of this worker are selected."""
        equal = {m.name: m.value for m in self.matchers if m.op == promql.MatchOp.Equal}
        return equal.items() >= SCOPE.items()


def _holds(matcher: promql.Matcher, value: str) -> bool:
    same = value == matcher.value
    if matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe):
        same = re.fullmatch(matcher.value, value) is not None
    return same == (matcher.op in (promql.MatchOp.Equal, promql.MatchOp.Re))


@cache
def at_start() -> dict[str, list[dict[str, str]]]:
    """Return every series of /metrics before anything has happened, as labels by name."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(Metrics().text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def parts(expression: str) -> tuple[list[Selector], set[str]]:
    """Return an expression's selectors and the labels it groups by; ValueError if it is invalid."""
    found: list[Selector] = []
    grouped: set[str] = set()
    ranged = False

    def visit(node: promql.Expr) -> None:
        nonlocal ranged
        if isinstance(node, promql.VectorSelector):
            found.append(Selector(node.name or "", tuple(node.matchers.matchers), ranged))
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            grouped.update(node.modifier.labels)
        # A range is visited right before the vector that it is about.
        ranged = isinstance(node, promql.MatrixSelector)

    promql.walk(promql.parse(expression), visit)
    return found, grouped


def problems(expression: str) -> list[str]:
    """Return what an expression names that does not exist at a start, or not for us alone."""
    try:
        selectors, grouped = parts(expression)
    except ValueError as error:
        return [str(error)]
    wrong = [] if selectors else ["it names no metric"]
    labels = set(TARGET_LABELS)
    for selector in selectors:
        series = at_start().get(selector.name)
        if series is None:
            wrong.append(f"there is no metric {selector.name}")
            continue
        own = {label for one in series for label in one}
        labels |= own
        unknown = sorted({m.name for m in selector.matchers} - own)
        wrong += [f"{selector.name} has no label {label}" for label in unknown]
        if not unknown and not any(selector.matches(one) for one in series):
            wrong.append(f"{selector.name}: no such series at the start")
        if not selector.scoped:
            wrong.append(f"{selector.name} of any service is meant")
    return wrong + [f"nothing has the label {name}" for name in sorted(grouped - labels)]


def counters_without_rate(expression: str) -> list[str]:
    """Return counters that are used without rate() or increase()."""
    return [
        selector.name
        for selector in parts(expression)[0]
        if selector.name.endswith(("_total", "_bucket")) and not selector.ranged
    ]
