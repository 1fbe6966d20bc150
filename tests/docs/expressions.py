"""Finds the metrics and labels in a PromQL expression."""

from __future__ import annotations

import re

from worker.runtime.metrics import METRICS

_SELECTOR = re.compile(r"\b((?:worker|process)_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_GROUPED = re.compile(r"\bby \(([^)]*)\)")
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def known() -> dict[str, set[str]]:
    """Return every series of /metrics, with its labels."""
    found: dict[str, set[str]] = {}
    for value in vars(METRICS).values():
        labels = getattr(value, "_labelnames", None)
        if labels is None:
            continue
        for suffix in _SUFFIXES[value._type]:
            extra = {"le"} if suffix == "_bucket" else set()
            found[value._name + suffix] = {*labels, *extra}
    for family in METRICS.registry.collect():
        if family.name.startswith("process_"):
            found.update((sample.name, set(sample.labels)) for sample in family.samples)
    return found


def problems(expression: str) -> list[str]:
    """Return unknown metrics and labels of an expression, and unmatched brackets."""
    series = known()
    wrong = []
    labels: set[str] = {"instance", "version"}
    for name, matchers in _SELECTOR.findall(expression):
        if name not in series:
            wrong.append(f"there is no metric {name}")
            continue
        labels |= series[name]
        wrong += [
            f"{name} has no label {label}"
            for label, _ in _MATCHER.findall(matchers)
            if label not in series[name]
        ]
    for names in _GROUPED.findall(expression):
        wrong += [
            f"nothing has the label {name}" for name in names.split(", ") if name not in labels
        ]
    if not _SELECTOR.search(expression):
        wrong.append("it names no metric")
    wrong += [
        f"unequal {a}{b}"
        for a, b in ("()", "[]", "{}")
        if expression.count(a) != expression.count(b)
    ]
    return wrong


def counters_without_rate(expression: str) -> list[str]:
    """Return counters that are used without rate() or increase()."""
    return [
        found.group(1)
        for found in _SELECTOR.finditer(expression)
        if found.group(1).endswith(("_total", "_bucket"))
        and not re.match(r"\[\w+\]", expression[found.end() :])
    ]
