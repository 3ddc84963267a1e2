"""Every number of a study's report, in plain types: what `report.json` holds and the pages are made from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from wssl_pl.evaluation.statistics import CONVERGENCE_METRIC as FIGURE
from wssl_pl.evaluation.statistics import (
    CONVERGENCE_RULE,
    LEVEL,
    RESAMPLES,
    Convergence,
    judge_convergence,
    smallest_exact_p,
    student_quantile,
)
from wssl_pl.study.definition import FIGURES, Arm, Options, Tuning
from wssl_pl.study.ranking import rank
from wssl_pl.study.results import Curves, Results, Run
from wssl_pl.study.verdicts import finite_mean, judge_section

VERSION = 2
ACCURACY = "val/accuracy/"


def summarise(results: Results, seed: int = 0) -> dict[str, Any]:
    """All that the report says.

    Args:
        results: of the study.
        seed: of the bootstrap.
    """
    study = results.study
    convergence = {name: judge_arm(results, name) for name in study.arms}
    states = [run.state for run in results.runs.values()]
    arms = {name: describe_arm(results, arm, convergence[name]) for name, arm in study.arms.items()}
    return {
        "version": VERSION,
        "name": study.name,
        "declared": study.as_dict(),
        "seeds": study.seeds,
        "runs": {state: states.count(state) for state in sorted(set(states))} | {"all": len(states)},
        "pairs": _pairs(results),
        "machines": _distinct(summary["machine"] for summary in results.summaries.values()),
        "bootstrap": {"resamples": RESAMPLES, "level": LEVEL, "seed": seed},
        "few_seeds": few_seeds(len(study.seeds)),
        "cosine": "cosine" in json.dumps([study.options, [asdict(arm) for arm in study.arms.values()]]),
        "convergence_rule": CONVERGENCE_RULE,
        "arms": arms,
        "ranking": rank(results, arms, seed),
        "sections": [
            {
                "name": section.name,
                "title": section.title,
                "arms": section.arms,
                "plots": section.plots,
                "verdicts": judge_section(results, section, convergence, seed),
            }
            for section in study.sections
        ],
        "failed": [
            {"id": run.id, "stage": run.stage, "seed": run.seed, "arms": run.arms, "trial": run.trial}
            | {"state": run.state, "reason": run.reason}
            for run in results.runs.values()
            if run.state in ("failed", "skipped")
        ],
        "search": describe_search(results, study.tune) if study.tune else None,
    }


def judge_arm(results: Results, arm: str) -> Convergence:
    """By the raw validation PSNR of its measured seeds."""
    runs = results.measured(arm)
    return judge_convergence([run.curves().get(FIGURE, []) for run in runs.values()])


def few_seeds(count: int) -> dict[str, Any]:
    """What so many seeds can tell at best."""
    if count < 2:
        return {"seeds": count}
    return {
        "seeds": count,
        "t": student_quantile(LEVEL, count - 1),
        "smallest_exact_p": smallest_exact_p(count),
        "largest_percentile_coverage": 1.0 - 2.0 ** (1 - count),
    }


def describe_arm(results: Results, arm: Arm, convergence: Convergence) -> dict[str, Any]:
    """An arm's figures, their spread over seeds, what it cost, and what is missing."""
    runs = results.measured(arm.name)
    names, weights = tasks_of(arm)
    chains = {seed: list(results.chain(run)) for seed, run in runs.items()}
    pretexts = {run.id: run for chain in chains.values() for run in chain if run.stage == "pretext"}
    missing = results.missing.get(arm.name, {})
    return {
        "label": arm.label,
        "tasks": names,
        "weights": weights,
        "paper": arm.paper,
        "seeds": list(runs),
        "figures": {figure: spread(results, runs, figure) for figure in FIGURES},
        "steps": _by_stage(chains.values(), lambda run: run.steps),
        "minutes": _by_stage(chains.values(), lambda run: run.seconds / 60),
        "accuracy": accuracies([run.curves() for run in pretexts.values()]),
        "convergence": asdict(convergence),
        "chosen": {str(seed): run.chosen for seed, run in runs.items() if run.chosen},
        "curves": {str(seed): run.curves() for seed, run in runs.items()},
        "runs": {str(seed): run.id for seed, run in runs.items()},
        "missing": [{"seed": seed, **asdict(missing[seed])} for seed in missing],
    }


