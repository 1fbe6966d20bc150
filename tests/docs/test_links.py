"""Every link of the documentation leads somewhere, and nothing in it belongs to one machine."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.docs.pages import ROOT, Page, page, pages

EACH = pytest.mark.parametrize("document", pages().values(), ids=pages())
HOSTS = re.compile(
    r"(?:files\.pythonhosted|registry\.npmjs|registry-1\.docker|proxy\.golang|test\.pypi|pypi)\.\w+"
)
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|work|Users|tmp|mnt|opt|private)/")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|TBD|WIP|lorem ipsum)\b", re.IGNORECASE)


@EACH
def test_every_relative_link_and_anchor_resolves(document: Page) -> None:
    broken = []
    for link in document.links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.path.parent / path).resolve() if path else document.path
        name = target.relative_to(ROOT).as_posix()
        if not target.exists() or (anchor and anchor not in page(name).anchors):
            broken.append(link)
    assert not broken


@EACH
def test_links_outwards_use_tls(document: Page) -> None:
    assert not [link for link in document.links if link.startswith("http://")]


@EACH
def test_nothing_is_unfinished_and_nothing_belongs_to_one_machine(document: Page) -> None:
    for pattern in (UNFINISHED, HOSTS, MACHINE):
        assert not pattern.findall(document.text)


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), ["README.md"]
    while todo:
        name = todo.pop()
        if name in reached:
            continue
        reached.add(name)
        for link in page(name).links:
            target = (page(name).path.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_relative_to(ROOT):
                todo.append(target.relative_to(ROOT).as_posix())
    assert reached == set(pages())


def test_every_alert_is_in_the_runbook() -> None:
    """And it names no alert that does not exist; that each link resolves is in test_alerts."""
    rules = yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    section = page("docs/operating.md").section("Alerts")
    assert re.findall(r"^### (.+)$", section, re.MULTILINE) == [rule["alert"] for rule in alerts]


def test_the_readme_is_short() -> None:
    assert len(page("README.md").text.splitlines()) <= 150
