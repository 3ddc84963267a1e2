"""The results of a study, finished or not: which runs were measured, and why the others were not."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.results import Result
from wssl_pl.records import read_json
from wssl_pl.study.definition import Study
from wssl_pl.study.folder import Curve, StudyFolder
from wssl_pl.study.plan import Plan, Run


@dataclass(frozen=True)
class Results:
    """The results of a study, finished or not.

    Attributes:
        folder: the study's.
        study: as defined.
        plan: its runs with their states.
        evaluations: of the reported runs that were measured, by id.
        missing: for each arm and seed without metrics, the state and the reason.
        damaged: a line for each run whose validation metrics cannot be read, by id.
    """

    folder: StudyFolder
    study: Study
    plan: Plan
    evaluations: dict[str, Result] = field(default_factory=dict)
    missing: dict[str, dict[int, tuple[str, str]]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def restore(self) -> list[str]:
        """The damages of the inputs on which the runs were measured."""
        return next((result.pairs.restore for result in self.evaluations.values()), [])

    def measured(self, arm: str) -> dict[int, Run]:
        """Return an arm's measured runs by seed, in the study's order."""
        final = self.plan.final.get(arm, {})
        found = {seed: final[seed] for seed in self.study.seeds if final.get(seed) in self.evaluations}
        return {seed: self.plan.runs[run] for seed, run in found.items()}

    def chain(self, run: Run) -> Iterator[Run]:
        """Yield the run and all runs that it needs, without the trials of a search."""
        yield run
        for name in run.needs:
            if not self.plan.runs[name].trial:
                yield from self.chain(self.plan.runs[name])

    def curves(self, identity: str) -> dict[str, Curve]:
        """Return a run's validation metrics by name; none, and a line in `damaged`, if they cannot be read."""
        try:
            return self.folder.curves(identity)
        except WSSLError as error:
            self.damaged.setdefault(identity, str(error))
            return {}


def read_results(directory: str | Path) -> Results:
    """Read a study's folder.

    Raises:
        WSSLError: it holds no study, or one that cannot be read, or its runs were measured on different pairs.
    """
    folder = StudyFolder.open(directory)
    results = Results(folder, folder.study(), folder.plan())
    for name in results.study.arms:
        for seed in results.study.seeds:
            identity = results.plan.final.get(name, {}).get(seed)
            run = None if identity is None else results.plan.runs[identity]
            reason = ("not planned", "it is not in plan.json") if run is None else _unfinished(results.plan, run)
            if run is not None and reason is None and run.id not in results.evaluations:
                try:
                    results.evaluations[run.id] = folder.result(run.id)
                except WSSLError as error:
                    reason = "not measured", f"{error.reason}: resume the study, which measures it"
            if reason is not None:
                results.missing.setdefault(name, {})[seed] = reason
    _check_pairs(results)
    return results


def _unfinished(plan: Plan, run: Run) -> tuple[str, str] | None:
    state, reason = run.status.state, run.status.reason
    if state == "done":
        return None
    for need in (plan.runs[name] for name in run.needs):
        if state != "failed" and need.status.state == "failed" and not need.trial:
            return "skipped", f"its {need.stage} run {need.id} failed: {need.status.reason or 'no reason was recorded'}"
    reasons = {"failed": "no reason was recorded", "running": "started and not finished", "waiting": "not started"}
    return state, reason or reasons.get(state, state)


def _check_pairs(results: Results) -> None:
    """Raise `WSSLError` unless all runs were measured on the same pairs."""
    source = results.folder.path / "pairs"
    try:
        wanted = read_json(source / "manifest.json", dict[str, Any], "pairs", "")["hash"]
    except (WSSLError, KeyError):
        wanted = None
    names: list[str] | None = None
    for run, result in results.evaluations.items():
        folder, found = results.folder.run(run) / "evaluation", result.pairs.hash
        if wanted is None:
            source, wanted = folder, found
        own = list(result.table.images)
        names = names or own
        if found == wanted and own == names:
            continue
        reason = f"was measured on {len(own)} of the pairs, other runs on {len(names)}, not the same ones"
        if found != wanted:
            reason = f"was measured on other pairs than {source} (hash {found[:12]} against {wanted[:12]})"
        raise WSSLError("out", folder, reason, "remove it and resume the study")
