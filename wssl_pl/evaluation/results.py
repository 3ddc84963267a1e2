"""The result of an evaluation: one tidy table of measurements, and the facts about how they were made."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from wssl_pl.errors import DataError
from wssl_pl.evaluation.metrics import METRICS
from wssl_pl.evaluation.statistics import IMAGE_RESAMPLES, LEVEL, intervals
from wssl_pl.metrics.bins import BINS

DECIMALS = 6  # of a stored value; rounded, so that equal images tie whatever the batch they were measured in


@dataclass(frozen=True)
class Table:
    """Metrics per image.

    Attributes:
        images: names of the pairs, `(images,)`.
        ratios: hole ratios, `(images,)`.
        bins: hole-ratio bins in percent, `(images,)`.
        metrics: names, in the order of the columns of `values`.
        values: `(images, metrics)`; NaN where a metric is not defined.
    """

    images: NDArray[np.str_]
    ratios: NDArray[np.float64]
    bins: NDArray[np.str_]
    metrics: tuple[str, ...]
    values: NDArray[np.float64]

    def column(self, metric: str) -> NDArray[np.float64]:
        """Return one metric of all images, `(images,)`; NaN if it was not measured."""
        if metric not in self.metrics:
            return np.full(len(self.images), np.nan)
        return self.values[:, self.metrics.index(metric)]

    def groups(self) -> dict[str, NDArray[np.bool_]]:
        """Return the rows of `all` images and of each bin that has images."""
        selections = {name: self.bins == name for name in BINS}
        return {"all": np.ones(len(self.images), bool)} | {k: v for k, v in selections.items() if v.any()}

    def to_arrow(self, **columns: str | int) -> pa.Table:
        """Return a row for each image and metric: `image, ratio, ratio_bin, metric, value`.

        Args:
            columns: more columns, the same in each row, that come first (`run`, `arm`, `seed`).
        """
        count, width = self.values.shape
        rows: dict[str, Any] = {name: [value] * (count * width) for name, value in columns.items()}
        rows |= {
            "image": np.repeat(self.images, width),
            "ratio": np.repeat(self.ratios, width),
            "ratio_bin": np.repeat(self.bins, width),
            "metric": list(self.metrics) * count,
            "value": pa.array(self.values.ravel(), mask=np.isnan(self.values.ravel())),
        }
        return pa.table(rows)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> "Table":
        """Return the table of rows as `to_arrow` gives them, or of a column per metric as version 0.1 wrote them.

        Raises:
            KeyError: A column is missing.
        """
        if "metric" not in table.column_names:
            wide = table.to_pydict()
            metrics = tuple(name for name in METRICS if any(value is not None for value in wide.get(name, [])))
            values = np.array([wide[name] for name in metrics], float).reshape(len(metrics), -1).T
            return cls(np.array(wide["name"]), np.array(wide["ratio"]), np.array(wide["bin"]), metrics, values)
        image, metric = (table[name].combine_chunks().dictionary_encode() for name in ("image", "metric"))
        row, column = image.indices.to_numpy(), metric.indices.to_numpy()
        values = np.full((len(image.dictionary), len(metric.dictionary)), np.nan)
        values[row, column] = table["value"].to_numpy()
        first = np.unique(row, return_index=True)[1]
        names = np.array(image.dictionary.to_pylist())
        bins = np.array(table["ratio_bin"].to_pylist())[first]
        return cls(names, table["ratio"].to_numpy()[first], bins, tuple(metric.dictionary.to_pylist()), values)


@dataclass(frozen=True)
class Estimate:
    """The mean of a metric over images.

    Attributes:
        mean: over the finite values; None if there is none.
        low: lower bound of its 95 % bootstrap interval.
        high: its upper bound.
        infinite: how many values are infinite, and excluded.
        undefined: how many images have no value.
    """

    mean: float | None
    low: float | None
    high: float | None
    infinite: int = 0
    undefined: int = 0


@dataclass(frozen=True)
class Result:
    """What an evaluation measured.

    Attributes:
        table: metrics per image.
        method: `name` and settings of the method.
        pairs: `folder`, `hash`, `count` and `data` of the pairs, and how many were `evaluated`.
        machine: where it was measured.
        notes: what a reader of the metrics has to know.
        seconds_per_image: of the method itself.
        fid: `fid` and `fid_composite`; None if not measured.
        seed: of the bootstrap.
    """

    table: Table
    method: Mapping[str, Any]
    pairs: Mapping[str, Any]
    machine: Mapping[str, Any]
    notes: Sequence[str] = ()
    seconds_per_image: float = math.nan
    fid: Mapping[str, float | None] | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of the method."""
        return str(self.method["name"])

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of images in each group."""
        return {name: int(rows.sum()) for name, rows in self.table.groups().items()}

    @cached_property
    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """The mean of each metric with its interval, by group (`all` and the bins) and metric."""
        found = {}
        for group, rows in self.table.groups().items():
            values = self.table.values[rows]
            infinite, undefined = np.isinf(values).sum(axis=0).tolist(), np.isnan(values).sum(axis=0).tolist()
            numbers = ([finite(value) for value in bound.tolist()] for bound in intervals(values, self.seed))
            columns = zip(*numbers, infinite, undefined, strict=True)
            found[group] = {name: Estimate(*entry) for name, entry in zip(self.table.metrics, columns, strict=True)}
        return found

    @property
    def means(self) -> dict[str, float]:
        """The mean over all images of each metric that has one, FID included."""
        means = {name: entry.mean for name, entry in self.estimates["all"].items()} | dict(self.fid or {})
        return {name: mean for name, mean in means.items() if mean is not None}

    def save(self, folder: Path) -> None:
        """Write `per_image.parquet` and `summary.json`, the latter last: a folder without it is not finished."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").unlink(missing_ok=True)
        parquet.write_table(self.table.to_arrow(), folder / "per_image.parquet")
        summary = {
            "method": self.method,
            "pairs": self.pairs,
            "counts": self.counts,
            "metrics": {g: {name: asdict(e) for name, e in entries.items()} for g, entries in self.estimates.items()},
            "fid": self.fid,
            "notes": list(self.notes),
            "seconds_per_image": finite(self.seconds_per_image),
            "bootstrap": {"resamples": IMAGE_RESAMPLES, "level": LEVEL, "seed": self.seed},
            "machine": self.machine,
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False, default=str) + "\n")


def read_result(folder: str | Path) -> Result:
    """Read the result in a folder, of this version or of 0.1.

    Raises:
        DataError: It is not a finished result, or cannot be read.
    """
    folder = Path(folder)
    remedy = "run `wssl evaluate` again"
    if not (folder / "summary.json").is_file() or not (folder / "per_image.parquet").is_file():
        raise DataError("result", folder, "is not a finished result of `wssl evaluate`", remedy)
    try:
        summary = json.loads((folder / "summary.json").read_text())
        return Result(
            Table.from_arrow(parquet.read_table(folder / "per_image.parquet")),
            summary["method"],
            summary["pairs"],
            summary["machine"],
            summary["notes"],
            summary["seconds_per_image"] or math.nan,
            summary["fid"],
            summary["bootstrap"]["seed"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise DataError("result", folder, "cannot be read", remedy) from error


def finite(value: float) -> float | None:
    """Return a number for JSON: None unless it is finite."""
    return float(value) if math.isfinite(value) else None
