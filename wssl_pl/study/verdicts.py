"""From the results of a study to its arms, comparisons and verdicts, as records.

A claim is supported, refuted, not shown, or not decided with the reason. Holm's correction is over the claims of a
section, for each metric apart: a claim is supported only if every one of its metrics supports it, and such a
conjunction needs no correction over the metrics (Berger 1982).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wssl_pl.evaluation.metrics import LABELS
from wssl_pl.evaluation.statistics import (
    CONVERGENCE_METRIC,
    LEVEL,
    MIN_GAIN_DB,
    MIN_SEEDS,
    Convergence,
    Difference,
    compare,
    holm,
    judge_convergence,
    near_chance,
)
from wssl_pl.metrics import is_lower_better
from wssl_pl.records import listed
from wssl_pl.stages import Stage
from wssl_pl.study.definition import STAGES, Arm, Claim, Options, Section, Study
from wssl_pl.study.folder import Curve
from wssl_pl.study.plan import Run
from wssl_pl.study.results import Results
from wssl_pl.tasks import TASKS, Damage

ALPHA = round(1.0 - LEVEL, 9)
MIN_FRACTION = 0.5  # of a group's arms that have to take part for their mean to represent the group
NOT_DECIDED = "not decided"
COLUMNS = ("ssim_composite", "psnr_composite", "ssim", "psnr", "lpips_composite")
RESTORED_COLUMNS = ("ssim", "psnr", "psnr_hole", "psnr_known", "lpips")
"""Metrics of tables; LPIPS where its weights were there, by which no claim is judged."""
SCORES = "val/accuracy/"
MIN_WEIGHT = 1e-3  # of a task: a head of less is there for the task's change to the images alone
DEFAULT_LEVELS = 4  # of a task by class path, whose default is not looked up


@dataclass(frozen=True)
class Spread:
    """The mean of a metric over images and seeds.

    Attributes:
        mean: over seeds; None without any.
        sd: standard deviation over seeds (n - 1); None with one seed.
        by_seed: the mean over images of each seed.
    """

    mean: float | None
    sd: float | None
    by_seed: dict[int, float | None]


@dataclass(frozen=True)
class ArmResult:
    """An arm's metrics, what it cost, and what is missing.

    Attributes:
        label: its name in tables.
        tasks: its pretext tasks.
        weights: of the tasks, scaled to sum 1; None if they are learned.
        paper: the paper's metrics.
        runs: its measured runs by seed.
        metrics: by name, in the order of tables.
        steps: of each stage, the mean over seeds; a run that arms share counts in full for each of them.
        minutes: the same of the training time, without interrupted trainings where others are known.
        parameters: of its network; None where it is not known.
        milliseconds: per image, when it was measured, the mean over seeds.
        scores: of the pretext tasks, the mean over runs; of joint training that of its own heads.
        near_chance: of tasks with such runs, in how many of these the head's accuracy is that of guessing.
        convergence: by the raw validation PSNR.
        curves: validation metrics by seed.
        missing: state and reason of each seed without metrics.
    """

    label: str
    tasks: list[str]
    weights: list[float] | None
    paper: dict[str, float]
    runs: dict[int, str]
    metrics: dict[str, Spread]
    steps: dict[str, float]
    minutes: dict[str, float]
    parameters: int | None
    milliseconds: float | None
    scores: dict[str, float]
    near_chance: dict[str, int]
    convergence: Convergence
    curves: dict[int, dict[str, Curve]]
    missing: dict[int, tuple[str, str]]


@dataclass(frozen=True)
class Comparison:
    """A metric of one group of arms against another.

    Attributes:
        difference: better minus than, over seeds and images.
        better: mean of the group that is claimed to be better, over the images of the difference.
        than: that of the other one.
        family: the number of claims that Holm's correction is over.
        p: after Holm's correction.
        state: `supported`, `refuted` or `not shown`.
    """

    difference: Difference
    better: float
    than: float
    family: int = 1
    p: float = 1.0
    state: str = "not shown"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Attributes:
        claim: as defined.
        state: `supported`, `partly supported`, `refuted`, `partly refuted`, `contradictory`, `not shown` or
            `not decided`.
        reason: of the state, if it needs one.
        better: arms of the better group that take part.
        than: arms of the other group that take part.
        seeds: on which the groups are compared.
        omitted: arms that take no part, with the reason.
        comparisons: by metric.
    """

    claim: Claim
    state: str = NOT_DECIDED
    reason: str | None = None
    better: list[str] = field(default_factory=list)
    than: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    omitted: dict[str, str] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)