def spread(results: Results, runs: Mapping[int, Run], figure: str) -> dict[str, Any]:
    """The mean over images of each seed, their mean, and their standard deviation (n - 1; None with one seed)."""
    means = {str(seed): finite_mean(results.tables[run.id].column(figure)) for seed, run in runs.items()}
    values = [value for value in means.values() if value is not None]
    return {
        "mean": float(np.mean(values)) if values else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "by_seed": means,
    }


def _by_stage(chains: Iterable[Sequence[Run]], amount: Any) -> dict[str, float]:
    """What a seed costs in each stage, the mean over seeds; a shared run counts in full for each arm that uses it."""
    chains = list(chains)
    return {
        stage: float(np.mean([sum(amount(run) for run in chain if run.stage == stage) for chain in chains]))
        for stage in ("pretext", "downstream")
        if chains
    }


def accuracies(curves: Sequence[Curves]) -> dict[str, float]:
    """Validation accuracy by task where its mean over tasks was highest, as `best.ckpt` is kept; the mean over runs."""
    found: dict[str, list[float]] = {}
    for run in curves:
        heads = {
            tag.removeprefix(ACCURACY): {step: value for step, value in points}  # noqa: C416  (mypy: not pairs)
            for tag, points in run.items()
            if tag.startswith(ACCURACY)
        }
        steps = set.intersection(*(set(head) for head in heads.values())) if heads else set()
        if steps:
            best = max(sorted(steps), key=lambda step: sum(head[step] for head in heads.values()))
            for name, head in heads.items():
                found.setdefault(name, []).append(head[best])
    return {name: float(np.mean(values)) for name, values in found.items()}


def tasks_of(arm: Arm) -> tuple[list[str], list[float] | None]:
    """An arm's pretext tasks and their weights, scaled to sum 1; None where weights are learned."""
    options = arm.pretext or {}
    names = [str(name) for name in _list(_option(options, "tasks"))]
    weights = [float(value) for value in _list(_option(options, "weights"))] or [1.0] * len(names)
    if _option(options, "weighting") not in (None, "fixed") or len(weights) != len(names):
        return names, None
    return names, [weight / sum(weights) for weight in weights]


def _option(options: Options, name: str) -> Any:
    return options.get(name, options.get(f"model.{name}"))


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.strip("[]").split(",") if part.strip()]
    return list(value or [])


def describe_search(results: Results, tune: Tuning) -> dict[str, Any]:
    """What the search tried for each arm, and what it chose."""
    arms = {}
    for name in results.study.arms:
        tried = {}
        for run in results.runs.values():
            if run.trial and name in run.arms and tune.option in run.options:
                points = [value for _, value in run.curves().get(f"val/{tune.figure}", [])]
                # The best over the trial, as the search chooses by it.
                best = max(points) if points and run.state == "done" else None
                tried[str(run.options[tune.option])] = {"best": best, "state": run.state, "reason": run.reason}
        runs = [results.runs[run] for run in results.final.get(name, {}).values() if run in results.runs]
        chosen = {str(run.chosen[tune.option]) for run in runs if run.chosen and tune.option in run.chosen}
        arms[name] = {"tried": tried, "chosen": sorted(chosen)}
    return {**asdict(tune), "arms": arms}


def _pairs(results: Results) -> dict[str, Any] | None:
    for name, summary in results.summaries.items():
        return {"hash": summary["pairs"]["hash"], "count": len(results.tables[name].images)}
    return None


def _distinct(machines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for machine in machines:
        if machine not in found:
            found.append(machine)
    return found
