"""The report of a study: verdicts first, then tables and figures, as Markdown, one HTML file, and numbers."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wssl_pl.errors import UsageError
from wssl_pl.study import content
from wssl_pl.study.document import Block, Heading, as_html, as_markdown
from wssl_pl.study.drawing import curve_plot, figure2, figure4, verdict_plot
from wssl_pl.study.faces import figure3
from wssl_pl.study.results import Results, read_results
from wssl_pl.study.summary import summarise

CAPTIONS = {
    "figure2": "Figure 2: against the weight of the first task; bars are ± one standard deviation over seeds, hollow "
    "points are arms that had not converged. Right: the paper's points.",
    "figure3": "Figure 3: test images masked, filled by each arm (composite), and original.",
    "figure4": "Figure 4: settings with one, two and three pretext tasks; a point per setting, a small one per seed, "
    "arms that had not converged included. Right: the paper's values.",
    "verdicts": "The difference of every claim and figure; green supports the claim, red says the opposite.",
    "curves": "Raw validation PSNR of every arm: seeds thin, their mean thick, red where it still rises.",
}


def write_report(directory: Path, out: Path | None = None) -> Path:
    """Writes `report.md`, `report.html`, `report.json` and pictures on a study, finished or not.

    Args:
        directory: the study's folder.
        out: where to; `report` in the study's folder if left out. An earlier report there is replaced.

    Returns:
        the folder of the report.

    Raises:
        UsageError: the folder holds no study, its runs were measured on different pairs, or `out` is a file.
    """
    results = read_results(directory)
    folder = results.folder / "report" if out is None else Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"out={folder} is a file: name a folder for the report")
    summary = summarise(results)
    pictures, notes = draw(results, summary)
    summary["pictures"] = {name: caption for name, (caption, _) in pictures.items()}
    summary["notes"] = notes
    blocks = compose(summary)
    folder.mkdir(parents=True, exist_ok=True)
    for old in summary_pictures(folder) - pictures.keys():
        (folder / old).unlink(missing_ok=True)
    for name, (_, png) in pictures.items():
        (folder / name).write_bytes(png)
    (folder / "report.md").write_text(as_markdown(blocks))
    (folder / "report.html").write_text(as_html(blocks, {name: png for name, (_, png) in pictures.items()}))
    (folder / "report.json").write_text(json.dumps(finite(summary), indent=1, allow_nan=False) + "\n")
    return folder


def summary_pictures(folder: Path) -> set[str]:
    """The pictures of an earlier report, so that none of a figure that is gone stays behind."""
    try:
        return set(json.loads((folder / "report.json").read_text())["pictures"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def draw(results: Results, summary: dict[str, Any]) -> tuple[dict[str, tuple[str, bytes]], list[str]]:
    """All pictures with their captions by file name, and notes on those that could not be drawn."""
    pictures: dict[str, tuple[str, bytes]] = {}
    notes: list[str] = []

    def keep(name: str, kind: str, png: bytes | None) -> None:
        if png is not None:
            pictures[name] = (CAPTIONS[kind], png)

    keep("verdicts.png", "verdicts", verdict_plot(summary["sections"]))
    for section in summary["sections"]:
        for plot in section["plots"]:
            if plot == "figure3":
                png, lacking = figure3(results, section["arms"])
                notes += [f"{section['title']}, Figure 3: {line}" for line in lacking]
            else:
                png = {"figure2": figure2, "figure4": figure4}[plot](summary, section["arms"])
            keep(content.picture_file(section["name"], plot), plot, png)
    keep("curves.png", "curves", curve_plot(summary))
    return pictures, notes


def compose(summary: Mapping[str, Any]) -> list[Block]:
    """The page."""
    return [
        Heading(f"Study {summary['name']}", 1),
        *content.facts(summary),
        *content.order(summary),
        *content.verdicts(summary),
        *content.how_to_read(summary),
        *content.section_tables(summary),
        *content.curves(summary),
        *content.not_run(summary),
        *content.search(summary),
    ]


def finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
