"""The reports of a result, `report.md` and `report.html`, and the page of a comparison."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from wssl_pl.evaluation.compare import Comparison, PairedDifference
from wssl_pl.evaluation.drawing import box_plots, columns_of, side_by_side_figure, strip
from wssl_pl.evaluation.files import check_output
from wssl_pl.evaluation.methods import Method
from wssl_pl.evaluation.metrics import LABELS, LOWER_IS_BETTER, METRICS, arrow
from wssl_pl.evaluation.pages import number, render, signed, span
from wssl_pl.evaluation.pairs import Pairs
from wssl_pl.evaluation.results import Estimate, Result, Table, read_result, sample_rows
from wssl_pl.files import write_json, writing

GALLERIES = (("psnr_hole", "psnr"), ("lpips_composite", "lpips"))
"""Metrics by which the best, median and worst images are shown: usually, and where inputs are damaged."""
ACROSS = 6  # results beside each other
INCHES = 1.6  # of an image's side
HEADLINES = (
    "psnr_composite", "ssim_composite", "lpips_composite", "psnr", "ssim", "lpips", "psnr_hole", "psnr_known", "fid",
    "fid_composite", "kid", "kid_composite",
)  # fmt: skip
"""The metrics that a leaderboard shows."""
EXAMPLES = 3  # of the best, the median and the worst
UNITS = (
    "PSNR in dB, all on [0, 1]. In brackets the 95 % bootstrap interval of the mean over images. "
    "Definitions: docs/metrics.md."
)
READING = (
    "Raw is the method's whole output, composite has the known pixels of the input, hole counts hole pixels only. "
    f"{UNITS}"
)
READING_RESTORED = (
    "Raw is the method's whole output, hole and known count the pixels of either part: the known ones are to be "
    f"restored too, and are not pasted back. {UNITS}"
)


@dataclass(frozen=True)
class Example:
    """One pair as the report shows it."""

    caption: str
    file: str
    png: bytes


@dataclass(frozen=True)
class Gallery:
    """Examples under a title."""

    title: str
    examples: list[Example]


def write_report(result: Result, folder: Path, pairs: Pairs, method: Method, device: torch.device) -> None:
    """Write the result and both reports; an earlier result in the folder is replaced.

    Args:
        result: of `evaluate`.
        folder: where to.
        pairs: read again for the examples.
        method: run again on the examples, a handful, so that few predictions have to be kept.
        device: where it runs.

    Raises:
        WSSLError: The folder is that of the pairs, or cannot be written.
    """
    check_output(folder, pairs.folder)
    with writing("out", folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").unlink(missing_ok=True)  # incomplete until the new one is written
    boxes = box_plots(result.table)
    galleries = _galleries(result.table, partial(strip, pairs, result.outputs, method, device))
    context: dict[str, Any] = {
        "title": f"{result.name} on {result.pairs.evaluated} pairs",
        "facts": facts(result),
        "reading": READING_RESTORED if result.table.restored else READING,
        "rows": metric_rows(result),
        "notes": [*result.notes, *excluded(result)],
        "box_plots": boxes,
        "columns": ", ".join(_columns(result.table)),
        "galleries": galleries,
    }
    with writing("out", folder):
        (folder / "box_plots.png").write_bytes(boxes)
        for example in (example for gallery in galleries for example in gallery.examples):
            (folder / example.file).write_bytes(example.png)
        for name in ("md", "html"):
            (folder / f"report.{name}").write_text(render(f"evaluation.{name}.j2", **context))
        result.save(folder)


def _columns(table: Table) -> list[str]:
    return ["masked input", "prediction", *([] if table.restored else ["composite"]), "truth"]


def _galleries(table: Table, draw: Callable[[str], bytes]) -> list[Gallery]:
    """Return the best, median and worst images by each metric that there is, and samples of all hole ratios.

    Args:
        table: the metrics.
        draw: gives a pair's strip by its name; an image that is in several galleries is drawn once.
    """
    draw = cache(draw)
    usual, of_restored = "psnr_hole ssim_composite lpips_composite", "psnr psnr_hole psnr_known ssim lpips"
    shown = [name for name in (of_restored if table.restored else usual).split() if name in table.metrics]

    def example(place: str, row: int, prefix: str) -> Example:
        name = str(table.images[row])
        metrics = [f"{LABELS[metric]} {number(table.column(metric)[row], metric)}" for metric in shown]
        caption = f"{place}: {name}, hole {table.bins[row]} %, {', '.join(metrics)}"
        return Example(caption, f"{prefix}_{place.replace(' ', '_')}.png", draw(name))

    found = []
    for metric in (names[table.restored] for names in GALLERIES):
        if metric in table.metrics:
            values = table.column(metric) * (-1.0 if metric in LOWER_IS_BETTER else 1.0)
            prefix = "example" if metric.startswith("psnr") else "example_lpips"
            examples = [example(place, row, prefix) for place, row in chosen_examples(values)]
            found.append(Gallery(f"Best, median and worst by {LABELS[metric]}", examples))
    samples = [example(str(place), row, "sample") for place, row in enumerate(sample_rows(table.ratios), start=1)]
    return [*found, Gallery("The same images for every method", samples)]


def facts(result: Result) -> list[str]:
    """Return method, pairs and machine in a few lines."""
    pairs, machine = result.pairs, result.machine
    return [
        "Method: " + ", ".join(f"{key} {value}" for key, value in result.method.items() if key != "name"),
        f"Pairs: {pairs.evaluated} of {pairs.count}, hash {pairs.hash[:16]}; protocol {result.protocol or 'unknown'}",
        *pairs.data_line(),
        *([f"Inputs damaged by {', '.join(pairs.restore)}"] if pairs.restore else []),
        f"Time of the method itself: {result.seconds_per_image:.4g} s per image",
        f"Measured on {machine}",
        *(
            f"{LABELS[metric]}: network {weights.network} of {weights.file}, SHA-256 {weights.sha256[:16]}"
            for metric, weights in result.weights.items()
        ),
    ]


def metric_rows(result: Result) -> list[list[str]]:
    """Return the header and a row per metric: all images and each bin."""
    rows = [["", *_group_names(result.counts)]]
    for metric in result.table.metrics:
        cells = [interval(group[metric], metric) for group in result.estimates.values()]
        if any(cells):
            rows.append([arrow(metric), *[cell or "-" for cell in cells]])
    for metric, value in (result.fid or {}).items():
        rows.append([arrow(metric), number(value, metric), *["-"] * (len(rows[0]) - 2)])
    return rows


def _group_names(counts: dict[str, int]) -> list[str]:
    return [f"{name if name == 'all' else name + ' %'} (n={count})" for name, count in counts.items()]


def interval(entry: Estimate | None, metric: str) -> str:
    """Return `mean [low, high]`; nothing where there is no mean, and the mean alone where it has no interval."""
    if entry is None or entry.mean is None:
        return ""
    mean, low, high = (number(value, metric) for value in (entry.mean, entry.low, entry.high))
    return mean if entry.low is None else f"{mean} [{low}, {high}]"


def excluded(result: Result) -> list[str]:
    """Return a line for each reason why a mean excludes images."""
    lines = []
    for metric, entry in result.estimates["all"].items():
        if entry.infinite:
            lines.append(f"{LABELS[metric]}: infinite (identical) for {entry.infinite} images, excluded from the mean")
        if entry.undefined and entry.mean is not None:
            part = metric.rpartition("_")[2]
            why = f"no {part} pixel" if part in ("hole", "known") else "too small"
            lines.append(f"{LABELS[metric]}: no value for {entry.undefined} images ({why}), excluded from the mean")
    return lines


def chosen_examples(values: NDArray[np.float64]) -> list[tuple[str, int]]:
    """Return the rows of the best, the median and the worst images, named by their rank, none twice."""
    order = [int(row) for row in np.argsort(-values, kind="stable") if np.isfinite(values[row])]
    middle = max(len(order) // 2 - EXAMPLES // 2, 0)
    wanted = {"best": order[:EXAMPLES], "median": order[middle : middle + EXAMPLES], "worst": order[::-1][:EXAMPLES]}
    found: dict[int, str] = {}
    for rank, rows in wanted.items():
        for place, row in enumerate([row for row in rows if row not in found], start=1):
            found[row] = f"{rank} {place}"
    return [(name, row) for row, name in found.items()]


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.json`, `comparison.md`, `comparison.html` and, where results have samples, `comparison.png`."""
    samples = _samples_side_by_side(comparison)
    with writing("out", folder):
        folder.mkdir(parents=True, exist_ok=True)
        if samples is not None:
            (folder / "comparison.png").write_bytes(samples)
        for name in ("md", "html"):
            (folder / f"comparison.{name}").write_text(comparison_page(comparison, name, samples))
        write_json(folder / "comparison.json", asdict(comparison))


