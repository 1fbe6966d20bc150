"""What the migrations say of columns and moves, read from their text, so that no fake copies it."""

import re
from pathlib import Path

MIGRATIONS = Path(__file__).resolve().parents[1] / "sql" / "migrations"


def columns(*groups: str) -> frozenset[str]:
    """The columns of these groups of video_job_columns_v1."""
    text = (MIGRATIONS / "0001_video_jobs.sql").read_text()
    found: set[str] = set()
    for group in groups:
        (names,) = re.findall(rf"when '{group}' then array\[(.*?)\]", text, re.DOTALL)
        found |= set(re.findall(r"'(\w+)'", names))
    return frozenset(found)


def moves() -> frozenset[tuple[str, str]]:
    """The moves between statuses that the guard permits."""
    text = (MIGRATIONS / "0002_guards.sql").read_text()
    _, _, rest = text.partition("(old.status, new.status) not in (")
    allowed, _, _ = rest.partition(")) then")
    return frozenset(re.findall(r"\('(\w+)', '(\w+)'\)", allowed + ")"))
