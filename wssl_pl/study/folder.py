"""A study's folder: what it declares, what its runs have come to, and that nobody changes it unnoticed.

study.json                  the study as declared, and where it was begun
plan.json                   its runs
pairs/                      the test pairs that every run is measured on
runs/<id>/                  a training run as `wssl train` leaves it, and log.txt
runs/<id>/status.json       what has become of it
runs/<id>/curve.json        its validation figures by step
runs/<id>/evaluation/       the result of `wssl evaluate`
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wssl_pl.errors import UsageError
from wssl_pl.files import locked
from wssl_pl.study.definition import Options, Study
from wssl_pl.study.plan import Plan, make_plan

VERSION = 1
ENDED = ("done", "failed", "skipped")


@dataclass
class Status:
    """What has become of a run.

    Attributes:
        state: `waiting`, `running`, `done`, `failed` (its own fault) or `skipped` (what it needs failed).
        reason: why it failed, in one line.
        seconds: of training, over all attempts.
        steps: that it has trained.
        attempts: how often it was started.
        chosen: what the search chose for it.
    """

    state: str = "waiting"
    reason: str | None = None
    seconds: float = 0.0
    steps: int = 0
    attempts: int = 0
    chosen: Options | None = None


class StudyFolder:
    """The folder of one study.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path) -> "StudyFolder":
        """A folder that holds a study.

        Raises:
            UsageError: it holds none.
        """
        folder = cls(path)
        if not folder.holds_study():
            what = "holds no study (there is no study.json)" if folder.path.is_dir() else "does not exist"
            raise UsageError(f"{path} {what}: begin one with `study NAME out={path}`")
        return folder

    def holds_study(self) -> bool:
        """Whether a study was begun here."""
        return (self.path / "study.json").is_file()

    def begin(self, study: Study) -> None:
        """Writes what the study declares and plans; a study that is here already has to be the same.

        Raises:
            UsageError: another study, or other files, are here, or the study is another than it was.
        """
        if self.holds_study():
            self.check_same(study)
            return
        if self.path.is_file() or (self.path.is_dir() and any(p.name != ".lock" for p in self.path.iterdir())):
            raise UsageError(f"out={self.path} is not empty and holds no study: give a new folder")
        (self.path / "runs").mkdir(parents=True, exist_ok=True)
        write_json(self.path / "plan.json", make_plan(study).as_dict())
        write_json(self.path / "study.json", {"version": VERSION, "study": study.as_dict(), "cwd": str(Path.cwd())})

    def study(self) -> Study:
        """The study as it was begun."""
        return Study.from_dict(self._begun()["study"])

    def plan(self) -> Plan:
        """Its runs."""
        return make_plan(self.study())

    def cwd(self) -> Path:
        """The folder that relative paths of its options start from."""
        return Path(self._begun()["cwd"])

    def _begun(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.path / "study.json").read_text())
        return values

    def check_same(self, study: Study) -> None:
        """Raises `UsageError` with the difference unless `study` is the one that was begun here."""
        before, now = self.study().as_dict(), json.loads(json.dumps(study.as_dict()))
        if before["name"] != now["name"]:
            raise UsageError(
                f"out={self.path} holds the study {before['name']!r}: give {now['name']!r} a folder of its own"
            )
        changes = list(differences(before, now))
        if changes:
            shown = "; ".join(changes[:4]) + (f" and {len(changes) - 4} more" if len(changes) > 4 else "")
            raise UsageError(
                f"out={self.path} was begun with another setting: {shown}; resume it as it was with `study resume "
                f"{self.path}`, or begin a new folder (with reuse={self.path} for the runs that stay the same)"
            )

    def run(self, identity: str) -> Path:
        """A run's folder."""
        return self.path / "runs" / identity

    def status(self, identity: str) -> Status:
        """What has become of a run; one that nobody has begun is waiting."""
        try:
            return Status(**json.loads((self.run(identity) / "status.json").read_text()))
        except FileNotFoundError:
            return Status()
        except (ValueError, TypeError):
            return Status(reason="its status.json cannot be read: it is begun again")

    def set_status(self, identity: str, status: Status) -> None:
        """Keeps what has become of a run."""
        self.run(identity).mkdir(parents=True, exist_ok=True)
        write_json(self.run(identity) / "status.json", asdict(status))

    def curve(self, identity: str) -> dict[str, list[tuple[int, float]]]:
        """Validation figures by name, each a list of step and value; empty before the run is done."""
        path = self.run(identity) / "curve.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One driver at a time.

        Raises:
            UsageError: another process runs this study.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / ".lock", "out", self.path):
            yield

    def reuse(self, other: "StudyFolder", plan: Plan) -> int:
        """Takes over by link the finished runs that this plan shares with another study; tells how many.

        Raises:
            UsageError: the other one was measured on other pairs.
        """
        taken = 0
        for identity in plan.runs:
            mine, theirs = self.run(identity), other.run(identity)
            if not mine.exists() and other.status(identity).state == "done":
                mine.symlink_to(theirs.resolve(), target_is_directory=True)
                taken += 1
        return taken


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """What differs between two nested values, one line each: `options.common.data.batch_size: 16 -> 8`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            name = f"{where}.{key}" if where else str(key)
            if key not in now:
                yield f"{name}: {before[key]} -> left out"
            elif key not in before:
                yield f"{name}: not there -> {now[key]}"
            else:
                yield from differences(before[key], now[key], name)
    elif before != now:
        yield f"{where}: {before} -> {now}"


def write_json(path: Path, values: Any) -> None:
    """Writes a file that is whole whenever it is there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(values, indent=2) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
