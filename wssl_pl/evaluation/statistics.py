"""Intervals, tests and judgements: of one method over images, of arms over seeds and images, of training curves.

A claim of a study compares two arms, or two groups of arms, on the same seeds and the same images: there is one
difference for each seed and image, `(seeds, images)`. Both are samples, and crossed.

The interval and its p-value are those of a two-way analysis of variance with random seeds and random images, as used in
radiology for few readers of the same cases (Dorfman, Berbaum and Metz 1992; Obuchowski and Rockette 1995): the variance
of the mean is (MS_seeds + max(MS_images - MS_rest, 0)) / (seeds * images), with Hillis's degrees of freedom (2007).
Where the variation between seeds dominates this is Student's t over the means of the seeds.

The hierarchical bootstrap (Davison and Hinkley 1997, section 3.8; Saravanan et al. 2020) draws seeds with replacement,
then images, once for all seeds of a resample as they share them (Owen 2007, "The pigeonhole bootstrap"). It assumes no
normal distribution, but its interval is too narrow with few seeds: it ends at the smallest and the largest seed, and so
covers 1 - 2^(1 - S) of the time at most when S seeds decide, 0.75 with three (Hesterberg 2015). A verdict needs both.

`tests/evaluation/test_coverage.py` measures how often the intervals contain the truth. In simulated studies of 60 and
400 images the first did so 0.94 to 0.95 of the time with five or six seeds, 0.93 to 0.95 with three, 0.88 to 0.94 with
two, and 0.89 where the differences of three seeds are far from normal (uniform or exponential); the bootstrap 0.84 to
0.89 where seeds decide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its submodules are imported at first use
from numpy.typing import NDArray

LEVEL = 0.95
IMAGE_RESAMPLES = 2000  # of images alone
RESAMPLES = 4000  # of seeds and images
CHUNK = 100  # resamples in memory at once, so that memory does not grow with their number
CHUNK_VALUES = 400_000  # and fewer for many images
MIN_SEEDS = 2
MAX_FREEDOM = 1000  # degrees of freedom from which Student's t is the normal distribution for our purposes
MAX_EXACT_SEEDS = 16  # seeds up to which all 2^S sign flips are enumerated

CONVERGENCE_METRIC = "val/psnr"
MIN_GAIN_DB = 0.1
LAST_FRACTION = 0.2  # of the steps
STEP_TOLERANCE = 0.02  # fraction of the steps by which a validation may come early
CONVERGENCE_RULE = (
    f"An arm is not converged when its raw validation PSNR rises by {MIN_GAIN_DB} dB or more from 80 % to 100 % of its "
    "steps, in the mean over seeds. The rise of a seed is that of a straight line fitted by least squares to its "
    "validations in this last fifth, so that it uses all of them; averaging over seeds removes most of the noise, and "
    "the standard error over seeds is reported with it."
)

Curve = Sequence[Sequence[float]]


def intervals(
    values: NDArray[np.float64], seed: int = 0, resamples: int = IMAGE_RESAMPLES, level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean of each column with its percentile bootstrap interval (Efron 1979) over rows.

    Values that are not finite (the PSNR of an identical image, a metric of the hole without a hole) are excluded from
    the mean and from that of every resample.

    Args:
        values: `(images, metrics)`; an image is drawn for all metrics together.
        seed: of the resampling.
        resamples: how many are drawn.
        level: coverage of the interval, in (0, 1).

    Returns:
        Mean, lower and upper bound, each `(metrics,)`; NaN where no value is finite, and bounds also of a single one.
    """
    finite = np.isfinite(values)
    kept, weights = np.where(finite, values, 0.0), finite.astype(np.float64)
    means = _resample(kept.T[:, None], weights.T, seed, resamples)
    with np.errstate(invalid="ignore"):
        mean = kept.sum(axis=0) / weights.sum(axis=0)
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    some = finite.sum(axis=0) > 1
    if some.any():
        low[some], high[some] = np.nanquantile(means[:, some], _edges(level), axis=0)
    return mean, low, high


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds and images.

    Attributes:
        mean: over seeds and images.
        low: lower bound of its interval with random seeds and images.
        high: its upper bound.
        p: two-sided, of no difference; below 1 - `LEVEL` where the interval does not contain 0.
        freedom: degrees of freedom of Student's t.
        bootstrap_low: lower bound of the hierarchical bootstrap's percentile interval.
        bootstrap_high: its upper bound.
        p_exact: of the sign-flip test over seeds; None for more than `MAX_EXACT_SEEDS` seeds.
        by_seed: the mean over images of each seed.
        images: how many had a value in every arm and seed.
    """

    mean: float
    low: float
    high: float
    p: float
    freedom: int
    bootstrap_low: float
    bootstrap_high: float
    p_exact: float | None
    by_seed: list[float]
    images: int


def compare(
    differences: NDArray[np.float64], seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> list[Difference | None]:
    """Return the statistics of several paired differences on the same seeds and images, which are drawn for all.

    Args:
        differences: `(comparisons, seeds, images)`; an image that is not finite in some seed is excluded from its
            comparison.
        seed: of the resampling.
        resamples: how many are drawn.
        level: coverage of the intervals, in (0, 1).

    Returns:
        One per comparison; None where no image is finite.

    Raises:
        ValueError: There are fewer than two seeds.
    """
    if differences.shape[1] < MIN_SEEDS:
        raise ValueError(f"seeds={differences.shape[1]}: differences between seeds need at least {MIN_SEEDS}")
    kept: NDArray[np.bool_] = np.asarray(np.isfinite(differences).all(axis=1))
    drawn = _resample(np.where(kept[:, None, :], differences, 0.0), kept.astype(np.float64), seed, resamples)
    return [
        _difference(values[:, images], means, level) if images.any() else None
        for values, images, means in zip(differences, kept, drawn.T, strict=True)
    ]


def _difference(values: NDArray[np.float64], means: NDArray[np.float64], level: float) -> Difference:
    mean, error, freedom = random_seeds_and_images(values)
    half = student_quantile(level, freedom) * error
    bootstrap_low, bootstrap_high = np.nanquantile(means, _edges(level)).tolist()
    by_seed = values.mean(axis=1).tolist()
    p = student_p(mean / error, freedom) if error > 0 else float(mean == 0)
    return Difference(
        mean, mean - half, mean + half, p, freedom, bootstrap_low, bootstrap_high, sign_flip_p(by_seed), by_seed,
        values.shape[1],
    )  # fmt: skip


def _edges(level: float) -> tuple[float, float]:
    return (1.0 - level) / 2, (1.0 + level) / 2


def _resample(values: NDArray[np.float64], kept: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    """Return the means `(resamples, rows)` of draws from values `(rows, seeds, images)`: seeds, then shared images."""
    count, seeds, images = values.shape
    generator = np.random.Generator(np.random.PCG64(seed))
    flat = values.reshape(count * seeds, images).T
    means = np.empty((resamples, count))
    chunk = max(1, min(CHUNK, CHUNK_VALUES // images))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        chosen_seeds = generator.multinomial(seeds, np.full(seeds, 1.0 / seeds), size=rows) / seeds
        chosen = generator.multinomial(images, np.full(images, 1.0 / images), size=rows).astype(np.float64)
        sums = np.einsum("rcs,rs->rc", (chosen @ flat).reshape(rows, count, seeds), chosen_seeds)
        with np.errstate(invalid="ignore", divide="ignore"):
            means[start : start + rows] = sums / (chosen @ kept.T)
    return means


def random_seeds_and_images(values: NDArray[np.float64]) -> tuple[float, float, int]:
    """Return the mean of `values` `(seeds, images)`, its standard error, and its degrees of freedom (Hillis 2007).

    The degrees of freedom are rounded down, at least seeds - 1, and `MAX_FREEDOM` at most.
    """
    seeds, images = values.shape
    mean = float(values.mean())
    of_seeds, of_images = values.mean(axis=1), values.mean(axis=0)
    rest = values - of_seeds[:, None] - of_images + mean
    # Mean squares; a single image has no variance.
    ms_seeds = images * float(((of_seeds - mean) ** 2).sum()) / (seeds - 1)
    ms_images = seeds * float(((of_images - mean) ** 2).sum()) / max(images - 1, 1)
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * max(images - 1, 1))
    total = ms_seeds + max(ms_images - ms_rest, 0.0)
    freedom = float(MAX_FREEDOM)
    if ms_seeds > 0:
        freedom = min(freedom, (seeds - 1) * (total / ms_seeds) ** 2)
    return mean, math.sqrt(total / (seeds * images)), int(freedom + 1e-9)


def student_p(t: float, freedom: int) -> float:
    """Return the two-sided p-value of Student's t."""
    return float(2 * scipy.stats.t.sf(abs(t), freedom))


