"""The report's drawings, as PNG bytes, made from its numbers; the paper's values stand beside, on their own axes."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wssl_pl.evaluation.metrics import LABELS
from wssl_pl.evaluation.pages import COLOURS as STATES
from wssl_pl.evaluation.statistics import CONVERGENCE_METRIC as FIGURE
from wssl_pl.study.notation import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Summary = Mapping[str, Any]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")  # Okabe and Ito 2008
RED = "#b3261e"
DRAWN = (("psnr_composite", "psnr", "PSNR (dB)"), ("ssim_composite", "ssim", "SSIM"))
SHIFT = 0.012  # by which the curves of Figure 2 stand beside each other, so that error bars do not hide others
ACROSS = 4


def verdict_plot(sections: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Each claim's difference with its interval, a panel per figure; None where nothing was compared."""
    verdicts = [verdict for section in sections for verdict in section["verdicts"]]
    names = [name for name in LABELS if any(name in verdict["figures"] for verdict in verdicts)]
    if not names:
        return None
    figure = _new_figure(4.2 + 3.4 * len(names), 1.1 + 0.5 * len(verdicts))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for row, verdict in enumerate(verdicts):
            entry = verdict["figures"].get(name)
            if entry is None:
                told = "not decided" if verdict["state"] == "not decided" else "-"
                axes.text(
                    0.5, row, told, transform=axes.get_yaxis_transform(), color=STATES["not decided"], ha="center",
                    va="center", fontsize=8, style="italic", bbox={"facecolor": "white", "edgecolor": "none"},
                )  # fmt: skip
                continue
            colour = STATES[entry["state"]]
            axes.plot([entry["low"], entry["high"]], [row, row], color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot(entry["by_seed"].values(), [row] * len(entry["by_seed"]), "|", color=colour, alpha=0.6, ms=9)
            axes.plot(entry["difference"], row, "o", color=colour, markersize=6)
        axes.axvline(0, color="#222222", linewidth=0.9)
        axes.set_title(LABELS[name] + (" (dB)" if name.startswith("psnr") else ""), fontsize=10)
        axes.locator_params(axis="x", nbins=6)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        _plain_frame(axes)
    panels[0].set_yticks(range(len(verdicts)), [_wrap(verdict["claim"], 44) for verdict in verdicts], fontsize=8)
    panels[0].set_ylim(len(verdicts) - 0.4, -0.6)
    seen = dict.fromkeys(e["state"] for v in verdicts for e in v["figures"].values())
    figure.suptitle("Difference with its 95 % interval (ticks: seeds); right of 0 the claim is right", fontsize=10)
    handles = [_line(STATES[state], state) for state in seen]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    return _png(figure)


def curve_plot(summary: Summary) -> bytes | None:
    """Raw validation PSNR of every arm, seeds thin and their mean thick; None without curves."""
    arms = [arm for arm in summary["arms"].values() if any(run.get(FIGURE) for run in arm["curves"].values())]
    if not arms:
        return None
    across = min(ACROSS, len(arms))
    down = -(-len(arms) // across)
    figure = _new_figure(3.0 * across + 0.6, 2.3 * down + 0.5)
    panels = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes, arm in zip(panels.flat, arms, strict=False):
        curves = [np.array(run[FIGURE], float) for run in arm["curves"].values() if run.get(FIGURE)]
        late = arm["convergence"]["state"] == "not converged"
        colour = RED if late else COLOURS[0]
        for curve in curves:
            axes.plot(curve[:, 0], curve[:, 1], color=colour, linewidth=0.8, alpha=0.55)
        longest = max(curves, key=len)[:, 0]
        mean = np.mean([np.interp(longest, curve[:, 0], curve[:, 1]) for curve in curves], axis=0)
        axes.plot(longest, mean, color=colour, linewidth=2.4)
        axes.axvspan(0.8 * longest[-1], longest[-1], color="#000000", alpha=0.05, linewidth=0)
        axes.set_title(_wrap(arm["label"], 30), fontsize=8.5)
        rise = arm["convergence"]["rise"]
        told = "" if rise is None else f"{'not converged, ' if late else ''}{signed(rise, FIGURE)} dB"
        axes.text(0.97, 0.06, told, transform=axes.transAxes, ha="right", color=colour, fontsize=8)
        axes.tick_params(labelsize=7.5)
        axes.grid(alpha=0.3)
        _plain_frame(axes)
    for axes in panels.flat[len(arms) :]:
        axes.set_axis_off()
    figure.supylabel("raw validation PSNR (dB)", fontsize=9)
    figure.supxlabel("steps (shaded: the last fifth, by which convergence is judged)", fontsize=9)
    return _png(figure)


def figure2(summary: Summary, names: Sequence[str]) -> bytes | None:
    """PSNR and SSIM against the weight of the first of two tasks; None without such arms."""
    pairs: dict[str, list[Mapping[str, Any]]] = {}
    for arm in (summary["arms"][name] for name in names):
        if len(arm["tasks"]) == 2 and arm["weights"]:
            pairs.setdefault(" - ".join(arm["tasks"]), []).append(arm)
    if not pairs:
        return None
    figure, panels = _measured_and_paper()
    for row, (measured, paper, label) in enumerate(DRAWN):
        for number, (pair, arms) in enumerate(pairs.items()):
            colour, shift = COLOURS[number % len(COLOURS)], SHIFT * (number - (len(pairs) - 1) / 2)
            ordered = sorted(arms, key=lambda arm: arm["weights"][0])
            found = [arm for arm in ordered if arm["figures"][measured]["mean"] is not None]
            weights = [arm["weights"][0] for arm in found]
            entries = [arm["figures"][measured] for arm in found]
            panels[row, 0].errorbar(
                [weight + shift for weight in weights], [entry["mean"] for entry in entries],
                yerr=[entry["sd"] or 0.0 for entry in entries], color=colour, label=pair, marker="o", markersize=5,
                linewidth=1.8, capsize=3, elinewidth=1.2,
            )  # fmt: skip
            for arm, weight, entry in zip(found, weights, entries, strict=True):
                if arm["convergence"]["state"] == "not converged":
                    place = weight + shift
                    panels[row, 0].plot(place, entry["mean"], "o", color=colour, markerfacecolor="white", zorder=5)
            told = [arm for arm in ordered if paper in arm["paper"]]
            panels[row, 1].plot(
                [arm["weights"][0] for arm in told], [arm["paper"][paper] for arm in told],
                color=colour, linewidth=1.4, linestyle="--", marker="s", markersize=5,
            )  # fmt: skip
        panels[row, 0].set_ylabel(label, fontsize=9)
        for axes in panels[row]:
            axes.set_xticks([0.1, 0.3, 0.5, 0.7, 0.9])
            axes.set_xlim(0, 1)
    for axes in panels[1]:
        axes.set_xlabel("weight of the first task", fontsize=9)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8.5, frameon=False)
    return _png(figure)


def figure4(summary: Summary, names: Sequence[str]) -> bytes | None:
    """PSNR and SSIM of one, two and three tasks: a box over settings, a point per setting; None without arms."""
    counts: dict[int, list[Mapping[str, Any]]] = {}
    for arm in (summary["arms"][name] for name in names):
        if arm["tasks"]:
            counts.setdefault(len(arm["tasks"]), []).append(arm)
    if not counts:
        return None
    numbers = sorted(counts)
    figure, panels = _measured_and_paper()
    for row, (measured, paper, label) in enumerate(DRAWN):
        for column in (0, 1):
            axes = panels[row, column]
            for place, number in enumerate(numbers):
                arms, colour = counts[number], COLOURS[place % len(COLOURS)]
                values = [arm["paper"].get(paper) if column else arm["figures"][measured]["mean"] for arm in arms]
                means = [value for value in values if value is not None]
                _box(axes, place, means, colour)
                if not column:
                    seeds = [v for arm in arms for v in arm["figures"][measured]["by_seed"].values() if v is not None]
                    axes.plot(_spread_out(place, len(seeds), 0.2), seeds, ".", color=colour, alpha=0.35, markersize=4)
            words = {1: "one task", 2: "two tasks", 3: "three tasks"}
            axes.set_xticks(range(len(numbers)), [words.get(n, f"{n} tasks") for n in numbers], fontsize=9)
            axes.set_xlim(-0.6, len(numbers) - 0.4)
        panels[row, 0].set_ylabel(label, fontsize=9)
    return _png(figure)


def _box(axes: "Axes", place: float, values: Sequence[float], colour: str) -> None:
    if not values:
        return
    if len(values) > 1:
        axes.boxplot(
            [values], positions=[place], widths=0.5, showfliers=False, patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.22, "edgecolor": colour},
            medianprops={"color": colour, "linewidth": 2}, whiskerprops={"color": colour}, capprops={"color": colour},
        )  # fmt: skip
    points = _spread_out(place, len(values), 0.12)
    axes.plot(points, values, "o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.6)


def _spread_out(place: float, count: int, width: float) -> np.ndarray:
    """Places beside each other around one, so that equal points show."""
    return place + (np.linspace(-width, width, count) if count > 1 else np.zeros(count))


def _measured_and_paper() -> tuple["Figure", Any]:
    figure = _new_figure(8.6, 6.4)
    panels = figure.subplots(2, 2, squeeze=False)
    titles = ("measured here (composite)", "the paper: other data, one run each")
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    for axes in panels.flat:
        axes.grid(axis="y", alpha=0.3)
        axes.tick_params(labelsize=8)
        _plain_frame(axes)
    return figure, panels


def _new_figure(width: float, height: float) -> "Figure":
    # A Figure of its own, without pyplot: no window system is touched and nothing is left in its global list.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _plain_frame(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _line(colour: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker="o", linewidth=2.2, label=label)


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) or text


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