def arm_result(results: Results, arm: Arm) -> ArmResult:
    """Return the results of an arm."""
    runs = results.measured(arm.name)
    tasks, weights = tasks_of(results.study, arm)
    chains = [list(results.chain(run)) for run in runs.values()]
    curves = {seed: results.curves(run.id) for seed, run in runs.items()}
    pretexts = {run.id: run for chain in chains for run in chain if run.stage == "pretext"}
    by_run: dict[str, list[float]] = {}
    near: dict[str, list[bool]] = {}
    ignored = {task for task, weight in zip(tasks, weights or [1.0] * len(tasks), strict=True) if weight < MIN_WEIGHT}
    joint = {run.id: run for run in runs.values() if run.options.get("model.task_loss")}
    for run in (joint or pretexts).values():
        monitor = str(run.options.get("run.monitor") or ("val/score" if run.stage == "pretext" else "val/ssim"))
        for name, accuracy in scores(results.curves(run.id), monitor).items():
            by_run.setdefault(name, []).append(accuracy)
            near.setdefault(name, []).append(name not in ignored and near_chance(accuracy, chance(run.options, name)))
    measured = [results.evaluations[run.id] for run in runs.values()]
    tables = {seed: result.table for seed, result in zip(runs, measured, strict=True)}
    return ArmResult(
        label=arm.label,
        tasks=tasks,
        weights=weights,
        paper=arm.paper,
        runs={seed: run.id for seed, run in runs.items()},
        metrics={
            metric: _spread({seed: table.column(metric) for seed, table in tables.items()})
            for metric in (RESTORED_COLUMNS if results.restore else COLUMNS)
        },
        steps=_by_stage(chains, lambda run: run.steps),
        minutes=_minutes(chains),
        parameters=next((count for result in measured if (count := result.method.get("parameters"))), None),
        milliseconds=1000 * float(np.mean([result.seconds_per_image for result in measured])) if measured else None,
        scores={name: float(np.mean(own)) for name, own in by_run.items()},
        near_chance={name: count for name, own in near.items() if (count := sum(own))},
        convergence=_convergence(arm, curves),
        curves=curves,
        missing=results.missing.get(arm.name, {}),
    )


def _convergence(arm: Arm, curves: Mapping[int, Mapping[str, Curve]]) -> Convergence:
    if arm.method is not None:
        return Convergence("converged")
    return judge_convergence([points_of(own, CONVERGENCE_METRIC) for own in curves.values()])


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of the finite values; None without any."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _spread(by_seed: Mapping[int, NDArray[np.float64]]) -> Spread:
    """Return the spread over seeds; no mean where a seed lacks the metric, as its mean would be over other runs."""
    means = {seed: _mean(values) for seed, values in by_seed.items()}
    known = [mean for mean in means.values() if mean is not None]
    if not known or len(known) < len(means):
        return Spread(None, None, means)
    return Spread(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None, means)


def _by_stage(chains: Sequence[Sequence[Run]], amount: Any) -> dict[str, float]:
    return {
        stage: float(np.mean([sum(amount(run) for run in chain if _stage(run) == stage) for chain in chains]))
        for stage in STAGES
        if chains
    }


def _minutes(chains: Sequence[Sequence[Run]]) -> dict[str, float]:
    """Return the minutes of each stage: a training that was interrupted has started twice, and repeated some steps."""
    found: dict[str, float] = {}
    for stage in STAGES if chains else ():
        trained = [[run.status for run in chain if _stage(run) == stage] for chain in chains]
        whole = [own for own in trained if all(status.attempts <= 1 for status in own)]
        found[stage] = float(np.mean([sum(status.seconds for status in own) / 60 for own in whole or trained]))
    return found


def _stage(run: Run) -> Stage:
    """Return which of the two stages a run is, or takes the place of."""
    return "pretext" if run.stage == "pretext" else "downstream"


def points_of(curves: Mapping[str, Curve], metric: str) -> list[tuple[int, float]]:
    """Return the pairs of step and value of a metric; none if it was not logged."""
    return list(zip(curves[metric].steps, curves[metric].values, strict=True)) if metric in curves else []


