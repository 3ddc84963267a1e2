"""Percentile bootstrap intervals of means over images (Efron 1979)."""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CHUNK = 100  # resamples held at once, so that memory stays flat for many images


def intervals(
    values: NDArray[np.float64], seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean of each column and its bootstrap interval; rows, the images, are drawn together for all columns.

    What is not finite (the PSNR of an identical image, a figure without a hole) is kept out of the mean and of every
    resample's mean.

    Args:
        values: `(images, figures)`.
        seed: seed of the resampling.
        resamples: how many are drawn.
        level: coverage of the interval, in (0, 1).

    Returns:
        mean, lower and upper bound, each `(figures,)`; NaN where no value is finite.
    """
    finite = np.isfinite(values)
    kept = np.where(finite, values, 0.0)
    weights = finite.astype(np.float64)
    count = len(values)
    means = np.empty((resamples, values.shape[1]))
    generator = np.random.Generator(np.random.PCG64(seed))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = kept.sum(axis=0) / weights.sum(axis=0)
        for start in range(0, resamples, CHUNK):
            rows = min(CHUNK, resamples - start)
            draws = generator.multinomial(count, np.full(count, 1.0 / count), size=rows).astype(np.float64)
            means[start : start + rows] = (draws @ kept) / (draws @ weights)
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    some = finite.any(axis=0)
    edges = np.array([(1.0 - level) / 2, (1.0 + level) / 2])
    low[some], high[some] = np.nanquantile(means[:, some], edges, axis=0)
    return mean, low, high
