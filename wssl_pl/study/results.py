"""Reads a study's folder, finished or not: what was declared, what was planned, and what each run has left."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wssl_pl.errors import UsageError
from wssl_pl.evaluation.results import Table, read_result
from wssl_pl.study.definition import Arm, Study

Curves = dict[str, list[list[float]]]


@dataclass
class Run:
    """A run as planned, and what has become of it.

    Attributes:
        id: unique in the study; its folder's name.
        stage: `pretext` or `downstream`.
        seed: of the run.
        options: of `wssl train`.
        needs: ids of the runs that come first.
        steps: that it is to take.
        arms: that it belongs to.
        trial: whether it is one of the learning-rate search, which is not reported.
        folder: where it lies.
        state: `waiting`, `running`, `done`, `failed` or `skipped`; `not begun` without a status.
        reason: why it failed or was skipped.
        seconds: that it took.
        chosen: what the search chose for it.
    """

    id: str
    stage: str
    seed: int
    options: dict[str, Any]
    needs: list[str]
    steps: int
    arms: list[str]
    trial: bool
    folder: Path
    state: str = "not begun"
    reason: str | None = None
    seconds: float = 0.0
    chosen: dict[str, Any] | None = None

    def curves(self) -> Curves:
        """Validation figures by tag, each a list of [step, value]; none where there is no file yet."""
        found = _json(self.folder / "curve.json")
        return found if isinstance(found, dict) else {}


@dataclass
class Missing:
    """Why an arm has no figures for a seed."""

    state: str
    reason: str


@dataclass
class Results:
    """What a study's folder holds.

    Attributes:
        folder: the study's.
        study: as declared.
        begun: the rest of `study.json`.
        runs: by id.
        final: each arm's reported run by seed.
        tables: figures per image of each final run that was measured, by id.
        summaries: their `summary.json`.
        missing: by arm and seed, what has no figures.
    """

    folder: Path
    study: Study
    begun: dict[str, Any]
    runs: dict[str, Run]
    final: dict[str, dict[int, str]]
    tables: dict[str, Table] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, dict[int, Missing]] = field(default_factory=dict)

    def measured(self, arm: str) -> dict[int, Run]:
        """An arm's measured runs by seed, in the study's order."""
        final = self.final.get(arm, {})
        return {
            seed: self.runs[final[seed]] for seed in self.study.seeds if seed in final and final[seed] in self.tables
        }

    def chain(self, run: Run) -> Iterator[Run]:
        """The run and all that it stands on, without the trials of a search."""
        yield run
        for name in run.needs:
            if name in self.runs and not self.runs[name].trial:
                yield from self.chain(self.runs[name])


def read_results(directory: str | Path) -> Results:
    """Reads a study's folder.

    Raises:
        UsageError: it holds no study, or one that cannot be read, or its runs were measured on different pairs.
    """
    folder = Path(directory)
    if not (folder / "study.json").is_file():
        what = "holds no study (there is no study.json)" if folder.is_dir() else "does not exist"
        raise UsageError(f"{folder} {what}: give the folder that `study NAME out=DIR` wrote")
    again = "begin it anew in another folder"
    try:
        begun = json.loads((folder / "study.json").read_text())
        study = Study.from_dict(begun.pop("study"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{folder}/study.json cannot be read, or is of another version: {again}") from None
    plan = _json(folder / "plan.json")
    try:
        runs = {entry["id"]: _run(folder, entry) for entry in plan["runs"]} if plan else {}
        final = {a: {int(s): name for s, name in by.items()} for a, by in plan["final"].items()} if plan else {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{folder}/plan.json cannot be read, or is of another version: {again}") from None
    results = Results(folder, study, begun, runs, final)
    for arm in study.arms.values():
        _read_arm(results, arm)
    _check_pairs(results)
    return results


def _json(path: Path) -> Any:
    """What a file holds; None where there is none, or one that is no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _run(folder: Path, entry: dict[str, Any]) -> Run:
    names = ("id", "stage", "seed", "options", "needs", "steps", "arms", "trial")
    run = Run(**{name: entry[name] for name in names}, folder=folder / "runs" / entry["id"])
    status = _json(run.folder / "status.json") or {}
    run.state = status.get("state", run.state)
    run.reason = status.get("reason")
    run.seconds = float(status.get("seconds") or 0.0)
    run.chosen = status.get("chosen")
    return run


def _read_arm(results: Results, arm: Arm) -> None:
    """Reads the figures of an arm's runs, or why there are none."""
    for seed in results.study.seeds:
        run = results.runs.get(results.final.get(arm.name, {}).get(seed, ""))
        missing = Missing("not planned", "it is not in plan.json") if run is None else _why_unfinished(results, run)
        if missing is None and run is not None and run.id not in results.tables:
            try:
                result = read_result(run.folder / "evaluation")
                results.tables[run.id] = result.table
                results.summaries[run.id] = {"pairs": result.pairs, "machine": result.machine}
            except UsageError:
                missing = Missing("not measured", "trained, but without a whole result of `wssl evaluate`")
        if missing is not None:
            results.missing.setdefault(arm.name, {})[seed] = missing


def _why_unfinished(results: Results, run: Run) -> Missing | None:
    if run.state == "done":
        return None
    if run.state == "failed":
        return Missing("failed", run.reason or "no reason was kept")
    for need in (results.runs[name] for name in run.needs if name in results.runs):
        if need.state == "failed" and not need.trial:
            return Missing("skipped", f"its {need.stage} run {need.id} failed: {need.reason or 'no reason was kept'}")
    reasons = {"running": "still running", "waiting": "waiting for its turn", "not begun": "its turn has not come"}
    return Missing(run.state, run.reason or reasons.get(run.state, run.state))


def _check_pairs(results: Results) -> None:
    """Raises `UsageError` unless all were measured on the same pairs."""
    manifest = _json(results.folder / "pairs" / "manifest.json")
    source, wanted = (results.folder / "pairs", manifest["hash"]) if manifest else (None, None)
    names: list[str] | None = None
    for name, summary in results.summaries.items():
        folder, found = results.runs[name].folder / "evaluation", summary["pairs"]["hash"]
        if wanted is None:
            source, wanted = folder, found
        if found != wanted:
            raise UsageError(
                f"{folder} was measured on other pairs than {source} (hash {found[:12]} against {wanted[:12]}): remove "
                "it and resume the study"
            )
        images = list(results.tables[name].images)
        names = names or images
        if images != names:
            raise UsageError(
                f"{folder} was measured on {len(images)} of the pairs, other runs on {len(names)}, "
                "not the same ones: remove it and resume the study"
            )