def scores(curves: Mapping[str, Curve], monitor: str) -> dict[str, float]:
    """Return the accuracy of each head of a pretext run at the step of `best.ckpt`, by the monitored metric."""
    heads = {tag.removeprefix(SCORES): dict(points_of(curves, tag)) for tag in curves if tag.startswith(SCORES)}
    watched = {
        step: value for step, value in points_of(curves, monitor) if all(step in head for head in heads.values())
    }
    if not watched:
        return {}
    sign, losses = -1.0 if is_lower_better(monitor) else 1.0, dict(points_of(curves, "val/loss"))
    best = max(watched, key=lambda step: (sign * watched[step], -losses.get(step, math.inf)))
    return {name: head[best] for name, head in heads.items()}


def chance(options: Options, task: str) -> float:
    """Return the accuracy of the best constant answer of a task's head, in a run with these options."""
    levels = listed(options.get(f"model.levels.{task}") or (options.get("model.levels") or {}).get(task))
    found = [float(level) for level in levels] or list(TASKS[task].default_levels if task in TASKS else ())
    if not found:
        return 1.0 / DEFAULT_LEVELS
    # Beside a restoration strengths are uniform between the extreme levels, and labels the nearest levels.
    restored = "restoration" in listed(options.get("model.tasks")) or task in listed(options.get("model.restore"))
    if not restored or task not in TASKS or not issubclass(TASKS[task], Damage):
        return 1.0 / len(found)
    ordered = np.sort(found)
    bounds = [ordered[0], *(ordered[:-1] + ordered[1:]) / 2, ordered[-1]]
    return float(np.diff(bounds).max() / (ordered[-1] - ordered[0]))


def tasks_of(study: Study, arm: Arm) -> tuple[list[str], list[float] | None]:
    """Return an arm's pretext tasks and their weights, scaled to sum 1; None where weights are learned."""
    if arm.pretext is None:
        return [], []
    options = study.options["common"] | study.options["pretext"] | arm.pretext
    names = [str(name) for name in listed(options.get("model.tasks"))]
    weights = [float(value) for value in listed(options.get("model.weights"))] or [1.0] * len(names)
    if options.get("model.weighting") not in (None, "fixed") or len(weights) != len(names):
        return names, None
    return names, [weight / sum(weights) for weight in weights]


def judge_section(results: Results, section: Section, arms: Mapping[str, ArmResult]) -> list[Verdict]:
    """Return the verdicts on a section's claims, in their order.

    Args:
        results: of the study.
        section: with the claims.
        arms: their results, by name.
    """
    verdicts = [_participants(results, claim, arms) for claim in section.claims]
    found = _compare_all(results, verdicts)
    for metric in {name: None for claim in section.claims for name in claim.metrics}:
        named = [number for number, claim in enumerate(section.claims) if metric in claim.metrics]
        tested = [(number, metric) for number in named if (number, metric) in found]
        family = len(named) + section.omitted_claims
        corrected = holm([found[key].difference.p for key in tested], family=family)
        for key, p in zip(tested, corrected, strict=True):
            found[key] = replace(found[key], family=family, p=p, state=state_of(found[key].difference, p))
    own: list[dict[str, Comparison]] = [
        {name: found[number, name] for name in verdict.claim.metrics if (number, name) in found}
        for number, verdict in enumerate(verdicts)
    ]
    return [_decide(verdict, comparisons) for verdict, comparisons in zip(verdicts, own, strict=True)]


def _participants(results: Results, claim: Claim, arms: Mapping[str, ArmResult]) -> Verdict:
    """Return the verdict as far as it follows from the arms that take part."""
    study = results.study
    reasons = {arm: _why_omitted(arms[arm], study) for arm in (*claim.better, *claim.than)}
    omitted = {arm: reason for arm, reason in reasons.items() if reason}
    better, than = ([arm for arm in side if arm not in omitted] for side in (claim.better, claim.than))
    verdict = Verdict(claim, better=better, than=than, omitted=omitted)
    for kept, side in ((better, claim.better), (than, claim.than)):
        if not kept or len(kept) < MIN_FRACTION * len(side):
            lines = list(dict.fromkeys(f"{arms[arm].label} {omitted[arm]}" for arm in side if arm in omitted))
            more = [f"and {len(lines) - 3} more"] if len(lines) > 3 else []
            return replace(verdict, reason="; ".join(lines[:3] + more))
    seeds = [seed for seed in results.study.seeds if all(seed in arms[arm].runs for arm in (*better, *than))]
    if len(seeds) < MIN_SEEDS:
        reason = f"too few seeds: {len(seeds)} that all its arms have, at least {MIN_SEEDS} are needed"
        return replace(verdict, seeds=seeds, reason=reason)
    return replace(verdict, seeds=seeds)