def student_quantile(level: float, freedom: int) -> float:
    """Return the t below which |t| stays with probability `level`."""
    return float(scipy.stats.t.isf((1.0 - level) / 2, freedom))


def sign_flip_p(by_seed: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the exact test that flips the sign of each seed's difference.

    It assumes no normal distribution, but cannot be below `smallest_exact_p`: 0.25 with three seeds, and below 0.05
    only with six or more. None for more than `MAX_EXACT_SEEDS` seeds.
    """
    if len(by_seed) > MAX_EXACT_SEEDS:
        return None
    # With one sample, permutations are sign flips; as many resamples as there are flips enumerate them all.
    result = scipy.stats.permutation_test(
        (np.asarray(by_seed),), np.sum, permutation_type="samples", n_resamples=2 ** len(by_seed)
    )
    return float(result.pvalue)


def smallest_exact_p(seeds: int) -> float:
    """Return the smallest p-value that the sign-flip test can have."""
    return 2.0 * 0.5**seeds


def holm(p: Sequence[float], family: int | None = None) -> list[float]:
    """Return Holm's step-down correction (1979) of p-values, in the order given.

    Args:
        p: of the tests that were made.
        family: how many tests there are in all; those that were not made count as p = 1, so that no corrected value
            rises when they are made. Default: as many as `p`.
    """
    size = max(len(p), family or 0)
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(np.asarray(p, dtype=float)[order] * (size - np.arange(len(p))), 1.0)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(scaled)
    return corrected.tolist()


@dataclass(frozen=True)
class Convergence:
    """Whether an arm converged: one that has not takes no part in a verdict.

    Attributes:
        state: `converged`, `not converged`, or `unknown` where a curve is missing.
        slope: dB per last fifth of the steps, the mean over seeds.
        error: standard error of that mean; None with one seed.
        by_seed: the slope of each seed that has a curve.
    """

    state: str
    slope: float | None = None
    error: float | None = None
    by_seed: list[float] | None = None


def judge_convergence(curves: Sequence[Curve]) -> Convergence:
    """Judge an arm by the curves of its seeds, each a list of (step, raw validation PSNR)."""
    slopes = [slope for curve in curves if (slope := last_slope(curve)) is not None]
    if not slopes or len(slopes) < len(curves):
        return Convergence("unknown", by_seed=slopes)
    mean = float(np.mean(slopes))
    error = float(np.std(slopes, ddof=1)) / math.sqrt(len(slopes)) if len(slopes) > 1 else None
    return Convergence("not converged" if mean >= MIN_GAIN_DB - 1e-9 else "converged", mean, error, slopes)


def last_slope(curve: Curve) -> float | None:
    """Return the dB that a fitted line gains over the last fifth of the steps; None with fewer than two validations.

    A run that was validated fewer than five times has only its last one in that fifth: the one before is used too.
    """
    points = np.array(sorted((step, value) for step, value in curve if math.isfinite(value)), dtype=float)
    if len(points) < 2:
        return None
    end = points[-1, 0]
    start = min(np.searchsorted(points[:, 0], end * (1 - LAST_FRACTION - STEP_TOLERANCE)), len(points) - 2)
    return float(scipy.stats.linregress(*points[start:].T).slope * end * LAST_FRACTION)


def near_chance(accuracy: float, chance: float = 0.25) -> bool:
    """Return whether a head's accuracy is within a fifth of chance, 0.3 for four equally frequent levels."""
    return accuracy < 1.2 * chance
