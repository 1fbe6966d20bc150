"""Says in a sentence for people what the table refuses a row for."""

from __future__ import annotations

import re
from collections.abc import Iterable

from worker.jobs.errors import StoreRefused

ONE_ROW_PER_KEY = "one_row_per_idempotency_key"
_CONSTRAINT = re.compile(r'constraint "(\w+)"')
_TOO_LARGE = re.compile(r'value "([^"]*)" is out of range for type')


def readable(error: StoreRefused, columns: Iterable[str]) -> StoreRefused:
    """The same refusal as a sentence; `columns` keep their spelling in it.

    Our constraints are named after what is wrong, so their names are sentences already.
    """
    said = error.message
    if found := _CONSTRAINT.search(said):
        said = found[1].replace("_", " ") + "."
        for column in columns:
            said = re.sub(rf"\b{column.replace('_', ' ')}\b", column, said)
    elif found := _TOO_LARGE.search(said):
        said = f"the number {found[1]} is too large."
    return StoreRefused(f"The table refuses this job: {said}")
