"""Random numbers that belong to a sample: a counter-based hash of (seed, stream, epoch, index).

No generator is advanced, so that what a sample sees does not depend on who asks for it, when, or in which batch.
The mixing function is SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_EPOCH_STRIDE = np.uint64(0xD1B54A32D192ED03)
SPLITMIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def mix(x: Any, rounds: Sequence[tuple[int, int]] = SPLITMIX, bits: int = 64) -> Any:
    """Return integers in which every bit depends on every bit of `x`.

    Args:
        x: Whole numbers, a NumPy array or a PyTorch tensor; only the lower `bits` count. PyTorch's int64 holds 32.
        rounds: Pairs of a shift to the right, whose result is combined by exclusive or, and a factor.
        bits: Of the result.
    """
    ones = 2**bits - 1
    x = x & ones
    for shift, factor in rounds:
        x = ((x ^ (x >> shift)) * factor) & ones
    return x


def uniform(seed: int, stream: str, epoch: ArrayLike, index: ArrayLike, count: int) -> NDArray[np.float64]:
    """Independent uniform numbers for each (epoch, index).

    Args:
        seed: Any non-negative integer.
        stream: What the numbers are for; another stream with the same seed is independent of this one.
        epoch: Epochs, `(B,)` or a scalar, non-negative.
        index: Sample indices, `(B,)`, non-negative.
        count: Numbers per sample.

    Returns:
        `(B, count)` float64 in [0, 1), multiples of 2**-24 and thus exact in float32.
    """
    key = np.random.SeedSequence([seed, *stream.encode()]).generate_state(1, np.uint64)
    epochs = np.atleast_1d(np.asarray(epoch, np.uint64))
    indices = np.atleast_1d(np.asarray(index, np.uint64))
    state = mix(mix(key + epochs * _EPOCH_STRIDE) + indices * _GOLDEN)
    lanes = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    numbers: NDArray[np.uint64] = mix(state[:, None] + lanes) >> 40
    return numbers.astype(np.float64) * 2.0**-24


def permutation(
    seed: int, epoch: int, size: int, stream: str = "shuffle", groups: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The order in which `size` samples are visited in an epoch.

    By sorting hashes rather than by `Generator.permutation`, whose results may change between numpy versions.

    Args:
        seed: Any non-negative integer.
        epoch: The epoch.
        size: Number of samples.
        stream: What is ordered; see `uniform`.
        groups: A number for each sample `(size,)`: those of a lower one come first.
    """
    high, low = uniform(seed, stream, epoch, np.arange(size), 2).T
    keys = high + low * 2.0**-24
    return np.argsort(keys, kind="stable") if groups is None else np.lexsort((keys, groups))