def _samples_side_by_side(comparison: Comparison) -> bytes | None:
    """Draw input, the results in the order of the leaderboard, and truth of the samples; None if no result has them."""
    table = read_result(comparison.folder).table
    names, places = _columns(table), range(1, len(sample_rows(table.ratios)) + 1)
    shown = [0, len(names) - 2, len(names) - 1]  # of several outputs the last one, the composite
    columns: dict[str, list[NDArray[np.uint8]]] = {}
    for standing in comparison.leaderboard:
        files = [Path(standing.folder) / f"sample_{place}.png" for place in places]
        if all(file.is_file() for file in files):
            strips = [columns_of(file, len(names)) for file in files]
            given, output, truth = ([strip[column] for strip in strips] for column in shown)
            columns |= {names[0]: given, standing.name: output}
    if not columns:
        return None
    return side_by_side_figure([*columns.items(), (names[-1], truth)], ACROSS, INCHES)


def comparison_page(comparison: Comparison, kind: Literal["md", "html"] = "md", samples: bytes | None = None) -> str:
    """Return the comparison as Markdown or HTML: the leaderboard, its samples, and a table per other result."""
    tables = []
    for other in comparison.others:
        rows = [[f"{other.name} - {comparison.reference}", *_group_names(comparison.counts)]]
        for metric in METRICS:
            if metric in other.groups["all"]:
                counted = zip(other.groups.values(), comparison.counts.values(), strict=True)
                cells = [difference(group.get(metric), metric, count) for group, count in counted]
                rows.append([arrow(metric), *cells])
        tables.append(rows)
    context: dict[str, Any] = {"comparison": comparison, "leaderboard": leaderboard(comparison), "tables": tables}
    return render(f"comparison.{kind}.j2", ranked_by=LABELS[comparison.ranked_by], samples=samples, **context)


