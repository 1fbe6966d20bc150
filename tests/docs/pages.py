"""Parses the pages of the documentation: headings, links, code blocks, code spans, tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("README.md", "CHANGELOG.md", "docs", "devstack", "sql", "workflows")

_FENCE = re.compile(
    r"(?:^<!-- run(?:: (?P<how>[a-z0-9 ]+))? -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block; `how` is None unless the page says that it is run."""

    page: str
    language: str
    text: str
    how: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def blocks(self) -> list[Block]:
        return [
            Block(
                page=self.name,
                language=found["language"],
                text=found["text"],
                how=None if not found.group().startswith("<!--") else found["how"] or "",
            )
            for found in _FENCE.finditer(self.text)
        ]

    @property
    def prose(self) -> str:
        """Return the text without code blocks and comments."""
        return _COMMENT.sub("", _FENCE.sub("", self.text))

    @property
    def anchors(self) -> set[str]:
        """Return the anchors that GitHub makes of the headings."""
        seen: dict[str, int] = {}
        anchors = set()
        for heading in _HEADING.findall(_FENCE.sub("", self.text)):
            slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
            number = seen.get(slug, 0)
            seen[slug] = number + 1
            anchors.add(f"{slug}-{number}" if number else slug)
        return anchors

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @property
    def spans(self) -> list[str]:
        return _SPAN.findall(self.prose)

    def section(self, heading: str) -> str:
        """Return the text below a heading, up to the next one."""
        _, found, rest = self.text.partition(f"\n## {heading}\n")
        assert found, f"{self.name} has no section {heading}"
        return rest.partition("\n## ")[0]

    def first_column(self, heading: str) -> list[str]:
        """Return the code spans in the first column of a section's tables."""
        rows = [line for line in self.section(heading).splitlines() if line.startswith("| `")]
        return [span for row in rows for span in _SPAN.findall(row.split(" | ")[0])]


@cache
def pages() -> dict[str, Page]:
    """Return every page, by its path in the repository."""
    files = []
    for name in NAMES:
        path = ROOT / name
        files += sorted(path.rglob("*.md")) if path.is_dir() else [path]
    return {page.name: page for page in (Page(path, path.read_text()) for path in files)}


def page(name: str) -> Page:
    """Return one page by its path in the repository."""
    return pages()[name]


def blocks(*languages: str) -> list[Block]:
    """Return all code blocks in these languages."""
    return [
        block for found in pages().values() for block in found.blocks if block.language in languages
    ]
