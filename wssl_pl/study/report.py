"""The report of a study: verdicts, ranking, comparisons, tables and figures, as Markdown, one HTML file, and JSON."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation import statistics
from wssl_pl.evaluation.metrics import LABELS
from wssl_pl.evaluation.pages import number, probability, render, signed, span
from wssl_pl.evaluation.statistics import CONVERGENCE_METRIC
from wssl_pl.files import owned, write_atomically, writing
from wssl_pl.records import read_json
from wssl_pl.study.plan import ENDED
from wssl_pl.study.plots import curve_plot, task_plot, verdict_plot, weight_plot
from wssl_pl.study.results import Results, read_results
from wssl_pl.study.summary import StudyReport, lacks_seed, summarise
from wssl_pl.study.verdicts import ArmResult, Spread, Verdict

CAPTIONS = {
    "figure2": "Figure 2: against the weight of the first task; bars are ± one standard deviation over seeds, hollow "
    "points had not converged. Left: composites (of restored inputs the whole). Right: the paper's points.",
    "figure3": "Figure 3: test images masked, filled by each arm, and original.",
    "figure4": "Figure 4: settings with one, two and three pretext tasks; a point per setting, a small one per seed, "
    "arms that had not converged included. Left: composites (of restored inputs the whole). Right: the paper's values.",
    "verdicts": "The difference of every claim and metric; green supports the claim, red shows the opposite.",
    "curves": "Raw validation PSNR of every arm: seeds thin, their mean thick, red where it still rises.",
}


def write_report(directory: str | Path, out: Path | None = None) -> Path:
    """Write `report.md`, `report.html`, `report.json` and figures about a study, finished or not.

    Args:
        directory: the study's folder.
        out: folder of the report, in which an earlier report is replaced. Default: `report` in the study's folder.

    Returns:
        The folder of the report.

    Raises:
        WSSLError: the folder holds no study, its runs were measured on different pairs, or `out` cannot be written, or
            is written by another process.
    """
    results = read_results(directory)
    folder = results.folder.path / "report" if out is None else Path(out)
    with owned(folder):
        report = summarise(results)
        pictures, captions, notes = draw(results, report)
        notes = [*results.notes, *notes]
        context = page(results, report) | {"pictures": pictures, "captions": captions, "notes": notes}
        files: dict[str, bytes | str] = dict(pictures)
        for suffix in ("md", "html"):
            files[f"report.{suffix}"] = render(f"study.{suffix}.j2", "wssl_pl.study", **context)
        values = asdict(report) | {"pictures": captions}
        files["report.json"] = json.dumps(_finite(values), indent=1, allow_nan=False) + "\n"
        with writing("out", folder):
            for name in _earlier_pictures(folder) - pictures.keys():
                (folder / name).unlink(missing_ok=True)
            for name, content in files.items():
                write_atomically(folder / name, content)
    return folder


def _earlier_pictures(folder: Path) -> set[str]:
    """Return the figures that the report in a folder names, if they are PNG files in it."""
    try:
        names = read_json(folder / "report.json", dict[str, Any], "out", "it is replaced").get("pictures")
    except WSSLError:
        return set()
    given = names if isinstance(names, dict) else {}
    return {str(name) for name in given if re.fullmatch(r"[\w.-]+\.png", str(name))}


def _finite(value: Any) -> Any:
    """Return a nested value with None in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(results: Results, report: StudyReport) -> tuple[dict[str, bytes], dict[str, str], list[str]]:
    """Return all figures and their captions by file name, and notes on those that could not be drawn."""
    drawn: list[tuple[str, str, bytes | None]] = []
    notes: list[str] = []
    drawn.append(("verdicts.png", "verdicts", verdict_plot([v for own in report.verdicts.values() for v in own])))
    for section in results.study.sections:
        arms = {name: report.arms[name] for name in section.arms}
        for plot in section.plots:
            if plot == "figure3":
                from wssl_pl.study.faces import figure3  # needs the networks

                png, lacking = figure3(results, section.arms)
                notes += [f"{section.title}, Figure 3: {line}" for line in lacking]
            else:
                png = weight_plot(arms) if plot == "figure2" else task_plot(arms)
            drawn.append((_picture_file(section.name, plot), plot, png))
    drawn.append(("curves.png", "curves", curve_plot(report.arms)))
    found = [(file, kind, png) for file, kind, png in drawn if png is not None]
    return {file: png for file, _, png in found}, {file: CAPTIONS[kind] for file, kind, _ in found}, notes


def _picture_file(section: str, plot: str) -> str:
    return f"{plot}.png" if plot == section else f"{re.sub('[^A-Za-z0-9_.-]', '_', section)}_{plot}.png"


