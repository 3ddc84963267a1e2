"""The results of a study, finished or not: which runs were measured, and why the others were not."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.results import Result, check_same_pairs
from wssl_pl.study.definition import Study
from wssl_pl.study.folder import EVALUATION, Curve, StudyFolder
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
        notes: what a reader of the metrics has to know.
    """

    folder: StudyFolder
    study: Study
    plan: Plan
    evaluations: dict[str, Result] = field(default_factory=dict)
    missing: dict[str, dict[int, tuple[str, str]]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

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
    _same_lpips(results)
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
    """Raise `WSSLError` unless all runs were measured on the same pairs by the same protocol."""
    found = results.evaluations
    if not found:
        return
    folders = {run: results.folder.run(run) / EVALUATION for run in found}
    newest = max(found, key=lambda run: found[run].protocol)  # the first of equals; the others are measured again
    wanted = results.folder.pairs_hash() or found[newest].pairs.hash
    for run, result in found.items():
        results.folder.check_pairs(folders[run], result.pairs.hash, wanted)
        try:
            check_same_pairs(found[newest], result, folders[newest], folders[run])
        except WSSLError as error:
            remedy = "remove it and resume the study, which measures it again"
            raise WSSLError("out", error.value, error.reason, remedy) from None


def _same_lpips(results: Results) -> None:
    """Omit LPIPS where runs were measured with different networks, with a note."""
    networks = {one.weights["lpips"].network for one in results.evaluations.values() if "lpips" in one.weights}
    if len(networks) > 1:
        results.notes.append(f"LPIPS is omitted: it is of different networks ({', '.join(sorted(networks))})")
        for run, result in results.evaluations.items():
            results.evaluations[run] = replace(result, table=result.table.without("lpips"))
