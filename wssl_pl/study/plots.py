"""The figures of a study's report, as PNG files."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wssl_pl.drawing import figure_png, new_figure
from wssl_pl.evaluation.metrics import LABELS
from wssl_pl.evaluation.pages import COLOURS as STATE_COLOURS
from wssl_pl.evaluation.pages import plain_frame, signed
from wssl_pl.evaluation.statistics import CONVERGENCE_METRIC
from wssl_pl.study.verdicts import ArmResult, Verdict, points_of

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")  # Okabe and Ito 2008
SHIFT = 0.012  # between the curves of Figure 2, so that error bars do not hide others
PANELS = 4  # beside each other


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
    for axes, (name, own) in zip(panels.flat[: len(shown)], shown.items(), strict=True):
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
    numbers = sorted({len(arm.tasks) for arm in arms.values()} - {0})
    counts = {count: [arm for arm in arms.values() if len(arm.tasks) == count] for count in numbers}
    if not counts:
        return None
    figure, panels = _measured_and_paper()
    for row, (metric, paper, label) in enumerate(_drawn(arms)):
        panels[row, 0].set_ylabel(label, fontsize=9)
        for place, found in enumerate(counts.values()):
            colour = COLOURS[place % len(COLOURS)]
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
