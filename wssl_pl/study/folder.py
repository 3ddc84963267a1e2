"""A study's folder: its definition, the state of its runs, and their results.

study.json                  the study as defined, and the working folder in which it was started
plan.json                   its runs
sessions.json               how long it was run, on how many cores, and how much of them its runs used
pairs/                      the test pairs on which every run is measured
runs/<id>/                  a training run as `wssl train` leaves it, and log.txt
runs/<id>/status.json       its state
runs/<id>/error.json        the error with which its last command ended
runs/<id>/evaluation/       the result of `wssl evaluate`
runs/<id>/out_of_domain/    that on the pairs from elsewhere, where the study has some
runs/<id>/curve.json        its validation metrics by step, if it was imported (else metrics.csv)
"""

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wssl_pl.errors import DiskFull, WSSLError
from wssl_pl.evaluation.results import PROTOCOL, Result, read_result
from wssl_pl.files import write_json, writing
from wssl_pl.provenance import program
from wssl_pl.records import read_json
from wssl_pl.study.definition import STAGES, Study
from wssl_pl.study.plan import Plan, PlanFile, Run, Status, make_plan

VERSION = 2
OF_A_TRAINING = ("config*.yaml", "events*", "hparams.yaml", "metrics.csv", "run.json", "*.ckpt")
EVALUATION, OUT_OF_DOMAIN = "evaluation", "out_of_domain"


@dataclass(frozen=True)
class Curve:
    """A validation metric of a run by step, in ascending order."""

    metric: str
    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Session:
    """A time in which a study was run.

    Attributes:
        wall_s: seconds until its last run ended.
        cores: CPU cores that its runs were given together.
        busy_s: processor time of the runs that ended in it.
    """

    wall_s: float
    cores: float
    busy_s: float


@dataclass(frozen=True)
class Started:
    """What `study.json` holds: the study, and the folder to which relative paths of its options belong."""

    version: int
    study: Study
    cwd: str


