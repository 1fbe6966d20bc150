"""docs/settings.md is generated from the settings."""

import re

from tests.docs.settings_page import GROUPS, PAGE, page
from worker.settings import PLACEHOLDERS, Settings, load_settings


def test_the_page_is_what_make_docs_writes() -> None:
    assert PAGE.read_text("utf-8") == page(), "run `make docs`"


def test_every_setting_has_its_line_with_a_meaning() -> None:
    lines = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", page(), re.MULTILINE)
    assert [name for name, *_ in lines] == [name.upper() for name in Settings.model_fields]
    assert all(len(meaning) > 10 for *_, meaning in lines)


def test_every_heading_begins_with_a_setting_that_exists() -> None:
    assert set(GROUPS.values()) <= set(Settings.model_fields)
    assert page().count("\n## ") == len(GROUPS)


def test_what_is_said_to_be_needed_is_enough_to_start() -> None:
    assert load_settings({name: f"https://{name}.example" if name.endswith("_URL") else "x"
                          for name in PLACEHOLDERS}).port == 8080  # fmt: skip
