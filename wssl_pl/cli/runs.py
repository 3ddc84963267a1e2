"""`wssl runs`: a table of the runs below a directory. Of a run with `run.json` it is read without importing PyTorch."""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from json import dumps, loads
from pathlib import Path
from typing import Any

from wssl_pl.errors import WSSLError

FIELDS = ("stage", "label", "tasks", "weights", "freeze_layers", "steps", "metric", "best", "state", "time")
RECORD = "run.json"
TAIL_BYTES = 1 << 16


def runs(dir: Path = Path("runs"), *, json: bool = False) -> list[dict[str, Any]]:
    """Print a table of the runs below a directory: stage, tasks, weights, steps, best metric and state.

    The tasks of a downstream run are those of its pretext checkpoint. The state is running, `running on HOST?` (what
    another host has started cannot be seen from here), finished, interrupted (the run can be resumed), failed (it ended
    with an error) or, of a folder with checkpoints and no record, unknown.

    Example:
        wssl runs runs/study

    Args:
        dir: the directory
        json: print JSON, for scripts

    Returns:
        the runs, each as a dict.
    """
    if not dir.is_dir():
        raise WSSLError("dir", dir, "is not a directory", "name one below which there are runs")
    found = [describe(path) for path in sorted(find_runs(dir))]
    if json:
        print(dumps(found, indent=2), flush=True)
    else:
        print(table(found) if found else f"There is no run below {dir}", flush=True)
    return found


def find_runs(root: Path) -> Iterator[Path]:
    """Yield the directories that hold a run, those of links included; what is inside a run is not searched."""
    for folder, subfolders, files in os.walk(root):
        path, names = Path(folder), set(files)
        if names & {RECORD, "last.ckpt", "best.ckpt"}:
            subfolders.clear()
            yield path
        # A run that a study took over from another one is a link. Links to other folders could lead in circles.
        yield from (link for name in subfolders if (link := path / name).is_symlink() and (link / "run.json").is_file())


def read_record(directory: Path) -> dict[str, Any]:
    """Return what `run.json` holds; nothing of a run that has none."""
    try:
        record = loads((directory / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    except RecursionError:
        return {"state": "damaged"}
    return record if isinstance(record, dict) else {}


def describe(path: Path) -> dict[str, Any]:
    """Return what a run is and how far it is; None for what is not known. A damaged run is called so."""
    try:
        return _describe(path)
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError):
        return _row(path, {"state": "damaged"})  # the other runs are shown


def _describe(path: Path) -> dict[str, Any]:
    """Return the same, or raise whatever a damaged file leads to."""
    record = read_record(path)
    if record.get("state") != "running":
        return _row(path, record or {"state": "unknown"})
    error, checkpoint = None, None
    try:
        checkpoint = _read(path / "last.ckpt")
    except WSSLError:
        error = "damaged"
    state = _state(path)
    metric, best = _best(checkpoint)
    steps = checkpoint["global_step"] if checkpoint else 0
    if state.startswith("running") or checkpoint is None:
        steps = max(steps, _logged_steps(path / "metrics.csv"))
    return _row(path, record | {"steps": steps, "metric": metric, "best": best, "state": error or state})


def _row(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    row = {"run": str(path)} | {name: values.get(name) for name in FIELDS}
    return row if row["best"] is None else row | {"best": float(row["best"])}


def _read(path: Path) -> dict[str, Any] | None:
    from wssl_pl.modules import read_checkpoint

    return read_checkpoint(path, mmap=True) if path.is_file() else None


def _state(path: Path) -> str:
    """Return the state of a run that has not recorded its end."""
    from wssl_pl.files import is_held, owner_elsewhere

    if is_held(path / ".lock"):
        return "running"
    host = owner_elsewhere(path)
    return f"running on {host}?" if host else "interrupted"  # by a kill


def _best(checkpoint: Mapping[str, Any] | None) -> tuple[str | None, float | None]:
    """Return the monitored metric and its best value."""
    states = [state for state in (checkpoint or {}).get("callbacks", {}).values() if isinstance(state, dict)]
    scored = [state for state in states if state.get("monitor") and state.get("best_model_score") is not None]
    # A user's own ModelCheckpoint may monitor something else; ours keeps the loss beside the score.
    scored.sort(key=lambda state: "best_loss" not in state)
    return (scored[0]["monitor"], float(scored[0]["best_model_score"])) if scored else (None, None)


def _logged_steps(path: Path) -> int:
    """Return the number of steps up to the last row of `metrics.csv`; 0 without one."""
    try:
        with path.open("rb") as file:
            header = file.readline().decode()
            file.seek(max(file.tell(), path.stat().st_size - TAIL_BYTES))
            last = file.read().decode().rsplit("\n", 2)[-2:]
    except OSError:
        return 0
    rows = csv.DictReader(io.StringIO(header + "\n".join(last)))
    steps = [row["step"] for row in rows if (row.get("step") or "").isdecimal()]
    return int(steps[-1]) + 1 if steps else 0


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the runs as lines of aligned columns."""
    head = ["run", "stage", "tasks", "weights", "steps", "best", "state"]
    rows = [[_text(item, name) for name in head] for item in runs]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item[name]
    if value is None:
        return "-"
    if name == "best":
        return f"{item['metric']} {value:.4f}"
    if isinstance(value, list):
        return "+".join(f"{entry:.3g}" if isinstance(entry, float) else str(entry) for entry in value)
    return str(value)
