"""The results of a study as a small folder of JSON, from which another machine resumes it without training again.

study.json         as in the study's folder
pairs.json         names, hole ratios and bins of the test pairs
sessions.json      as in the study's folder
runs/<id>.json     a finished run: its state, its validation metrics, and its metrics of each test pair as whole numbers

Checkpoints stay: a pretext run is trained again where a run that is left needs its encoder.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.results import Machine, MeasuredPairs, Result, Table, Weights
from wssl_pl.files import owned, write_atomically, write_json, writing
from wssl_pl.records import read_json
from wssl_pl.study.folder import (
    EVALUATION,
    OUT_OF_DOMAIN,
    VERSION,
    Started,
    StudyFolder,
)
from wssl_pl.study.plan import Run, Status
from wssl_pl.study.sections import SECTIONS, open_sections, section_names, start_sections
from wssl_pl.study.verdicts import COLUMNS, RESTORED_COLUMNS

SIGNIFICANT = 6  # digits of a validation metric
REMEDY = "export the study again"


@dataclass(frozen=True)
class ImageNames:
    """What `pairs.json` holds: of each test pair its name, its hole ratio, and the bin of that."""

    images: list[str]
    ratios: list[float]
    bins: list[str]


@dataclass(frozen=True)
class Measured:
    """A result without its images.

    Attributes:
        method: name and settings.
        pairs: which were measured.
        machine: where.
        seconds_per_image: of the method.
        values: of each pair by metric, in hundredths of a dB, or thousandths; None where there is none.
        weights: of the networks behind LPIPS.
        protocol: version of the protocol; 0 if unknown.
    """

    method: dict[str, Any]
    pairs: MeasuredPairs
    machine: Machine
    seconds_per_image: float | None
    values: dict[str, list[int | None]]
    weights: dict[str, Weights] = field(default_factory=dict)
    protocol: int = 0


@dataclass(frozen=True)
class Finished:
    """What `runs/<id>.json` holds.

    Attributes:
        status: of the run.
        curves: steps and values of each validation metric.
        result: of its evaluation, if it has one.
        out_of_domain: means by set and metric, if there are any.
    """

    status: Status
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    result: Measured | None = None
    out_of_domain: dict[str, dict[str, float]] | None = None


def export_study(directory: str | Path, out: Path) -> int:
    """Write the finished runs of a study, of all its sections, and return how many there are.

    Files that are there already and hold the same are not written again; runs that another machine has exported stay.

    Args:
        directory: the study's folder.
        out: the folder of JSON, which may hold an earlier export of the study.

    Raises:
        WSSLError: there is no study, `out` holds another one, or it cannot be written.
    """
    folders = open_sections(directory)
    if folders[0].path != Path(directory):
        with writing("out", out):
            out.mkdir(parents=True, exist_ok=True)
            known = section_names(out) if (out / SECTIONS).is_file() else []
            _write(out / SECTIONS, list(dict.fromkeys([*known, *(folder.path.name for folder in folders)])))
    return sum(_export(folder, out if folder.path == Path(directory) else out / folder.path.name) for folder in folders)


def _export(folder: StudyFolder, out: Path) -> int:
    started = asdict(Started(VERSION, folder.study(), "."))  # no folder of this machine
    if (out / "study.json").is_file():
        StudyFolder(out).check_same(folder.study())
    elif out.is_dir() and any(out.iterdir()):
        raise WSSLError("out", out, "is not empty and holds no study", "give a new folder")
    count = 0
    with writing("out", out):
        (out / "runs").mkdir(parents=True, exist_ok=True)
        _write(out / "study.json", started)
        if len(sessions := folder.sessions()) >= len(StudyFolder(out).sessions()):
            _write(out / "sessions.json", [asdict(session) for session in sessions])
        for run in folder.plan().runs.values():
            if not folder.is_done(run, measured=True):
                continue
            finished, names = _finished(folder, run)
            if names is not None:
                _write(out / "pairs.json", asdict(names))
            _write(out / "runs" / f"{run.id}.json", asdict(finished))
            count += 1
    return count


def _write(path: Path, value: Any) -> None:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n"
    if not path.is_file() or path.read_text() != text:
        write_atomically(path, text)


def _finished(folder: StudyFolder, run: Run) -> tuple[Finished, ImageNames | None]:
    """Return what is kept of a finished run, and the names of the pairs if it was measured."""
    curves = {
        tag: [[step, float(f"{value:.{SIGNIFICANT}g}")] for step, value in zip(curve.steps, curve.values, strict=True)]
        for tag, curve in folder.curves(run.id).items()
        if np.isfinite(curve.values).all()
    }
    status = folder.status(run.id)
    if not run.reported:
        return Finished(status, curves), None
    result = folder.result(run.id)
    table = result.table
    kept = [name for name in (RESTORED_COLUMNS if table.restored else COLUMNS) if name in table.metrics]
    seconds = result.seconds_per_image
    measured = Measured(
        # No folders of this machine.
        {key: Path(value).name if isinstance(value, str) else value for key, value in result.method.items()},
        MeasuredPairs(hash=result.pairs.hash, count=result.pairs.count, evaluated=result.pairs.evaluated,
                      restore=result.pairs.restore),
        result.machine,
        round(seconds, 6) if np.isfinite(seconds) else None,
        {name: [_whole(value, name) for value in table.column(name)] for name in kept},
        dict(result.weights), result.protocol,
    )  # fmt: skip
    elsewhere = None
    if folder.elsewhere(run):
        sets = folder.shifted(run.id)
        elsewhere = {name: {key: means[key] for key in kept if key in means} for name, means in sets.items()}
    names = ImageNames(table.images.tolist(), table.ratios.round(6).tolist(), table.bins.tolist())
    return Finished(status, curves, measured, elsewhere), names


def _whole(value: float, metric: str) -> int | None:
    return round(value * _scale(metric)) if np.isfinite(value) else None


def _scale(metric: str) -> int:
    """Return how many of the whole numbers a unit of a metric has: means over the pairs keep four decimals."""
    return 100 if metric.startswith("psnr") else 1000


def import_study(exported: str | Path, out: Path) -> int:
    """Start the study of an export in `out`, or resume what is there, with its finished runs; return how many it takes.

    Runs that `out` has finished itself stay as they are.

    Args:
        exported: the folder that `export_study` wrote.
        out: the folder of the study.

    Raises:
        WSSLError: there is no export, a file of it cannot be read, or `out` holds another study, or is in use.
    """
    sources = open_sections(exported)
    alone = sources[0].path == Path(exported)
    # All is read before anything is written.
    found = [{run.id: _read(source, run.id) for run in source.plan().runs.values()} for source in sources]
    folders = start_sections(out, {"" if alone else source.path.name: source.study() for source in sources})
    taken = 0
    for source, folder, finished in zip(sources, folders, found, strict=True):
        with owned(folder.path):
            for identity, run in finished.items():
                if run is not None and folder.status(identity).state != "done":
                    _bring_back(source, folder, identity, run)
                    taken += 1
            if not folder.sessions() and source.sessions():
                folder.set_sessions(source.sessions())
    return taken


def _read(source: StudyFolder, identity: str) -> Finished | None:
    path = source.path / "runs" / f"{identity}.json"
    if not path.is_file():
        return None
    finished: Finished = read_json(path, Finished, "study", REMEDY)
    if finished.result is not None:
        names = _names(source)
        wrong = [name for name, column in finished.result.values.items() if len(column) != len(names.images)]
        if wrong or "name" not in finished.result.method:
            raise WSSLError("study", path, "cannot be read (its metrics are not those of the pairs)", REMEDY)
    return finished


def _names(source: StudyFolder) -> ImageNames:
    names: ImageNames = read_json(source.path / "pairs.json", ImageNames, "study", REMEDY)
    return names


def _bring_back(source: StudyFolder, folder: StudyFolder, identity: str, finished: Finished) -> None:
    """Write a finished run, its state last: one that is killed before that is written again."""
    path = folder.run(identity)
    with writing("out", folder.path):
        path.mkdir(parents=True, exist_ok=True)
        folder.remove_training(identity)  # a half-trained encoder would pass for a finished one
        write_json(path / "curve.json", finished.curves)
        if finished.out_of_domain is not None:
            write_json(path / f"{OUT_OF_DOMAIN}.json", finished.out_of_domain)
        if finished.result is not None:
            kept, names = finished.result, _names(source)
            columns = [
                [np.nan if value is None else value / _scale(metric) for value in column]
                for metric, column in kept.values.items()
            ]
            table = Table(
                np.array(names.images), np.array(names.ratios), np.array(names.bins), tuple(kept.values),
                np.array(columns, float).reshape(len(columns), -1).T,
            )  # fmt: skip
            seconds = np.nan if kept.seconds_per_image is None else kept.seconds_per_image
            Result(
                table, kept.method, kept.pairs, kept.machine, seconds_per_image=seconds, weights=kept.weights,
                protocol=kept.protocol,
            ).save(path / EVALUATION)  # fmt: skip
    folder.set_status(identity, finished.status)
