"""The report of one evaluation: `report.md`, and `report.html` with everything inside one file."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wssl_pl.evaluation.figures import FIGURES, LOWER_IS_BETTER
from wssl_pl.evaluation.methods import Method
from wssl_pl.evaluation.pairs import Pairs
from wssl_pl.evaluation.plots import box_plots, strip
from wssl_pl.evaluation.table import Table

LABELS = {
    "psnr": "PSNR", "psnr_composite": "PSNR composite", "psnr_hole": "PSNR hole",
    "ssim": "SSIM", "ssim_composite": "SSIM composite", "ms_ssim": "MS-SSIM", "ms_ssim_composite": "MS-SSIM composite",
    "l1": "L1", "l1_composite": "L1 composite", "l1_hole": "L1 hole",
    "lpips": "LPIPS", "lpips_composite": "LPIPS composite", "fid": "FID", "fid_composite": "FID composite",
}  # fmt: skip
RANKED_BY = "psnr_hole"
EACH = 3  # pictures of the best, the median and the worst
READING = (
    "Raw is the method's whole output, composite has the known pixels of the input, hole counts hole pixels only. "
    "PSNR in dB, all on [0, 1]. In brackets the 95 % bootstrap interval of the mean over images. "
    "Definitions: docs/metrics.md."
)

Cells = list[list[str]]


def write_report(
    folder: Path, summary: dict[str, Any], table: Table, pairs: Pairs, method: Method, device: torch.device
) -> None:
    """Writes both reports, and the pictures that the Markdown one shows.

    Args:
        folder: the result's.
        summary: as in `summary.json`.
        table: figures per image.
        pairs: read again for the examples.
        method: run again on the examples, a handful, so that no prediction has to be kept.
        device: where it runs.
    """
    title = f"{summary['method']['name']} on {summary['pairs']['evaluated']} pairs"
    facts = describe(summary)
    cells = figure_table(summary)
    boxes = box_plots(table)
    (folder / "box_plots.png").write_bytes(boxes)
    examples = []
    for rank, number in chosen_examples(table.column(RANKED_BY)):
        picture = strip(pairs, str(table.names[number]), method, device)
        file = f"example_{rank.replace(' ', '_')}.png"
        (folder / file).write_bytes(picture)
        at = table.values[number]
        psnr, ssim = at[FIGURES.index(RANKED_BY)], at[FIGURES.index("ssim_composite")]
        caption = (
            f"{rank}: {table.names[number]}, hole {table.bins[number]} %, {LABELS[RANKED_BY]} {psnr:.2f} dB, "
            f"SSIM composite {ssim:.4f}"
        )
        examples.append((caption, file, picture))
    columns = "Columns: masked input, raw output, composite, truth."
    notes = summary["notes"] + kept_out(summary)
    lines = [f"# {title}", "", *[f"- {fact}" for fact in facts], "", READING, "", *markdown(cells), ""]
    lines += [f"- {note}" for note in notes] + ["", "![Figures by hole ratio](box_plots.png)", ""]
    lines += ["## Best, median and worst by PSNR in the hole", "", columns, ""]
    for caption, file, _ in examples:
        lines += [caption, "", f"![{caption}]({file})", ""]
    (folder / "report.md").write_text("\n".join(lines))
    (folder / "report.html").write_text(page(title, facts, cells, notes, boxes, examples, columns))


def describe(summary: dict[str, Any]) -> list[str]:
    """Method, pairs and machine in a few lines."""
    pairs, machine = summary["pairs"], summary["machine"]
    method = ", ".join(f"{key} {value}" for key, value in summary["method"].items() if key != "name")
    return [
        f"Method: {method}",
        f"Pairs: {pairs['evaluated']} of {pairs['count']}, hash {pairs['hash'][:16]}",
        f"Time of the method itself: {summary['seconds_per_image']:.4g} s per image",
        f"Measured on {machine['device']}, {machine['cores']} cores, torch {machine['torch']}",
    ]


def figure_table(summary: dict[str, Any]) -> Cells:
    """Header and one row per figure: all images and each bin."""
    groups = list(summary["figures"])
    header = ["", *[f"{group if group == 'all' else group + ' %'} (n={summary['counts'][group]})" for group in groups]]
    rows = [header]
    for figure in FIGURES:
        cells = [interval(summary["figures"][group][figure], figure) for group in groups]
        if any(cells):
            rows.append([arrow(figure), *[cell or "-" for cell in cells]])
    for figure in ("fid", "fid_composite"):
        if summary["fid"] is not None:
            value = summary["fid"][figure]
            rows.append([arrow(figure), "-" if value is None else f"{value:.2f}"])
            rows[-1] += ["-"] * (len(groups) - 1)
    return rows


def arrow(figure: str) -> str:
    """The label of a figure with the direction that is better."""
    return f"{LABELS[figure]} {'↓' if figure in LOWER_IS_BETTER else '↑'}"


def interval(entry: dict[str, Any], figure: str) -> str:
    """`mean [low, high]`, or nothing where there is no mean."""
    if entry["mean"] is None:
        return ""
    digits = 2 if figure.startswith("psnr") else 4
    return f"{entry['mean']:.{digits}f} [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"


def kept_out(summary: dict[str, Any]) -> list[str]:
    """Lines on images that a mean leaves out."""
    lines = []
    for figure, entry in summary["figures"]["all"].items():
        if entry["infinite"]:
            lines.append(f"{LABELS[figure]}: infinite (identical) for {entry['infinite']} images, kept out of the mean")
        if entry["undefined"] and entry["mean"] is not None:
            lines.append(f"{LABELS[figure]}: no value for {entry['undefined']} images (no hole), kept out of the mean")
    return lines


def chosen_examples(values: np.ndarray) -> list[tuple[str, int]]:
    """Rows of the best, the median and the worst images, named by their rank, none twice."""
    order = [int(number) for number in np.argsort(-values, kind="stable") if np.isfinite(values[number])]
    middle = max(len(order) // 2 - EACH // 2, 0)
    wanted = {"best": order[:EACH], "median": order[middle : middle + EACH], "worst": order[::-1][:EACH]}
    found: list[tuple[str, int]] = []
    for rank, numbers in wanted.items():
        fresh = [number for number in numbers if number not in {row for _, row in found}]
        found += [(f"{rank} {place}", number) for place, number in enumerate(fresh, start=1)]
    return found


def markdown(cells: Cells) -> list[str]:
    """A Markdown table of header and rows."""
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|---|" + "---:|" * (len(cells[0]) - 1), *lines[1:]]


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .3em .7em; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; font-weight: 600; }
img { max-width: 100%; } figure { margin: 0; } figcaption { font-size: 13px; color: #444; margin-top: .2em; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(22em, 1fr)); gap: 1em; }
.note { color: #666; font-size: 13px; overflow-wrap: anywhere; }
"""