def page(results: Results, report: StudyReport) -> dict[str, Any]:
    """Return the sentences and tables of the report, for the template."""
    study, shown, sections = results.study, set[str](), []
    for section in study.sections:
        verdicts = report.verdicts[section.name]
        comparisons = [row for verdict in verdicts for row in comparison_rows(verdict)]
        sections.append({
            "title": section.title,
            "sentences": [sentence(verdict, report, len(study.seeds)) for verdict in verdicts],
            "comparisons": [COMPARISON_HEADER, *comparisons] if comparisons else [],
            "arms": [] if shown.issuperset(section.arms) else arm_rows(report, section.arms, len(study.seeds)),
            "pictures": [_picture_file(section.name, plot) for plot in section.plots],
        })  # fmt: skip
        shown |= set(section.arms)
    ranked = {entry.arm for entry in report.ranking}
    measured = [arm for name, arm in report.arms.items() if arm.runs and name not in ranked]
    lacking = [arm for arm in measured if lacks_seed(arm, report.arms)]
    whole = [arm for arm in measured if not lacks_seed(arm, report.arms)]
    whys = {
        "as they still rise": [arm for arm in whole if arm.convergence.state == "not converged"],
        "as a seed has fewer than two validations": [arm for arm in whole if arm.convergence.state == "unknown"],
        "as a seed lacks the metric": [arm for arm in whole if arm.metrics[report.ranked_by].mean is None],
        "as they lack seeds": lacking,
    }
    unranked = [
        f" Without a rank, {why}: "
        + ", ".join(f"{arm.label} ({_spread(arm.metrics[report.ranked_by], report.ranked_by)} dB)" for arm in without)
        + "."
        for why, without in whys.items()
        if without
    ]
    return {
        "report": report,
        "sections": sections,
        "ranking": ranking_lines(report),
        "unranked": "".join(unranked),
        "facts": facts(results, report),
        "resamples": f"{statistics.RESAMPLES:,}",
        "convergence_rule": statistics.CONVERGENCE_RULE,
        "cosine": "cosine" in json.dumps([study.options, [asdict(arm) for arm in study.arms.values()]]),
        "few_seeds": few_seeds(len(study.seeds)),
        "missing": missing_rows(report),
        "omitted": list(study.omitted.values()),
        "failed": [*failed_runs(results), *results.damaged.values()],
        "search": search_table(results, report),
        "shifts": shift_rows(report.shifts, report.arms) if report.shifts else [],
    }


def facts(results: Results, report: StudyReport) -> list[str]:
    """Return what was run, on what, with what, in a line each."""
    study, runs = results.study, report.runs
    measured, wanted = sum(len(arm.runs) for arm in report.arms.values()), len(study.seeds) * len(study.arms)
    ended = sum(runs.get(state, 0) for state in ENDED)
    unfinished = ended < runs["all"] or not runs["all"]
    failed = "**some runs failed**" if runs.get("failed") else "**not all are measured**"
    end = "**the study is not finished**" if unfinished else failed
    seeds = f"{len(study.seeds)} seeds ({', '.join(map(str, study.seeds))})"
    lines = [
        f"{len(study.arms)} arms x {seeds}; {measured} of {wanted} measured, "
        f"{runs.get('done', 0)} of {runs['all']} runs are done"
        + ("" if measured == wanted else f": {end}, see what did not run"),
        f"Steps: {study.steps['pretext']:,} pretext, {study.steps['downstream']:,} downstream, or as in the tables",
    ]
    if report.pairs:
        lines.append(f"Measured on the same {report.pairs['count']} test pairs, hash {report.pairs['hash'][:16]}")
        lines += next((line for one in results.evaluations.values() if (line := one.pairs.data_line())), [])
        if damages := ", ".join(report.pairs["restore"]):
            lines.append(f"Inputs damaged by {damages}: known pixels are restored too, and there is no composite")
    for stage, options in study.options.items():
        # The paths of the data belong to one machine.
        options = {key: value for key, value in options.items() if key not in ("data.images", "data.masks")}
        if options:
            lines.append(f"Options, {stage}: {' '.join(f'`{key}={value}`' for key, value in options.items())}")
    if study.seconds == "unequal":
        lines.append("Arms do not train for equal seconds; the tables have the minutes of each")
    if sessions := results.folder.sessions():
        available = sum(session.wall_s * session.cores for session in sessions)
        busy = sum(session.busy_s for session in sessions) / max(available, 1e-9)
        hours = sum(session.wall_s for session in sessions) / 3600
        cores = ", ".join(dict.fromkeys(f"{session.cores:g}" for session in sessions))
        lines.append(f"Run in {hours:.1f} h on {cores} cores, which its runs used to {busy:.0%}")
    return [*lines, *(f"Measured on {machine}" for machine in report.machines)]


