"""The table of figures per image: written as CSV, read back, copied to Parquet, summed up."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wssl_pl.evaluation.figures import FIGURES
from wssl_pl.evaluation.statistics import intervals
from wssl_pl.metrics.bins import BINS

COLUMNS = ("name", "mask", "ratio", *FIGURES, "bin")


@dataclass
class Table:
    """Figures per image as read back from `per_image.csv`.

    Attributes:
        names: of the pairs, `(images,)`.
        bins: ratio bins, `(images,)`.
        values: `(images, figures)` in the order of `FIGURES`; NaN where there is none.
    """

    names: np.ndarray
    bins: np.ndarray
    values: np.ndarray

    def column(self, figure: str) -> np.ndarray:
        """One figure of all images."""
        return self.values[:, FIGURES.index(figure)]

    def groups(self) -> dict[str, np.ndarray]:
        """`all` and each bin that holds images, as selections of rows."""
        selections = {name: self.bins == name for name in BINS}
        return {"all": np.ones(len(self.names), bool)} | {k: v for k, v in selections.items() if v.any()}


def cell(value: float) -> str:
    """A figure as the CSV holds it; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.6f}"


def read_table(folder: Path) -> Table:
    """Reads `per_image.csv` back: a handful of numbers per image."""
    names, bins, values = [], [], []
    with (folder / "per_image.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            names.append(row["name"])
            bins.append(row["bin"])
            values.append([float(row[figure]) if row[figure] else math.nan for figure in FIGURES])
    return Table(np.array(names), np.array(bins), np.array(values, np.float64).reshape(-1, len(FIGURES)))


def write_parquet(folder: Path) -> None:
    """The same table as Parquet: text, float64, and null where the CSV is empty."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    kinds = {name: pa.string() if name in ("name", "mask", "bin") else pa.float64() for name in COLUMNS}
    options = arrow_csv.ConvertOptions(column_types=kinds, strings_can_be_null=False)
    parquet.write_table(
        arrow_csv.read_csv(folder / "per_image.csv", convert_options=options), folder / "per_image.parquet"
    )


def summarise(table: Table, seed: int) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """By group (`all` and the bins) and figure: mean, interval, and how many were kept out and why."""
    found: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for group, rows in table.groups().items():
        values = table.values[rows]
        mean, low, high = intervals(values, seed)
        found[group] = {
            figure: {
                "mean": plain(mean[number]),
                "low": plain(low[number]),
                "high": plain(high[number]),
                "infinite": int(np.isinf(values[:, number]).sum()),
                "undefined": int(np.isnan(values[:, number]).sum()),
            }
            for number, figure in enumerate(FIGURES)
        }
    return found


def plain(value: float) -> float | None:
    """A number for JSON; None unless it is finite."""
    return float(value) if math.isfinite(value) else None