def page(
    title: str,
    facts: Sequence[str],
    cells: Cells,
    notes: Sequence[str],
    boxes: bytes,
    examples: Sequence[tuple[str, str, bytes]],
    columns: str,
) -> str:
    """The HTML page, pictures inside as base64, nothing fetched from elsewhere."""
    out = io.StringIO()
    safe = html.escape
    out.write(f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{safe(title)}</title>")
    out.write(f"<style>{STYLE}</style></head><body><h1>{safe(title)}</h1><ul>")
    out.write("".join(f"<li>{safe(fact)}</li>" for fact in facts))
    out.write(f"</ul><p>{safe(READING)}</p><table><thead><tr>")
    out.write("".join(f"<th>{safe(cell)}</th>" for cell in cells[0]) + "</tr></thead><tbody>")
    for row in cells[1:]:
        out.write("<tr>" + "".join(f"<td>{safe(cell).replace(' [', '<br><small>[')}</td>" for cell in row) + "</tr>")
    out.write("</tbody></table>")
    out.write("".join(f"<p class='note'>{safe(note)}</p>" for note in notes))
    out.write(f"<h2>By hole ratio</h2><img alt='Box plots by hole ratio' src='{data_uri(boxes)}'>")
    out.write(f"<h2>Best, median and worst by PSNR in the hole</h2><p>{columns}</p><div class='examples'>")
    for caption, _, picture in examples:
        out.write(f"<figure><img alt='{safe(caption)}' src='{data_uri(picture)}'>")
        out.write(f"<figcaption>{safe(caption)}</figcaption></figure>")
    out.write("</div></body></html>\n")
    return out.getvalue()


def data_uri(png: bytes) -> str:
    """A PNG inside a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
