"""Paired differences between results on the same pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.metrics import LOWER_IS_BETTER, METRICS
from wssl_pl.evaluation.results import Result, Table, read_result
from wssl_pl.evaluation.statistics import intervals


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of a metric to the reference, image by image.

    Attributes:
        difference: the other result minus the reference.
        low: lower bound of its 95 % bootstrap interval over images.
        high: its upper bound.
        won: fraction of images on which the other result is better.
        tied: fraction of images on which both are equal.
        count: how many images have the metric in both.
    """

    difference: float
    low: float
    high: float
    won: float
    tied: float
    count: int


@dataclass(frozen=True)
class Compared:
    """One result against the reference: differences by group (`all` and the bins) and metric."""

    name: str
    folder: str
    groups: dict[str, dict[str, PairedDifference]]


@dataclass(frozen=True)
class Comparison:
    """Several results against the first of them."""

    reference: str
    folder: str
    pairs: str
    counts: dict[str, int]
    others: list[Compared]


def compare(folders: Sequence[str | Path], seed: int = 0) -> Comparison:
    """Compare each result with the first one, image by image.

    Args:
        folders: results of `wssl evaluate`, at least two.
        seed: of the bootstrap.

    Raises:
        DataError: A folder is not a finished result.
        WSSLError: There are fewer than two, or they are of different pairs.
    """
    if len(folders) < 2:
        raise WSSLError("compare", list(map(str, folders)), "takes two or more result folders of `wssl evaluate`")
    results = [read_result(folder) for folder in folders]
    for folder, result in zip(folders, results, strict=True):
        check_same_pairs(results[0], result, folders[0], folder)
    first = results[0]
    others = [
        Compared(result.name, str(folder), differences(first.table, result.table, seed))
        for folder, result in zip(folders[1:], results[1:], strict=True)
    ]
    return Comparison(first.name, str(folders[0]), first.pairs.hash, first.counts, others)


def check_same_pairs(first: Result, other: Result, folder: str | Path, other_folder: str | Path) -> None:
    """Raise `WSSLError` unless both results have a metric of the same images of the same pairs."""
    remedy = "evaluate both on the same pairs and limit"
    ours, theirs = first.pairs.hash, other.pairs.hash
    if ours != theirs:
        reason = f"was measured on other pairs than {folder} (hash {theirs[:12]}, not {ours[:12]})"
        raise WSSLError("result", other_folder, reason, remedy)
    if list(first.table.images) != list(other.table.images):
        counts = len(other.table.images), len(first.table.images)
        reason = f"was measured on {counts[0]} of the pairs, {folder} on {counts[1]}, not the same ones"
        raise WSSLError("result", other_folder, reason, remedy)
    if not set(first.table.metrics) & set(other.table.metrics):
        raise WSSLError("result", other_folder, f"has no metric that {folder} has", remedy)


def differences(table: Table, other: Table, seed: int) -> dict[str, dict[str, PairedDifference]]:
    """Return the differences by group and metric; a metric that either lacks throughout is omitted."""
    metrics = [name for name in METRICS if name in table.metrics and name in other.metrics]
    ours, theirs = (np.stack([one.column(name) for name in metrics], axis=1) for one in (table, other))
    with np.errstate(invalid="ignore"):
        difference = theirs - ours
        # An infinite PSNR is better than every finite one: it counts as won though it has no difference.
        defined = ~np.isnan(theirs) & ~np.isnan(ours)
        sign = np.array([-1.0 if name in LOWER_IS_BETTER else 1.0 for name in metrics])
        won = np.where(defined, sign * theirs > sign * ours, False)
        tied = defined & (theirs == ours)
    found = {}
    for group, rows in table.groups().items():
        count = defined[rows].sum(axis=0)
        fractions = (part[rows].sum(axis=0) / np.maximum(count, 1) for part in (won, tied))
        numbers = (part.tolist() for part in (*intervals(difference[rows], seed), *fractions, count))
        entries = {name: PairedDifference(*entry) for name, *entry in zip(metrics, *numbers, strict=True)}
        found[group] = {name: entry for name, entry in entries.items() if np.isfinite(entry.difference)}
    return found
