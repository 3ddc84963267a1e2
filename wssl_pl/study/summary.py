"""All numbers of a study's report: arms, verdicts, the ranking of the arms, and what the search tried."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.results import Machine
from wssl_pl.evaluation.statistics import MIN_SEEDS, compare
from wssl_pl.study.definition import Tuning
from wssl_pl.study.results import Results
from wssl_pl.study.verdicts import ArmResult, Verdict, arm_result, group_values, judge_section

VERSION = 7  # of report.json
OWN = "own"  # the set of the pairs from elsewhere that are like the study's own


@dataclass(frozen=True)
class Ranked:
    """An arm's place.

    Attributes:
        arm: its name.
        mean: of the metric.
        difference: from the best arm, on the seeds that both have.
        low: lower bound of its 95 % interval over seeds and images; None where too few seeds have both. It is not
            corrected for the number of intervals.
        high: upper bound.
    """

    arm: str
    mean: float
    difference: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Trial:
    """A value that the search has tried: its best validation metric over the trial, by which it is chosen."""

    best: float | None
    state: str
    reason: str | None


@dataclass(frozen=True)
class Search:
    """The trials of an arm by value, and the values chosen for its runs."""

    tried: dict[float, Trial]
    chosen: list[float]


@dataclass(frozen=True)
class StudyReport:
    """All numbers of a report, as in `report.json`.

    Attributes:
        name: of the study.
        study: as defined.
        runs: how many runs are in each state.
        pairs: hash and number of the test pairs, and the damages of their inputs; None before a run is measured.
        machines: on which the runs were measured.
        arms: by name.
        verdicts: by the name of the section.
        ranking: the best arm first.
        ranked_by: the metric of the ranking.
        searches: trials and chosen values by arm; empty without a search.
        shifts: dB that an arm loses on each set of the pairs from elsewhere, one per measured seed, by arm and set.
        version: of the file.
    """

    name: str
    study: dict[str, Any]
    runs: dict[str, int]
    pairs: dict[str, Any] | None
    machines: list[Machine]
    arms: dict[str, ArmResult]
    verdicts: dict[str, list[Verdict]]
    ranking: list[Ranked]
    searches: dict[str, Search]
    ranked_by: str
    shifts: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    version: int = VERSION


def summarise(results: Results) -> StudyReport:
    """Return all numbers of the report."""
    study = results.study
    states = [run.status.state for run in results.plan.runs.values()]
    arms = {name: arm_result(results, arm) for name, arm in study.arms.items()}
    measured = results.evaluations.values()
    pairs = [
        {"hash": result.pairs.hash, "count": len(result.table.images), "restore": result.pairs.restore}
        for result in measured
    ]
    return StudyReport(
        name=study.name,
        study=asdict(study),
        runs={state: states.count(state) for state in sorted(set(states))} | {"all": len(states)},
        pairs=pairs[0] if pairs else None,
        machines=list(dict.fromkeys(result.machine for result in measured)),
        arms=arms,
        verdicts={section.name: judge_section(results, section, arms) for section in study.sections},
        ranking=rank(results, arms),
        ranked_by=ranked_by(results),
        searches={name: search_of(results, study.tune, name) for name in study.arms} if study.tune else {},
        shifts=find_shifts(results),
    )


def ranked_by(results: Results) -> str:
    """Return the metric by which arms are ranked: PSNR of the composite, or where there is none of the whole output."""
    return "psnr" if results.restore else "psnr_composite"


def rank(results: Results, arms: Mapping[str, ArmResult]) -> list[Ranked]:
    """Return the measured arms, the best first, without those that lack a seed or, where it is required, convergence.

    A seed is lacking that another arm has: without it a mean is over other runs, harder or easier ones.
    """
    metric = ranked_by(results)
    settled = results.study.convergence == "reported"
    measured = {name: arm.metrics[metric].mean for name, arm in arms.items() if not lacks_seed(arm, arms)}
    means = {
        name: mean
        for name, mean in measured.items()
        if mean is not None and (settled or arms[name].convergence.state == "converged")
    }
    names = sorted(means, key=lambda name: -means[name])
    found = []
    for name in names:
        entry = Ranked(name, means[name], means[name] - means[names[0]])
        common = [number for number in arms[names[0]].runs if number in arms[name].runs]
        if name != names[0] and len(common) >= MIN_SEEDS:
            own, best = (group_values(results, [arm], common, metric) for arm in (name, names[0]))
            (between,) = compare((own - best)[None])
            if between is not None:
                entry = replace(entry, difference=between.mean, low=between.low, high=between.high)
        found.append(entry)
    return found


def find_shifts(results: Results) -> dict[str, dict[str, list[float]]]:
    """Return the dB that each arm loses on each set of the pairs from elsewhere, by arm and set, one per seed."""
    found: dict[str, dict[str, list[float]]] = {}
    metric = ranked_by(results)
    for name in results.study.arms if results.study.out_of_domain else ():
        for run in results.measured(name).values():
            with suppress(WSSLError):  # not measured there yet
                sets = results.folder.shifted(run.id)
                for other, means in sets.items():
                    if other != OWN and metric in means and metric in sets.get(OWN, {}):
                        own = found.setdefault(name, {}).setdefault(other, [])
                        own.append(sets[OWN][metric] - means[metric])
    return found


def lacks_seed(arm: ArmResult, arms: Mapping[str, ArmResult]) -> bool:
    """Return whether an arm is measured with fewer seeds than the one that has most."""
    return len(arm.runs) < max(1, *(len(other.runs) for other in arms.values()))


def search_of(results: Results, tune: Tuning, arm: str) -> Search:
    """Return what the search has tried and chosen for an arm."""
    tried = {}
    for run in results.plan.runs.values():
        if run.trial and arm in run.arms and tune.option in run.options:
            curve = results.curves(run.id).get(f"val/{tune.metric}")
            best = max(curve.values) if curve is not None and run.status.state == "done" else None
            tried[float(run.options[tune.option])] = Trial(best, run.status.state, run.status.reason)
    final = [results.plan.runs[run].status.chosen or {} for run in results.plan.final.get(arm, {}).values()]
    return Search(tried, sorted({float(options[tune.option]) for options in final if tune.option in options}))
