"""`run.json`: what a run is, and its state. Read without importing PyTorch."""

import json
from pathlib import Path
from typing import Any

RECORD, LOCK = "run.json", ".lock"


def read_record(directory: Path) -> dict[str, Any]:
    """Return what `run.json` holds; nothing of a run that has none."""
    try:
        record = json.loads((directory / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