class NotComparable(WSSLError):
    """A run was measured on other pairs than those of its study, or by another protocol than that of this program.

    Args:
        path: the folder of its result.
        reason: in words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__("out", path, reason, "resume the study, which measures it again")


class StudyFolder:
    """The folder of one study.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path) -> "StudyFolder":
        """Return a folder that holds a study.

        Raises:
            WSSLError: it holds none.
        """
        folder = cls(path)
        if not folder.holds_study():
            reason = "holds no study (there is no study.json)" if folder.path.is_dir() else "does not exist"
            raise WSSLError("out", path, reason, f"start one with `wssl study NAME out={path}`")
        return folder

    def holds_study(self) -> bool:
        """Return whether a study was started here."""
        return (self.path / "study.json").is_file()

    def start(self, study: Study) -> None:
        """Write the study and its plan; a study that is here already has to be the same.

        Raises:
            WSSLError: another study, or other files, are here, or the study differs, or the folder cannot be written.
        """
        if self.holds_study():
            self.check_same(study)
            return
        if self.path.is_file() or (self.path.is_dir() and any(p.name[0] != "." for p in self.path.iterdir())):
            raise WSSLError("out", self.path, "is not empty and holds no study", "give a new folder")
        with writing("out", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / "study.json", asdict(Started(VERSION, study, str(Path.cwd()))))
            # The plan of a study that was killed before this is made again where it is needed.
            write_json(self.path / "plan.json", make_plan(study).as_dict())

    def study(self) -> Study:
        """Return the study as it was started.

        Raises:
            WSSLError: `study.json` cannot be read.
        """
        return self._started().study

    def cwd(self) -> Path:
        """Return the folder to which relative paths of its options belong."""
        return Path(self._started().cwd)

    def _started(self) -> Started:
        path = self.path / "study.json"
        remedy = f"start the study again in another folder, with reuse={self.path} for its finished runs"
        started: Started = read_json(path, Started, "out", remedy)
        study, claims = started.study, [claim for section in started.study.sections for claim in section.claims]
        named = [name for section in study.sections for name in section.arms]
        named += [name for claim in claims for name in (*claim.better, *claim.than)]
        if missing := [*({*named} - study.arms.keys()), *({*STAGES} - study.steps.keys())]:
            raise WSSLError("out", path, f"cannot be read ({missing[0]!r} is missing)", remedy)
        return started

    def plan(self) -> Plan:
        """Return its runs with their states.

        Raises:
            WSSLError: `plan.json` cannot be read.
        """
        path = self.path / "plan.json"
        if not path.is_file():
            return make_plan(self.study())
        remedy = "delete the file; the plan is made again from study.json"
        file: PlanFile = read_json(path, PlanFile, "out", remedy)
        plan = Plan({run.id: run for run in file.runs}, file.final)
        if wrong := _wrong_id(plan):
            raise WSSLError("out", path, f"cannot be read ({wrong!r} is no run, or comes too late)", remedy)
        return replace(plan, runs={name: replace(run, status=self.status(name)) for name, run in plan.runs.items()})

    def check_same(self, study: Study) -> None:
        """Check that the study is the one that was started here.

        Raises:
            WSSLError: it is another one; the message has the differences.
        """
        before, now = asdict(self.study()), json.loads(json.dumps(asdict(study)))
        if before["name"] != now["name"]:
            remedy = f"give {now['name']!r} another folder"
            raise WSSLError("out", self.path, f"holds the study {before['name']!r}", remedy)
        if changes := list(differences(before, now)):
            shown = "; ".join(changes[:4]) + (f" and {len(changes) - 4} more" if len(changes) > 4 else "")
            raise WSSLError(
                "out", self.path, f"was started with other settings ({shown})",
                f"resume it as it was with `wssl study resume {self.path}`, or give a new folder (with "
                f"reuse={self.path} for the runs that stay the same)",
            )  # fmt: skip

    def run(self, identity: str) -> Path:
        """Return a run's folder."""
        return self.path / "runs" / identity

    def status(self, identity: str) -> Status:
        """Return the state of a run; one that was not started is waiting."""
        path = self.run(identity) / "status.json"
        try:
            return read_json(path, Status, "out", "it is started again") if path.is_file() else Status()
        except WSSLError as error:
            return Status(reason=str(error))

    def set_status(self, identity: str, status: Status) -> Status:
        """Write the state of a run, and return it.

        Raises:
            DiskFull: it cannot be written.
        """
        _write(self.run(identity) / "status.json", asdict(status))
        return status

    def sessions(self) -> list[Session]:
        """Return the times in which the study was run; none if they cannot be read."""
        try:
            found: list[Session] = read_json(self.path / "sessions.json", list[Session], "out", "it is written again")
        except WSSLError:
            return []
        return found

    def set_sessions(self, sessions: Sequence[Session]) -> None:
        """Write the times in which the study was run.

        Raises:
            DiskFull: they cannot be written.
        """
        _write(self.path / "sessions.json", [asdict(session) for session in sessions])

    def is_imported(self, identity: str) -> bool:
        """Return whether a run was imported, so that it has its curves and no model."""
        path = self.run(identity)
        return (path / "curve.json").is_file() and not (path / "best.ckpt").is_file()

    def unlink(self, run: Run) -> None:
        """Remove the link to a run of another study that has to be executed here; there it stays as it is."""
        if self.run(run.id).is_symlink() and (run.stage == "method" or self.is_imported(run.id)):
            self.run(run.id).unlink()

    def remove_results(self, identity: str) -> None:
        """Remove the results of a run whose model is trained again."""
        path = self.run(identity)
        for name in (EVALUATION, OUT_OF_DOMAIN):
            shutil.rmtree(path / name, ignore_errors=True)
        (path / f"{OUT_OF_DOMAIN}.json").unlink(missing_ok=True)

    def remove_training(self, identity: str) -> None:
        """Remove what an unfinished training has left of a run."""
        for leftover in [file for pattern in OF_A_TRAINING for file in self.run(identity).glob(pattern)]:
            leftover.unlink()

    def pairs_hash(self) -> str | None:
        """Return the hash of the study's test pairs; None where they are not here, or cannot be read."""
        try:
            manifest: dict[str, Any] = read_json(self.path / "pairs" / "manifest.json", dict[str, Any], "pairs", "")
        except WSSLError:
            return None
        return None if "hash" not in manifest else str(manifest["hash"])

    def result(self, identity: str) -> Result:
        """Return the result of a run's evaluation.

        Raises:
            WSSLError: there is none, or it cannot be read.
        """
        return read_result(self.run(identity) / EVALUATION)

    def elsewhere(self, run: Run) -> str:
        """Return the folder of pairs from elsewhere on which a run is measured too; empty without one."""
        return self.study().out_of_domain if run.reported and run.stage != "method" else ""

    def shifted(self, identity: str) -> dict[str, dict[str, float]]:
        """Return the means of a run's metrics on the pairs from elsewhere, by set and metric.

        Raises:
            WSSLError: it was not measured on them.
        """
        path = self.run(identity) / f"{OUT_OF_DOMAIN}.json"  # of a run that was imported
        if path.is_file():
            values: dict[str, dict[str, float]] = read_json(
                path, dict[str, dict[str, float]], "out", "measure it again"
            )
            return values
        table = read_result(self.run(identity) / OUT_OF_DOMAIN).table
        sets = np.array([name.rpartition("-")[0] for name in table.images])
        return {
            str(name): {
                metric: round(float(column.mean()), 4)
                for metric in table.metrics
                if np.isfinite(column := table.column(metric)[sets == name]).all()
            }
            for name in dict.fromkeys(sets)
        }

    def measured(self, run: Run, name: str = EVALUATION) -> None:
        """Check that a run has a result.

        Args:
            run: the run.
            name: `evaluation` or `out_of_domain`.

        Raises:
            WSSLError: it has none, or it cannot be read, or is of other pairs than there are now.
        """
        path = self.run(run.id) / name
        if name == EVALUATION:
            result = self.result(run.id)
            self.check_pairs(path, result.pairs.hash, self.pairs_hash())
            if result.protocol not in (0, PROTOCOL):
                reason = f"was measured by protocol {result.protocol}, this program measures by {PROTOCOL}"
                raise NotComparable(path, reason)
            return
        self.shifted(run.id)
        manifest = self.cwd() / self.elsewhere(run) / "manifest.json"
        if path.is_dir() and manifest.is_file():  # else it was imported, or the pairs are on another machine
            wanted = read_json(manifest, dict[str, Any], "out_of_domain", "write the pairs again")["hash"]
            self.check_pairs(path, read_result(path).pairs.hash, wanted)

    def check_pairs(self, path: Path, found: str, wanted: str | None) -> None:
        """Raise `NotComparable` if the result in `path` has another hash of its pairs; None: it is not known."""
        if wanted not in (None, found):
            short = f"(hash {found[:12]} against {str(wanted)[:12]})"
            raise NotComparable(path, f"was measured on other pairs than those of the study {short}")

    def is_done(self, run: Run, measured: bool) -> bool:
        """Return whether nothing of a run is left to do; with `measured`, one that is reported needs its result."""
        if self.status(run.id).state != "done":
            return False
        try:
            if measured and run.reported:
                self.measured(run)
                if self.elsewhere(run):
                    self.measured(run, OUT_OF_DOMAIN)
        except WSSLError:
            return False
        return True

    def curves(self, identity: str) -> dict[str, Curve]:
        """Return the validation metrics of a run by their names.

        A step that a resumed run has logged again counts once, with its last value.

        Raises:
            WSSLError: the file cannot be read.
        """
        found: dict[str, dict[int, float]] = {}
        path = self.run(identity) / "curve.json"
        try:
            if path.is_file() and not path.with_name("metrics.csv").is_file():  # else it is trained again
                for tag, points in json.loads(path.read_bytes()).items():
                    found[tag] = {int(step): float(value) for step, value in points}
            else:
                path = path.with_name("metrics.csv")
                for row in read_metrics(path.parent):
                    for tag, text in row.items():
                        if tag and tag.startswith("val/") and text:
                            found.setdefault(tag, {})[int(row["step"])] = float(text)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error):
            remedy = "remove the folder of the run and resume the study, which trains it again"
            raise WSSLError("out", path, "cannot be read", remedy) from None
        points = {tag: dict(sorted(values.items())) for tag, values in found.items()}
        return {tag: Curve(tag, tuple(values), tuple(values.values())) for tag, values in points.items() if values}

    def drop_dead_links(self) -> int:
        """Remove the links to runs of another study that is gone, and return how many: they are trained again."""
        dead = [path for path in (self.path / "runs").glob("*") if path.is_symlink() and not path.exists()]
        for path in dead:
            path.unlink()
        return len(dead)

    def count_other_programs(self) -> int:
        """Return how many finished trainings were made by other code than this program's, or by unknown code."""
        count = 0
        for run in self.plan().runs.values():
            if run.steps and self.status(run.id).state == "done":
                record: dict[str, Any] = {}
                with suppress(WSSLError):
                    record = read_json(self.run(run.id) / "run.json", dict[str, Any], "out", "it is not needed")
                count += record.get("code") != program()["code"]
        return count