def few_seeds(count: int) -> dict[str, Any] | None:
    """Return the best that so many seeds can show; None for one seed."""
    if count < 2:
        return None
    coverage = f"{1.0 - 2.0 ** (1 - count):.0%}"
    t = statistics.student_quantile(statistics.LEVEL, count - 1)
    return {"seeds": count, "t": f"{t:.2f}", "p": f"{statistics.smallest_exact_p(count):.3g}", "coverage": coverage}


def sentence(verdict: Verdict, report: StudyReport, seeds: int) -> str:
    """Return a verdict in words, with the differences by which it was reached."""
    state = f"**{verdict.state.capitalize()}**" + (", the opposite is shown" if verdict.state == "refuted" else "")
    text = f"{state}: {verdict.claim.claim}" + (f"; {verdict.reason}." if verdict.reason else ".")
    by = [
        f"{LABELS[metric]} {signed(entry.difference.mean, metric)}{' dB' if metric.startswith('psnr') else ''} "
        f"{span(entry.difference.low, entry.difference.high, metric)}"
        for metric, entry in verdict.comparisons.items()
    ]
    if by:
        count = len(verdict.seeds)
        text += f" Difference: {', '.join(by)}, {count if count == seeds else f'{count} of {seeds}'} seeds."
    rising = [] if report.study.get("convergence") != "reported" else [*verdict.better, *verdict.than]
    rising = [report.arms[arm].label for arm in rising if report.arms[arm].convergence.state == "not converged"]
    if by and rising:
        text += f" Not converged in these steps: {', '.join(rising)}."
    if by and verdict.omitted:
        text += f" Omitted: {', '.join(f'{report.arms[arm].label} ({why})' for arm, why in verdict.omitted.items())}."
    return text


COMPARISON_HEADER = ["claim", "metric", "verdict", "better", "than", "difference [95 %]", "bootstrap [95 %]", "p",
                     "p (Holm)", "p exact", "seeds"]  # fmt: skip


def comparison_rows(verdict: Verdict) -> list[list[str]]:
    """Return the table rows of a verdict's comparisons."""
    rows: list[list[str]] = []
    for metric, entry in verdict.comparisons.items():
        found = entry.difference
        rows.append([
            "" if rows else verdict.claim.claim,
            LABELS[metric],
            f"**{entry.state}**",
            number(entry.better, metric),
            number(entry.than, metric),
            f"{signed(found.mean, metric)} {span(found.low, found.high, metric)}",
            span(found.bootstrap_low, found.bootstrap_high, metric),
            probability(found.p),
            probability(entry.p),
            "-" if found.p_exact is None else f"{found.p_exact:.3g}",
            f"{sum(value > 0 for value in found.by_seed)} of {len(found.by_seed)} better",
        ])  # fmt: skip
    return rows


def ranking_lines(report: StudyReport) -> list[str]:
    """Return the ranked arms with their costs, the best one first; none of one arm alone."""
    if len(report.ranking) < 2:
        return []
    lines, metric = [], report.ranked_by
    for entry in report.ranking:
        arm = report.arms[entry.arm]
        cost = f"({_stages(arm.steps, ',.0f')} steps, {_stages(arm.minutes, ',.1f')} min)"
        if entry is report.ranking[0]:
            lines.append(f"{arm.label}**, {LABELS[metric]} {entry.mean:.2f} dB {cost}")
            continue
        between = "" if entry.low is None or entry.high is None else f" {span(entry.low, entry.high, metric)}"
        lines.append(f"{arm.label}: {signed(entry.difference, metric)} dB{between} {cost}")
    return lines


def shift_rows(shifts: Mapping[str, Mapping[str, Sequence[float]]], arms: Mapping[str, Any]) -> list[list[str]]:
    """Return a header and a row per arm: dB lost on each set of pairs from elsewhere, mean and standard deviation.

    Args:
        shifts: by arm and set, one per seed.
        arms: with their labels, by name.
    """
    sets = list(dict.fromkeys(name for own in shifts.values() for name in own))
    rows = [["", "seeds", *(name.replace("_", " ") for name in sets)]]
    for arm, own in shifts.items():
        values = [own.get(name, []) for name in sets]
        rows.append([arms[arm].label, str(max(map(len, values))), *(lost(each) for each in values)])
    return rows