def leaderboard(comparison: Comparison) -> list[list[str]]:
    """Return the header and a row per result, the best first."""
    ranked_by, standings = comparison.ranked_by, comparison.leaderboard
    shown = [
        metric
        for metric in HEADLINES
        if metric != ranked_by and any(metric in standing.metrics for standing in standings)
    ]
    rows = [["", "result", arrow(ranked_by), "difference", *map(arrow, shown), "s per image"]]
    for place, standing in enumerate(standings, start=1):
        versus = difference(standing.difference, ranked_by)
        if standing.difference is None and standing.folder == comparison.folder:
            versus = "reference"
        means = [number(entry.mean if (entry := standing.metrics.get(name)) else None, name) for name in shown]
        seconds = "-" if standing.seconds_per_image is None else f"{standing.seconds_per_image:.3g}"
        entry = standing.metrics.get(ranked_by)
        rows.append([str(place), standing.name, interval(entry, ranked_by) or "-", versus, *means, seconds])
    return rows


def difference(entry: PairedDifference | None, metric: str, count: int | None = None) -> str:
    """Return `difference [low, high], won fraction`; a dash where there is none.

    Args:
        entry: the difference.
        metric: of it.
        count: how many images the column has; where fewer of them have the metric, their number is added.
    """
    if entry is None:
        return "-"
    between = "" if entry.low is None or entry.high is None else f" {span(entry.low, entry.high, metric)}"
    fewer = "" if count in (None, entry.count) else f" (n={entry.count})"
    return f"{signed(entry.difference, metric)}{between}, won {entry.won:.0%}{fewer}"
