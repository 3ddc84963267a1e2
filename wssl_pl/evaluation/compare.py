"""Results on the same pairs: a leaderboard, and paired differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.metrics import LABELS, LOWER_IS_BETTER, METRICS
from wssl_pl.evaluation.results import Estimate, Result, Table, check_same_pairs, finite, read_result
from wssl_pl.evaluation.statistics import intervals

RANKED_BY = ("psnr_composite", "psnr")
"""The metric of the leaderboard unless another is given: the first that all results have."""


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of a metric to the reference, image by image.

    Attributes:
        difference: the other result minus the reference.
        low: lower bound of its 95 % bootstrap interval over images; None of a single image.
        high: its upper bound.
        won: fraction of images on which the other result is better.
        tied: fraction of images on which both are equal.
        count: how many images have the metric in both.
    """

    difference: float
    low: float | None
    high: float | None
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
class Standing:
    """One result in the leaderboard.

    Attributes:
        name: of its method, with the folder where that alone is not enough.
        folder: of the result.
        metrics: the mean of each metric over all images; FID and KID, which are no means, without an interval.
        seconds_per_image: of the method itself; None if unknown.
        difference: to the reference, in the metric of the leaderboard; None for the reference, or where there is none.
    """

    name: str
    folder: str
    metrics: dict[str, Estimate]
    seconds_per_image: float | None
    difference: PairedDifference | None


@dataclass(frozen=True)
class Comparison:
    """Several results against one of them.

    Attributes:
        reference: name of the result that the others are compared with.
        folder: its folder.
        pairs: hash of the pairs.
        counts: images by group.
        others: the other results, in the order given.
        ranked_by: metric of the leaderboard.
        leaderboard: all results, the best first.
        notes: what a reader has to know.
    """

    reference: str
    folder: str
    pairs: str
    counts: dict[str, int]
    others: list[Compared]
    ranked_by: str
    leaderboard: list[Standing]
    notes: list[str]


def compare(
    folders: Sequence[str | Path],
    seed: int = 0,
    rank_by: str | None = None,
    reference: Literal["first", "best"] = "first",
) -> Comparison:
    """Rank results by a metric, and compare each with one of them, image by image.

    Args:
        folders: results of `wssl evaluate`, at least two.
        seed: of the bootstrap.
        rank_by: metric of the leaderboard; default: see `RANKED_BY`.
        reference: which result the others are compared with, the first or the best.

    Raises:
        DataError: A folder is not a finished result.
        WSSLError: There are fewer than two, they are of different pairs or protocols, or none has the metric.
    """
    if len(folders) < 2:
        raise WSSLError("compare", list(map(str, folders)), "takes two or more result folders of `wssl evaluate`")
    results, notes = _comparable([read_result(folder) for folder in folders], folders)
    for folder, result in zip(folders, results, strict=True):
        check_same_pairs(results[0], result, folders[0], folder)
    plain = [result.name for result in results]
    names = [
        f"{name} ({folder})" if plain.count(name) > 1 else name for name, folder in zip(plain, folders, strict=True)
    ]
    metrics, excluded = _common_means(results)
    notes += excluded
    ranked_by = _ranked_by(rank_by, metrics, notes)
    order = sorted(range(len(results)), key=lambda number: _rank(metrics[number].get(ranked_by), ranked_by))
    base = order[0] if reference == "best" else 0
    first = results[base]
    others = {
        number: Compared(names[number], str(folders[number]), differences(first.table, result.table, seed))
        for number, result in enumerate(results)
        if number != base
    }
    leaderboard = [
        Standing(
            names[number],
            str(folders[number]),
            metrics[number],
            finite(results[number].seconds_per_image),
            others[number].groups["all"].get(ranked_by) if number in others else None,
        )
        for number in order
    ]
    of_first = names[base], str(folders[base]), first.pairs.hash, first.counts
    return Comparison(*of_first, list(others.values()), ranked_by, leaderboard, notes)


def _comparable(results: Sequence[Result], folders: Sequence[str | Path]) -> tuple[list[Result], list[str]]:
    """Return the results without what cannot be compared, and a line for each doubt."""
    notes = [f"{folder}: protocol unknown" for folder, one in zip(folders, results, strict=True) if not one.protocol]
    for metric, label in (("lpips", "LPIPS"), ("fid", "FID and KID")):
        files = {one.weights[metric].sha256: one.weights[metric] for one in results if metric in one.weights}
        if len(files) > 1 and len({weights.network for weights in files.values()}) == 1:
            names = ", ".join(f"{weights.file} {weights.sha256[:8]}" for weights in files.values())
            notes.append(f"{label} was measured with different files: {names}")
    networks = {one.weights["lpips"].network for one in results if "lpips" in one.weights}
    if len(networks) < 2:
        return list(results), notes
    notes.append(f"LPIPS is omitted: it is of different networks ({', '.join(sorted(networks))})")
    return [replace(one, table=one.table.without("lpips")) for one in results], notes


def _common_means(results: Sequence[Result]) -> tuple[list[dict[str, Estimate]], list[str]]:
    """Return each result's means over the images where a metric is finite for all, and a line where that omits some.

    A PSNR is infinite where an output is the truth bit by bit. Without it in its own mean alone, the better of two
    results would lose its best images.
    """
    tables, notes = [result.table.values.copy() for result in results], []
    for name in METRICS:
        columns = {n: one.table.metrics.index(name) for n, one in enumerate(results) if name in one.table.metrics}
        infinite = [np.isposinf(tables[n][:, column]) for n, column in columns.items()]
        omitted = np.any(infinite, axis=0) if infinite else np.zeros(0, bool)
        if omitted.all() or all((one == omitted).all() for one in infinite):
            continue
        for n, column in columns.items():
            tables[n][omitted, column] = np.inf
        left = int((~omitted).sum())
        notes.append(f"{LABELS[name]} is the mean over {left} of {len(omitted)} images: in others it is infinite")
    replaced = [
        replace(one, table=replace(one.table, values=values)) for one, values in zip(results, tables, strict=True)
    ]
    return [_metrics(result) for result in replaced], notes


def _metrics(result: Result) -> dict[str, Estimate]:
    sets = {name: Estimate(value, None, None) for name, value in (result.fid or {}).items()}
    return result.estimates["all"] | sets


def _ranked_by(given: str | None, metrics: Sequence[Mapping[str, Estimate]], notes: Sequence[str]) -> str:
    if given is None:
        common = [name for name in (*RANKED_BY, *metrics[0]) if all(name in one for one in metrics)]
        return common[0] if common else next(iter(metrics[0]))
    known = [name for name in LABELS if any(name in one for one in metrics)]
    if given not in known:
        why = next((note for note in notes if given.startswith("lpips") and note.startswith("LPIPS is omitted")), None)
        raise WSSLError("rank_by", given, why or "no result has this metric", f"there are {', '.join(known)}")
    return given


def _rank(entry: Estimate | None, metric: str) -> float:
    """Return a number that is lower for a better result; the last ones lack the metric."""
    if entry is None or entry.mean is None:  # infinite for identical images
        return -math.inf if entry is not None and entry.infinite else math.inf
    return entry.mean if metric in LOWER_IS_BETTER else -entry.mean


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
        found[group] = {
            name: PairedDifference(mean, finite(low), finite(high), *others)
            for name, mean, low, high, *others in zip(metrics, *numbers, strict=True)
            if np.isfinite(mean)
        }
    return found
