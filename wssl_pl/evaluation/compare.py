"""Paired differences between results on the same pairs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wssl_pl.errors import UsageError
from wssl_pl.evaluation.figures import FIGURES, LOWER_IS_BETTER
from wssl_pl.evaluation.report import arrow, markdown
from wssl_pl.evaluation.statistics import intervals
from wssl_pl.evaluation.table import Table, read_table


def compare(folders: Sequence[str | Path], seed: int = 0) -> dict[str, Any]:
    """Each result against the first: differences image by image.

    Args:
        folders: results of `wssl evaluate`, at least two.
        seed: seed of the bootstrap.

    Returns:
        the `reference`, and for each other result by group and figure the mean `difference` (other minus reference)
        with `low` and `high` of its 95 % interval, and the shares of images that it `won` and that were `tied`.

    Raises:
        UsageError: not results, or of different pairs.
    """
    if len(folders) < 2:
        raise UsageError("--compare takes two or more result folders of `wssl evaluate`")
    summaries, tables = zip(*(read_result(folder) for folder in folders), strict=True)
    reference, table = summaries[0], tables[0]
    for folder, summary, other in zip(folders[1:], summaries[1:], tables[1:], strict=True):
        if summary["pairs"]["hash"] != reference["pairs"]["hash"]:
            raise UsageError(
                f"{folder} was measured on other pairs than {folders[0]} (hash {summary['pairs']['hash'][:12]} "
                f"against {reference['pairs']['hash'][:12]}): their figures cannot be compared"
            )
        if list(other.names) != list(table.names):
            raise UsageError(
                f"{folder} was measured on {len(other.names)} of the pairs, {folders[0]} on {len(table.names)}, "
                "not the same ones: evaluate both on the same pairs and limit"
            )
    others = [
        {"name": summary["method"]["name"], "folder": str(folder), "groups": differences(table, other, seed)}
        for folder, summary, other in zip(folders[1:], summaries[1:], tables[1:], strict=True)
    ]
    named = {"name": reference["method"]["name"], "folder": str(folders[0])}
    return {"reference": named, "pairs": reference["pairs"]["hash"], "counts": reference["counts"], "others": others}


def read_result(folder: str | Path) -> tuple[dict[str, Any], Table]:
    """Summary and table of a result.

    Raises:
        UsageError: it is not a finished result.
    """
    folder = Path(folder)
    if not (folder / "summary.json").is_file() or not (folder / "per_image.csv").is_file():
        raise UsageError(f"{folder} is not a finished result of `wssl evaluate`")
    try:
        return json.loads((folder / "summary.json").read_text()), read_table(folder)
    except (ValueError, KeyError):
        raise UsageError(f"{folder} holds a result that cannot be read: evaluate again") from None


def differences(table: Table, other: Table, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """By group and figure; a figure that either lacks throughout is left out."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    with np.errstate(invalid="ignore"):
        difference = other.values - table.values
        # An infinite PSNR beats every finite one: it counts among the won though it has no difference.
        defined = ~np.isnan(other.values) & ~np.isnan(table.values)
        sign = np.array([-1.0 if figure in LOWER_IS_BETTER else 1.0 for figure in FIGURES])
        won = np.where(defined, sign * other.values > sign * table.values, False)
        tied = defined & (other.values == table.values)
    for group, rows in table.groups().items():
        mean, low, high = intervals(difference[rows], seed)
        count = defined[rows].sum(axis=0)
        found[group] = {
            figure: {
                "difference": float(mean[number]),
                "low": float(low[number]),
                "high": float(high[number]),
                "won": float(won[rows, number].sum() / count[number]),
                "tied": float(tied[rows, number].sum() / count[number]),
                "count": int(count[number]),
            }
            for number, figure in enumerate(FIGURES)
            if count[number] and np.isfinite(mean[number])
        }
    return found


def comparison_markdown(result: dict[str, Any]) -> str:
    """The comparison as Markdown, one table per other result."""
    reference = result["reference"]["name"]
    lines = ["# Paired comparison", "", f"Reference: {reference}. Pairs: {result['pairs'][:16]}.", ""]
    lines += [
        "Each cell: mean difference to the reference with its 95 % bootstrap interval over images, and the share of "
        "images on which the other one is better (ties count for neither).",
        "",
    ]
    for other in result["others"]:
        groups = other["groups"]
        header = [f"{other['name']} - {reference}"]
        header += [f"{name if name == 'all' else name + ' %'} (n={result['counts'][name]})" for name in groups]
        rows = [header]
        for figure in FIGURES:
            if figure in groups["all"]:
                rows.append([arrow(figure), *[_cell(groups[name].get(figure), figure) for name in groups]])
        lines += [*markdown(rows), ""]
    return "\n".join(lines)


def _cell(entry: dict[str, float] | None, figure: str) -> str:
    if entry is None:
        return "-"
    digits = 2 if figure.startswith("psnr") else 4
    span = f"{entry['difference']:+.{digits}f} [{entry['low']:+.{digits}f}, {entry['high']:+.{digits}f}]"
    return f"{span}, won {entry['won']:.0%}"
