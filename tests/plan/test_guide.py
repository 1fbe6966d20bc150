"""The page about the guide is complete, and what it points to exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guide.md").read_text()
ROWS = {row.split(" | ")[0].strip("| "): row for row in PAGE.splitlines() if row.startswith("| ")}


def test_every_statement_of_the_guide_has_its_row() -> None:
    """G001 to G206, each with an answer."""
    for number in range(1, 207):
        row = ROWS[f"G{number:03d}"]
        assert row.count(" | ") >= 2
        assert row.rstrip("| ").endswith("."), row


def test_every_contradiction_has_its_row() -> None:
    """X1 to X60, and no row points to another."""
    assert all(f"X{number}" in ROWS for number in range(1, 61))
    assert {int(number) for number in re.findall(r"\bX(\d+)\b", PAGE)} == set(range(1, 61))


def test_the_page_points_to_files_that_exist() -> None:
    """Those in code spans with a folder in them."""
    for name in set(re.findall(r"`((?:worker|tests|docs|workflows|sql)/[\w./-]*)`", PAGE)):
        assert (ROOT / name).exists(), name