def lost(values: Sequence[float]) -> str:
    """Return `mean ± standard deviation` over seeds, in dB; a dash without any."""
    if not values:
        return "-"
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def arm_rows(report: StudyReport, names: Sequence[str], seeds: int) -> list[list[str]]:
    """Return a header and a row per measured arm, as in the paper's tables, with the paper's metrics."""
    arms = [report.arms[name] for name in names]
    known = {metric for arm in arms for metric, spread in arm.metrics.items() if spread.mean is not None}
    columns = [metric for metric in arms[0].metrics if not metric.startswith("lpips") or metric in known]
    rows = [["arm", *[LABELS[metric] for metric in columns], "seeds", "paper SSIM", "paper PSNR", "steps", "minutes",
             "million parameters", "ms per image", "pretext accuracy", "converged"]]  # fmt: skip
    for arm in [arm for arm in arms if arm.runs] or arms:
        scores = [
            f"{task} {value:.2f}" + (f" (**{count} at chance**)" if (count := arm.near_chance.get(task)) else "")
            for task, value in arm.scores.items()
        ]
        rows.append([
            arm.label,
            *[_spread(arm.metrics[metric], metric) for metric in columns],
            f"{len(arm.runs)} of {seeds}",
            *[number(arm.paper.get(metric), metric) for metric in ("ssim", "psnr")],
            _stages(arm.steps, ",.0f"),
            _stages(arm.minutes, ",.1f"),
            "-" if arm.parameters is None else f"{arm.parameters / 1e6:.2f}",
            "-" if arm.milliseconds is None else f"{arm.milliseconds:.1f}",
            ", ".join(scores) or "-",
            converged(arm),
        ])  # fmt: skip
    return rows


def converged(arm: ArmResult) -> str:
    """Return whether an arm had converged, with its slope; a dash if it was not measured."""
    found = arm.convergence
    if not arm.runs or found.slope is None:
        return found.state if arm.runs and found.state == "unknown" else "-"
    error = "" if found.error is None else f" ± {found.error:.2f}"
    state = "yes" if found.state == "converged" else "**not converged**"
    return f"{state} ({signed(found.slope, CONVERGENCE_METRIC)}{error} dB)"


def missing_rows(report: StudyReport) -> list[list[str]]:
    """Return a header, and a row for the seeds of an arm that are missing for the same reason."""
    rows = [["arm", "seeds", "state", "reason"]]
    for arm in report.arms.values():
        seeds: dict[tuple[str, str], list[str]] = {}
        for seed, why in arm.missing.items():
            seeds.setdefault(why, []).append(str(seed))
        rows += [[arm.label, ", ".join(its), *why] for why, its in seeds.items()]
    return rows


def failed_runs(results: Results) -> list[str]:
    """Return a line for each pretext run and trial that failed or was skipped."""
    return [
        f"{'trial' if run.trial else run.stage} run `{run.id}`, seed {run.seed} ({', '.join(run.arms)}) "
        f"{run.status.state}: {run.status.reason or 'no reason was recorded'}"
        for run in results.plan.runs.values()
        if run.status.state in ("failed", "skipped") and (run.stage == "pretext" or run.trial)
    ]


def search_table(results: Results, report: StudyReport) -> dict[str, Any] | None:
    """Return what the search has tried and chosen; None without one."""
    tune = results.study.tune
    if tune is None:
        return None
    rows = [["arm", *[f"{tune.option}={value}" for value in tune.values], "chosen"]]
    stale: list[str] = []
    for name, search in report.searches.items():
        cells = []
        for value in tune.values:
            trial = search.tried.get(value)
            best = "-" if trial is None else trial.state if trial.best is None else number(trial.best, tune.metric)
            cells.append(f"**{best}**" if value in search.chosen and trial and trial.best is not None else best)
        rows.append([report.arms[name].label, *cells, ", ".join(map(str, search.chosen)) or "-"])
        known = {value: trial.best for value, trial in search.tried.items() if trial.best is not None}
        if search.chosen and known and (now := max(known, key=lambda value: known[value])) not in search.chosen:
            stale.append(
                f"{report.arms[name].label} was trained with another value than its trials choose now, {now}: to train "
                "it again, remove the folders of its runs and resume the study"
            )
    chosen = [value for search in report.searches.values() for value in search.chosen]
    ends = ((min(tune.values), "smallest", "smaller"), (max(tune.values), "largest", "larger"))
    edges = [
        f"{chosen.count(end)} of {len(chosen)} arms chose the {which} value, and might do better with a {beyond} one"
        for end, which, beyond in ends
        if end in chosen
    ]
    about = {"option": tune.option, "steps": f"{tune.steps:,}", "seed": tune.seed, "label": LABELS[tune.metric]}
    return about | {"rows": rows, "edge": "; ".join([*edges, *stale]) + "." if edges or stale else ""}


def _stages(amounts: Mapping[str, float], form: str) -> str:
    return " + ".join(format(amount, form) for amount in amounts.values() if amount) or "-"


def _spread(entry: Spread, metric: str) -> str:
    """Return `mean ± sd`; the mean alone with one seed, a dash without any."""
    return number(entry.mean, metric) + ("" if entry.sd is None else f" ± {number(entry.sd, metric)}")