def _why_omitted(arm: ArmResult, study: Study) -> str | None:
    """Return why an arm takes no part in a verdict; None if it does."""
    if not arm.runs:
        return "not run"
    if len(arm.runs) < MIN_SEEDS:
        return f"too few seeds ({len(arm.runs)} of {len(study.seeds)})"
    if study.convergence == "reported":
        return None
    if arm.convergence.state == "unknown":
        return "convergence unknown (a seed has fewer than two validations)"
    if arm.convergence.state == "not converged":
        return f"not converged ({arm.convergence.slope:+.2f} dB in its last fifth, {MIN_GAIN_DB} or more)"
    return None


def _compare_all(results: Results, verdicts: Sequence[Verdict]) -> dict[tuple[int, str], Comparison]:
    """Return the comparisons by number of the claim and metric; those of equally many seeds are drawn together."""
    by_seeds: dict[int, list[tuple[int, str]]] = {}
    for number, verdict in enumerate(verdicts):
        for name in dict.fromkeys(verdict.claim.metrics) if verdict.reason is None else ():
            by_seeds.setdefault(len(verdict.seeds), []).append((number, name))
    found = {}
    for keys in by_seeds.values():
        sides = []
        for number, metric in keys:
            groups, seeds = (verdicts[number].better, verdicts[number].than), verdicts[number].seeds
            sides.append([group_values(results, group, seeds, metric) for group in groups])
        with np.errstate(invalid="ignore"):
            differences = compare(np.stack([better - than for better, than in sides]))
        for key, difference, (better, than) in zip(keys, differences, sides, strict=True):
            if difference is not None:
                # Of the images of the difference: an infinite PSNR in one group takes the image from both.
                kept = (np.isfinite(better) & np.isfinite(than)).all(axis=0)
                found[key] = Comparison(difference, float(better[:, kept].mean()), float(than[:, kept].mean()))
    return found


def group_values(results: Results, arms: Sequence[str], seeds: Sequence[int], metric: str) -> NDArray[np.float64]:
    """Return a metric of a group of arms `(seeds, images)`, the mean over its arms."""
    tables = [[results.evaluations[results.plan.final[arm][seed]].table for arm in arms] for seed in seeds]
    return np.stack([np.mean([table.column(metric) for table in of_seed], axis=0) for of_seed in tables])


def state_of(difference: Difference, p: float) -> str:
    """Return what a difference shows: the corrected p-value and the bootstrap have to agree on its sign."""
    if p >= ALPHA or difference.bootstrap_low <= 0 <= difference.bootstrap_high:
        return "not shown"
    return "supported" if difference.mean > 0 else "refuted"


def _decide(verdict: Verdict, comparisons: dict[str, Comparison]) -> Verdict:
    verdict = replace(verdict, comparisons=comparisons)
    if verdict.reason is not None:
        return verdict
    if missing := [metric for metric in verdict.claim.metrics if metric not in comparisons]:
        return replace(verdict, reason=f"{LABELS[missing[-1]]} is finite for no image")
    state, reason = overall({metric: comparison.state for metric, comparison in comparisons.items()})
    return replace(verdict, state=state, reason=_why_not_shown(comparisons) if state == "not shown" else reason)


def overall(states: Mapping[str, str]) -> tuple[str, str | None]:
    """Return one state from those of a claim's metrics, and by which of them where they differ."""
    by = {state: " and ".join(LABELS[name] for name in states if states[name] == state) for state in states.values()}
    if len(by) == 1:
        return next(iter(by)), None
    if "supported" in by and "refuted" in by:
        return "contradictory", f"supported by {by['supported']}, refuted by {by['refuted']}"
    shown = "supported" if "supported" in by else "refuted"
    return f"partly {shown}", f"by {by[shown]}, not shown by {by['not shown']}"


def _why_not_shown(comparisons: Mapping[str, Comparison]) -> str:
    """Return whether an interval contains 0, or else why the claim is not shown."""
    clear = {m: c for m, c in comparisons.items() if not c.difference.low <= 0 <= c.difference.high}
    if not clear:
        return "the interval contains 0"
    names = " and ".join(LABELS[metric] for metric in clear)
    if all(comparison.p < ALPHA for comparison in clear.values()):
        return f"the bootstrap's interval of {names} contains 0"
    sizes = " or ".join(str(size) for size in sorted({comparison.family for comparison in clear.values()}))
    return f"{names} would be clear of 0 alone, but p is not below {ALPHA:.2g} after Holm over {sizes} claims"
