"""The permanent log of all runs, one JSON line per event."""

import json
from pathlib import Path

from devstack.runpod.runs import Json, Run


class FileRunLog:
    """Appends to a file in the stand-in's data directory; `write` returns after the write."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, event: str, run: Run, body: Json) -> None:
        """Append one event of a run."""
        line = {"event": event, "id": run.id, "number": run.number, **body}
        self._file.write(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