def _wrong_id(plan: Plan) -> str | None:
    """Return the first id that is no name of a folder, or of a run that should come earlier; None without one."""
    known: set[str] = set()
    for run in plan.runs.values():
        needed = [*run.needs, *(run.chooses or {}).values(), *([run.pretext] if run.pretext else [])]
        if wrong := [name for name in needed if name not in known] + [run.id] * (Path(run.id).name != run.id):
            return wrong[0]
        known.add(run.id)
    return next((name for by_seed in plan.final.values() for name in by_seed.values() if name not in known), None)


def read_metrics(directory: Path) -> list[dict[str, str]]:
    """Return the rows of a run's `metrics.csv`, without a row that is being written; none before the first one."""
    try:
        text = (directory / "metrics.csv").read_text(errors="replace")
    except FileNotFoundError:
        return []
    rows = list(csv.DictReader(text.splitlines()))
    return rows if text.endswith("\n") else rows[:-1]


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield the differences between two nested values, one line each: `options.common.data.batch_size: 16 -> 8`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            name = f"{where}.{key}" if where else str(key)
            if key not in now:
                yield f"{name}: {before[key]} -> omitted"
            elif key not in before:
                yield f"{name}: omitted -> {now[key]}"
            else:
                yield from differences(before[key], now[key], name)
    elif before != now:
        yield f"{where}: {before} -> {now}"


def _write(path: Path, values: Any) -> None:
    """Write a file, or raise `DiskFull`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, values)
    except OSError as error:
        raise DiskFull(f"{path} cannot be written: {error.strerror}") from None
