"""Explains in a sentence why the table refuses a row."""

from __future__ import annotations

import re
from collections.abc import Iterable

from worker.jobs.errors import StoreRefused

ONE_ROW_PER_KEY = "one_row_per_idempotency_key"
_CONSTRAINT = re.compile(r'constraint "(\w+)"')
_TOO_LARGE = re.compile(r'value "([^"]*)" is out of range for type')


def readable(error: StoreRefused, columns: Iterable[str]) -> StoreRefused:
    """Return the same error with a readable sentence; names of `columns` keep their spelling.

    The names of our constraints say what is allowed, so they serve as sentences.
    """
    text = error.message
    if found := _CONSTRAINT.search(text):
        text = found[1].replace("_", " ") + "."
        for column in columns:
            text = re.sub(rf"\b{column.replace('_', ' ')}\b", column, text)
    elif found := _TOO_LARGE.search(text):
        text = f"the number {found[1]} is too large."
    return StoreRefused(f"The table refuses this job: {text}")
