"""The report of a study: verdicts, ranking, comparisons, tables and figures, as Markdown, one HTML file, and JSON."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wssl_pl.drawing import figure_png, new_figure
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation import statistics
from wssl_pl.evaluation.metrics import LABELS
from wssl_pl.evaluation.pages import COLOURS as STATE_COLOURS
from wssl_pl.evaluation.pages import number, plain_frame, probability, render, signed, span
from wssl_pl.evaluation.statistics import CONVERGENCE_METRIC, near_chance
from wssl_pl.files import owned, write_atomically, writing
from wssl_pl.records import read_json
from wssl_pl.study.folder import Results, read_results
from wssl_pl.study.plan import ENDED
from wssl_pl.study.verdicts import ArmResult, Spread, StudyReport, Verdict, points_of, summarise

CAPTIONS = {
    "figure2": "Figure 2: against the weight of the first task; bars are ± one standard deviation over seeds, hollow "
    "points had not converged. Left: composites (of restored inputs the whole). Right: the paper's points.",
    "figure3": "Figure 3: test images masked, filled by each arm, and original.",
    "figure4": "Figure 4: settings with one, two and three pretext tasks; a point per setting, a small one per seed, "
    "arms that had not converged included. Left: composites (of restored inputs the whole). Right: the paper's values.",
    "verdicts": "The difference of every claim and metric; green supports the claim, red shows the opposite.",
    "curves": "Raw validation PSNR of every arm: seeds thin, their mean thick, red where it still rises.",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")  # Okabe and Ito 2008
SHIFT = 0.012  # between the curves of Figure 2, so that error bars do not hide others
PANELS = 4  # beside each other


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
    rising = [
        f"{arm.label} ({_spread(arm.metrics[report.ranked_by], report.ranked_by)} dB)"
        for arm in report.arms.values()
        if arm.runs and arm.convergence.state == "not converged"
    ]
    return {
        "report": report,
        "sections": sections,
        "ranking": ranking_lines(report),
        "unranked": f" Without a rank, as they still rise: {', '.join(rising)}." if rising else "",
        "facts": facts(results, report),
        "resamples": f"{statistics.RESAMPLES:,}",
        "convergence_rule": statistics.CONVERGENCE_RULE,
        "cosine": "cosine" in json.dumps([study.options, [asdict(arm) for arm in study.arms.values()]]),
        "few_seeds": few_seeds(len(study.seeds)),
        "missing": missing_rows(report),
        "omitted": list(study.omitted.values()),
        "failed": [*failed_runs(results), *results.damaged.values()],
        "search": search_table(results, report),
    }


def facts(results: Results, report: StudyReport) -> list[str]:
    """Return what was run, on what, with what, in a line each."""
    study, runs = results.study, report.runs
    measured, wanted = sum(len(arm.runs) for arm in report.arms.values()), len(study.seeds) * len(study.arms)
    ended = sum(runs.get(state, 0) for state in ENDED)
    unfinished = ended < runs["all"] or not runs["all"]
    end = "**the study is not finished**" if unfinished else "**some runs failed**"
    seeds = f"{len(study.seeds)} seeds ({', '.join(map(str, study.seeds))})"
    lines = [
        f"{len(study.arms)} arms x {seeds}; {measured} of {wanted} measured, "
        f"{runs.get('done', 0)} of {runs['all']} runs are done"
        + ("" if measured == wanted else f": {end}, see what did not run"),
        f"Steps: {study.steps['pretext']:,} pretext, {study.steps['downstream']:,} downstream, or as in the tables",
    ]
    if report.pairs:
        lines.append(f"Measured on the same {report.pairs['count']} test pairs, hash {report.pairs['hash'][:16]}")
        if damages := ", ".join(report.pairs["restore"]):
            lines.append(f"Inputs damaged by {damages}: known pixels are restored too, and there is no composite")
    for stage, options in study.options.items():
        # The paths of the data belong to one machine.
        options = {key: value for key, value in options.items() if key not in ("data.images", "data.masks")}
        if options:
            lines.append(f"Options, {stage}: {' '.join(f'`{key}={value}`' for key, value in options.items())}")
    for machine in report.machines:
        lines.append(f"Measured on {machine['device']}, {machine['cores']} cores, torch {machine['torch']}")
    return lines


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


def arm_rows(report: StudyReport, names: Sequence[str], seeds: int) -> list[list[str]]:
    """Return a header and a row per measured arm, as in the paper's tables, with the paper's metrics."""
    arms = [report.arms[name] for name in names]
    known = {metric for arm in arms for metric, spread in arm.metrics.items() if spread.mean is not None}
    columns = [metric for metric in arms[0].metrics if not metric.startswith("lpips") or metric in known]
    rows = [["arm", *[LABELS[metric] for metric in columns], "seeds", "paper SSIM", "paper PSNR", "steps", "minutes",
             "million parameters", "ms per image", "pretext accuracy", "converged"]]  # fmt: skip
    for arm in [arm for arm in arms if arm.runs] or arms:
        scores = [
            f"{task} {value:.2f}{' (**near chance**)' if near_chance(value) else ''}"
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
    for name, search in report.searches.items():
        cells = []
        for value in tune.values:
            trial = search.tried.get(value)
            best = "-" if trial is None else trial.state if trial.best is None else number(trial.best, tune.metric)
            cells.append(f"**{best}**" if value in search.chosen and trial and trial.best is not None else best)
        rows.append([report.arms[name].label, *cells, ", ".join(map(str, search.chosen)) or "-"])
    chosen = [value for search in report.searches.values() for value in search.chosen]
    ends = ((min(tune.values), "smallest", "smaller"), (max(tune.values), "largest", "larger"))
    edges = [
        f"{chosen.count(end)} of {len(chosen)} arms chose the {which} value, and might do better with a {beyond} one"
        for end, which, beyond in ends
        if end in chosen
    ]
    about = {"option": tune.option, "steps": f"{tune.steps:,}", "seed": tune.seed, "label": LABELS[tune.metric]}
    return about | {"rows": rows, "edge": "; ".join(edges) + "." if edges else ""}


def _stages(amounts: Mapping[str, float], form: str) -> str:
    return " + ".join(format(amount, form) for amount in amounts.values() if amount) or "-"


def _spread(entry: Spread, metric: str) -> str:
    """Return `mean ± sd`; the mean alone with one seed, a dash without any."""
    return number(entry.mean, metric) + ("" if entry.sd is None else f" ± {number(entry.sd, metric)}")


def verdict_plot(verdicts: Sequence[Verdict]) -> bytes | None:
    """Draw each claim's difference with its interval, a panel per metric; None where nothing was compared."""
    metrics = [name for name in LABELS if any(name in verdict.comparisons for verdict in verdicts)]
    if not metrics:
        return None
    figure = new_figure(4.2 + 3.4 * len(metrics), 1.1 + 0.5 * len(verdicts))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for row, verdict in enumerate(verdicts):
            entry = verdict.comparisons.get(metric)
            if entry is None:
                axes.text(
                    0.5, row, "not decided" if verdict.state == "not decided" else "-",
                    transform=axes.get_yaxis_transform(), color=STATE_COLOURS["not decided"], ha="center", va="center",
                    fontsize=8, style="italic", bbox={"facecolor": "white", "edgecolor": "none"},
                )  # fmt: skip
                continue
            found, colour = entry.difference, STATE_COLOURS[entry.state]
            axes.plot([found.low, found.high], [row, row], color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot(found.by_seed, [row] * len(found.by_seed), "|", color=colour, alpha=0.6, ms=9)
            axes.plot(found.mean, row, "o", color=colour, markersize=6)
        axes.axvline(0, color="#222222", linewidth=0.9)
        axes.set_title(LABELS[metric] + (" (dB)" if metric.startswith("psnr") else ""), fontsize=10)
        axes.locator_params(axis="x", nbins=6)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        plain_frame(axes)
    panels[0].set_yticks(range(len(verdicts)), [fill(verdict.claim.claim, 44) for verdict in verdicts], fontsize=8)
    panels[0].set_ylim(len(verdicts) - 0.4, -0.6)
    figure.suptitle("Difference with its 95 % interval (ticks: seeds); right of 0 the claim is right", fontsize=10)
    states = dict.fromkeys(entry.state for verdict in verdicts for entry in verdict.comparisons.values())
    handles = [panels[0].plot([], [], "-o", color=STATE_COLOURS[state], lw=2.2, label=state)[0] for state in states]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    return figure_png(figure)


def curve_plot(arms: Mapping[str, ArmResult]) -> bytes | None:
    """Draw the raw validation PSNR of every arm, seeds thin and their mean thick; None without curves."""
    curves = {
        name: [np.array(points) for own in arm.curves.values() if (points := points_of(own, CONVERGENCE_METRIC))]
        for name, arm in arms.items()
    }
    shown = {name: own for name, own in curves.items() if own}
    if not shown:
        return None
    across = min(PANELS, len(shown))
    down = -(-len(shown) // across)
    figure = new_figure(3.0 * across + 0.6, 2.3 * down + 0.5)
    panels = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes, (name, own) in zip(panels.flat, shown.items(), strict=False):
        late, slope = arms[name].convergence.state == "not converged", arms[name].convergence.slope
        colour = STATE_COLOURS["not converged"] if late else COLOURS[0]
        for curve in own:
            axes.plot(curve[:, 0], curve[:, 1], color=colour, linewidth=0.8, alpha=0.55)
        longest = max(own, key=len)[:, 0]
        mean = np.mean([np.interp(longest, curve[:, 0], curve[:, 1]) for curve in own], axis=0)
        axes.plot(longest, mean, color=colour, linewidth=2.4)
        axes.axvspan(0.8 * longest[-1], longest[-1], color="#000000", alpha=0.05, linewidth=0)
        axes.set_title(fill(arms[name].label, 30), fontsize=8.5)
        text = "" if slope is None else f"{'not converged, ' if late else ''}{signed(slope, CONVERGENCE_METRIC)} dB"
        axes.text(0.97, 0.06, text, transform=axes.transAxes, ha="right", color=colour, fontsize=8)
        axes.tick_params(labelsize=7.5)
        axes.grid(alpha=0.3)
        plain_frame(axes)
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    figure.supylabel("raw validation PSNR (dB)", fontsize=9)
    figure.supxlabel("steps (shaded: the last fifth, by which convergence is judged)", fontsize=9)
    return figure_png(figure)


def weight_plot(arms: Mapping[str, ArmResult]) -> bytes | None:
    """Draw PSNR and SSIM against the weight of the first of two tasks (Figure 2); None without such arms."""
    pairs: dict[str, list[tuple[float, ArmResult]]] = {}
    for arm in arms.values():
        if len(arm.tasks) == 2 and arm.weights:
            pairs.setdefault(" - ".join(arm.tasks), []).append((arm.weights[0], arm))
    if not pairs:
        return None
    figure, panels = _measured_and_paper()
    for row, (metric, paper, label) in enumerate(_drawn(arms)):
        for place, (pair, found) in enumerate(pairs.items()):
            colour, shift = COLOURS[place % len(COLOURS)], SHIFT * (place - (len(pairs) - 1) / 2)
            found = sorted(found, key=lambda entry: entry[0])
            measured = [(weight + shift, arm) for weight, arm in found if arm.metrics[metric].mean is not None]
            panels[row, 0].errorbar(
                [weight for weight, _ in measured], [arm.metrics[metric].mean for _, arm in measured],
                yerr=[arm.metrics[metric].sd or 0.0 for _, arm in measured], color=colour, label=pair, marker="o",
                markersize=5, linewidth=1.8, capsize=3, elinewidth=1.2,
            )  # fmt: skip
            late = [(weight, arm) for weight, arm in measured if arm.convergence.state == "not converged"]
            places = [weight for weight, _ in late], [arm.metrics[metric].mean for _, arm in late]
            panels[row, 0].plot(*places, "o", color=colour, markerfacecolor="white", zorder=5)
            known = [(weight, arm.paper[paper]) for weight, arm in found if paper in arm.paper]
            panels[row, 1].plot([x for x, _ in known], [y for _, y in known], "--s", color=colour, lw=1.4, ms=5)
        panels[row, 0].set_ylabel(label, fontsize=9)
        for axes in panels[row]:
            axes.set_xticks([0.1, 0.3, 0.5, 0.7, 0.9])
            axes.set_xlim(0, 1)
    for axes in panels[1]:
        axes.set_xlabel("weight of the first task", fontsize=9)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8.5, frameon=False)
    return figure_png(figure)


def task_plot(arms: Mapping[str, ArmResult]) -> bytes | None:
    """Draw PSNR and SSIM of one, two and three tasks (Figure 4): a box over settings, a point per setting."""
    counts = {count: [arm for arm in arms.values() if len(arm.tasks) == count] for count in (1, 2, 3, 4)}
    counts = {count: found for count, found in counts.items() if found}
    if not counts:
        return None
    figure, panels = _measured_and_paper()
    for row, (metric, paper, label) in enumerate(_drawn(arms)):
        panels[row, 0].set_ylabel(label, fontsize=9)
        for place, (found, colour) in enumerate(zip(counts.values(), COLOURS, strict=False)):
            _box(panels[row, 0], place, [arm.metrics[metric].mean for arm in found], colour)
            _box(panels[row, 1], place, [arm.paper.get(paper) for arm in found], colour)
            seeds = [v for arm in found for v in arm.metrics[metric].by_seed.values() if v is not None]
            panels[row, 0].plot(_beside(place, len(seeds), 0.2), seeds, ".", color=colour, alpha=0.35, markersize=4)
        for axes in panels[row]:
            axes.set_xticks(range(len(counts)), [f"{n} task{'s' if n > 1 else ''}" for n in counts], fontsize=9)
            axes.set_xlim(-0.6, len(counts) - 0.4)
    return figure_png(figure)


def _drawn(arms: Mapping[str, ArmResult]) -> list[tuple[str, str, str]]:
    """Return metric, the paper's metric and label of the rows of a figure: the composite's, where there is one."""
    suffix = "_composite" if "psnr_composite" in next(iter(arms.values())).metrics else ""
    return [(f"psnr{suffix}", "psnr", "PSNR (dB)"), (f"ssim{suffix}", "ssim", "SSIM")]


def _box(axes: Any, place: float, values: Sequence[float | None], colour: str) -> None:
    known = [value for value in values if value is not None]
    if len(known) > 1:
        axes.boxplot(
            [known], positions=[place], widths=0.5, showfliers=False, patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.22, "edgecolor": colour},
            medianprops={"color": colour, "linewidth": 2}, whiskerprops={"color": colour}, capprops={"color": colour},
        )  # fmt: skip
    points = _beside(place, len(known), 0.12)
    axes.plot(points, known, "o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.6)


def _beside(place: float, count: int, width: float) -> NDArray[np.float64]:
    """Return places beside each other around one, so that equal points are visible."""
    return place + (np.linspace(-width, width, count) if count > 1 else np.zeros(count))


def _measured_and_paper() -> tuple[Any, Any]:
    figure = new_figure(8.6, 6.4)
    panels = figure.subplots(2, 2, squeeze=False)
    for axes, title in zip(panels[0], ("measured here", "the paper: other data, one run each"), strict=True):
        axes.set_title(title, fontsize=10)
    for axes in panels.flat:
        axes.grid(axis="y", alpha=0.3)
        axes.tick_params(labelsize=8)
        plain_frame(axes)
    return figure, panels
