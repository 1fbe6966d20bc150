"""The written record of every run, one JSON line per event, kept for ever."""

import json
from pathlib import Path

from devstack.runpod.runs import Json, Run


class JsonLedger:
    """Appends to a file in the stand-in's data directory; each line is there when `write` ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, event: str, run: Run, body: Json) -> None:
        """Append one event of a run."""
        line = {"event": event, "id": run.id, "number": run.number, **body}
        self._file.write(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
