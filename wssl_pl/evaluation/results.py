"""The result of an evaluation: one tidy table of measurements, and the facts about how they were made."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from wssl_pl.data.files import reason
from wssl_pl.errors import DataError, WSSLError
from wssl_pl.evaluation.metrics import METRICS
from wssl_pl.evaluation.statistics import IMAGE_RESAMPLES, LEVEL, intervals
from wssl_pl.metrics.bins import BINS
from wssl_pl.records import read_json

SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("ratio", pa.float64(), nullable=False),
        pa.field("ratio_bin", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
    ]
)
PROTOCOL = 1
"""Version of what `docs/metrics.md` fixes under "The protocol"; a change of it that moves a metric makes a new one."""
SAMPLES = 6
"""Images that are shown of every method."""
IMAGES_AT_ONCE = 512  # that a table is written by, so that it is not in memory twice
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

    @property
    def restored(self) -> bool:
        """Whether inputs were damaged, so that the known part was measured and there is no composite."""
        return "psnr_known" in self.metrics

    def column(self, metric: str) -> NDArray[np.float64]:
        """Return one metric of all images, `(images,)`; NaN if it was not measured."""
        if metric not in self.metrics:
            return np.full(len(self.images), np.nan)
        return self.values[:, self.metrics.index(metric)]

    def without(self, prefix: str) -> "Table":
        """Return the table without the metrics whose names start so."""
        kept = [column for column, name in enumerate(self.metrics) if not name.startswith(prefix)]
        return replace(self, metrics=tuple(self.metrics[column] for column in kept), values=self.values[:, kept])

    def groups(self) -> dict[str, NDArray[np.bool_]]:
        """Return the rows of `all` images and of each bin that has images."""
        selections = {name: self.bins == name for name in BINS}
        return {"all": np.ones(len(self.images), bool)} | {k: v for k, v in selections.items() if v.any()}

    def __getitem__(self, rows: slice) -> "Table":
        """Return the table of some images."""
        return Table(self.images[rows], self.ratios[rows], self.bins[rows], self.metrics, self.values[rows])

    def to_arrow(self) -> pa.Table:
        """Return a row for each image and metric: `image, ratio, ratio_bin, metric, value`."""
        count, width = self.values.shape
        images, metrics = np.repeat(np.arange(count), width), np.tile(np.arange(width), count)
        values = self.values.ravel()
        columns = [
            _texts(self.images).take(numbers(images)),
            numbers(np.repeat(self.ratios, width)),
            _texts(self.bins).take(numbers(images)),
            _texts(self.metrics).take(numbers(metrics)),
            numbers(values, ~np.isnan(values)),
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> "Table":
        """Return the table of rows as `to_arrow` gives them.

        Raises:
            ValueError, KeyError, pa.ArrowException: A column is missing or of another type, or there is no row.
        """
        table = table.select(SCHEMA.names).cast(SCHEMA)
        image, metric = (table[name].combine_chunks().dictionary_encode() for name in ("image", "metric"))
        metrics = tuple(metric.dictionary.to_pylist())
        if not set(metrics) <= set(METRICS) or not len(table):
            raise ValueError("it has no rows, or unknown metrics")
        row = _plain(image.indices)
        values = np.full((len(image.dictionary), len(metrics)), np.nan)
        values[row, _plain(metric.indices)] = _plain(table["value"].combine_chunks())
        first = numbers(np.unique(row, return_index=True)[1].astype(np.int64))
        ratios, bins = (np.array(table[name].take(first).to_pylist()) for name in ("ratio", "ratio_bin"))
        return cls(np.array(image.dictionary.to_pylist()), ratios, bins, metrics, values)


def sample_rows(ratios: NDArray[np.float64]) -> list[int]:
    """Return the rows of the images that are shown of every method, evenly over the hole ratios `(images,)`."""
    order = np.argsort(ratios, kind="stable")
    return [int(row) for row in order[np.linspace(0, len(order) - 1, min(SAMPLES, len(order))).round().astype(int)]]


# `pa.array`, and `to_numpy` of Arrow, import pandas where it is installed: a third of a second.
def numbers(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """Return an array for Arrow, null where it is not valid."""
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [bits, pa.py_buffer(values)])


def _plain(values: pa.Array) -> NDArray[Any]:
    """Return numbers of Arrow, NaN where they are null."""
    kind = {pa.int32(): np.int32, pa.float64(): np.float64}[values.type]
    rows = slice(values.offset, values.offset + len(values))
    valid, content = values.buffers()
    plain = np.frombuffer(content, kind)[rows]
    if not values.null_count:
        return plain
    return np.where(np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[rows], plain, np.nan)


def _texts(values: Iterable[str]) -> pa.Array:
    encoded = [str(value).encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


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


@dataclass(frozen=True, kw_only=True)
class MeasuredPairs:
    """The pairs that were measured.

    Attributes:
        folder: where they were.
        hash: of all their pixels.
        count: how many there are.
        data: where they come from.
        evaluated: how many of them were measured.
        restore: the damages of their inputs.
    """

    folder: str = ""
    hash: str
    count: int
    data: Any = None
    evaluated: int
    restore: list[str] = field(default_factory=list)

    def data_line(self) -> list[str]:
        """Return a line with the names of images and masks, without folders of a machine; none if it is not known."""
        found = []
        for part in ("images", "masks"):
            known = self.data.get(part) if isinstance(self.data, dict) else None
            if isinstance(known, str):
                found.append(f"{part} {Path(known).name}")
            elif isinstance(known, dict) and known.get("source"):
                layout = f" ({known['layout']})" if known.get("layout") else ""
                found.append(f"{part} {Path(str(known['source'])).name}{layout}")
        return [f"Data: {', '.join(found)}"] if found else []


@dataclass(frozen=True)
class Machine:
    """The cores, the device and the versions that metrics were computed with; `code` is a digest of this package."""

    cores: int
    device: str
    python: str
    torch: str
    numpy: str
    wssl: str = ""
    code: str = ""

    def __str__(self) -> str:
        program = f", wssl {self.wssl} (code {self.code})" if self.code else ""
        return f"{self.device}, {self.cores} cores, torch {self.torch}{program}"


@dataclass(frozen=True)
class Weights:
    """The file that a metric's network came from.

    Attributes:
        file: its name.
        sha256: of its bytes.
        network: `alex` or `vgg` for LPIPS, `inception` for FID.
    """

    file: str
    sha256: str
    network: str


@dataclass(frozen=True)
class Bootstrap:
    """How intervals were drawn."""

    resamples: int
    level: float
    seed: int


@dataclass(frozen=True)
class Summary:
    """What `summary.json` holds."""

    method: dict[str, Any]
    pairs: MeasuredPairs
    counts: dict[str, int]
    metrics: Any
    fid: dict[str, float | None] | None
    notes: list[str]
    seconds_per_image: float | None
    bootstrap: Bootstrap
    machine: Machine
    weights: dict[str, Weights] = field(default_factory=dict)
    protocol: int = 0  # 0 where a result does not say it, as before version 0.3


@dataclass(frozen=True)
class Result:
    """What an evaluation measured.

    Attributes:
        table: metrics per image.
        method: `name` and settings of the method.
        pairs: on which pairs.
        machine: where.
        notes: what a reader of the metrics has to know.
        seconds_per_image: of the method itself.
        fid: `fid` and `fid_composite`; None if not measured.
        seed: of the bootstrap.
        weights: of the networks behind `lpips` and `fid`, where they were measured.
        protocol: version of the protocol; 0 if unknown.
        outputs: of the table's samples by name, `(3, H, W)`, as they were measured; they are not saved with it.
    """

    table: Table
    method: Mapping[str, Any]
    pairs: MeasuredPairs
    machine: Machine
    notes: Sequence[str] = ()
    seconds_per_image: float = math.nan
    fid: Mapping[str, float | None] | None = None
    seed: int = 0
    weights: Mapping[str, Weights] = field(default_factory=dict)
    protocol: int = PROTOCOL
    outputs: Mapping[str, Any] = field(default_factory=dict, compare=False)

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
        with parquet.ParquetWriter(folder / "per_image.parquet", SCHEMA) as writer:
            for start in range(0, len(self.table.images), IMAGES_AT_ONCE):
                writer.write_table(self.table[start : start + IMAGES_AT_ONCE].to_arrow())
        summary = Summary(
            dict(self.method),
            self.pairs,
            self.counts,
            self.estimates,
            None if self.fid is None else dict(self.fid),
            list(self.notes),
            finite(self.seconds_per_image),
            Bootstrap(IMAGE_RESAMPLES, LEVEL, self.seed),
            self.machine,
            dict(self.weights),
            self.protocol,
        )
        text = json.dumps(asdict(summary), indent=2, allow_nan=False, default=str)
        (folder / "summary.json").write_text(text + "\n")


def read_result(folder: str | Path) -> Result:
    """Read the result in a folder, of this version or of 0.1.

    Raises:
        WSSLError: It is not a finished result, or cannot be read.
    """
    table, summary = Path(folder) / "per_image.parquet", Path(folder) / "summary.json"
    remedy = "run `wssl evaluate` again"
    try:
        finished = table.is_file() and summary.is_file()
        measured = Table.from_arrow(parquet.ParquetFile(table).read()) if finished else None
    except (ValueError, LookupError, TypeError, OSError, pa.ArrowException) as error:
        raise DataError("result", table, reason(error), remedy) from None
    if measured is None:
        raise DataError("result", folder, "is not a finished result of `wssl evaluate`", remedy)
    facts: Summary = read_json(summary, Summary, "result", remedy)
    if "name" not in facts.method or facts.bootstrap.seed < 0:
        raise DataError("result", summary, "cannot be read (its method has no name, or its seed is negative)", remedy)
    seconds = math.nan if facts.seconds_per_image is None else facts.seconds_per_image
    return Result(
        measured, facts.method, facts.pairs, facts.machine, facts.notes, seconds, facts.fid, facts.bootstrap.seed,
        facts.weights, facts.protocol,
    )  # fmt: skip


def finite(value: float) -> float | None:
    """Return a number for JSON: None unless it is finite."""
    return float(value) if math.isfinite(value) else None


def check_same_pairs(first: Result, other: Result, folder: str | Path, other_folder: str | Path) -> None:
    """Raise `WSSLError` unless both results have a metric of the same images of the same pairs by the same protocol."""
    remedy = "evaluate both on the same pairs and limit"
    ours, theirs = first.pairs.hash, other.pairs.hash
    if ours != theirs:
        reason = f"was measured on other pairs than {folder} (hash {theirs[:12]}, not {ours[:12]})"
        raise WSSLError("result", other_folder, reason, remedy)
    if list(first.table.images) != list(other.table.images):
        counts = len(other.table.images), len(first.table.images)
        reason = f"was measured on {counts[0]} of the pairs, {folder} on {counts[1]}, not the same ones"
        raise WSSLError("result", other_folder, reason, remedy)
    if first.protocol and other.protocol and first.protocol != other.protocol:
        reason = f"was measured by protocol {other.protocol}, {folder} by protocol {first.protocol}"
        raise WSSLError("result", other_folder, reason, "measure both with the same version of wssl-pl")
    if not set(first.table.metrics) & set(other.table.metrics):
        raise WSSLError("result", other_folder, f"has no metric that {folder} has", remedy)
