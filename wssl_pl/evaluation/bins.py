"""Hole-ratio bins of 10 %, the convention of NVIDIA's irregular masks (Liu et al. 2018)."""

import math

BINS = ("0-10", "10-20", "20-30", "30-40", "40-50", "50-60", "60-100")
"""Names of the bins in percent; a bin holds its upper bound and not its lower one, the first also no hole at all."""


def bin_of(ratio: float) -> str:
    """The bin of a hole ratio in [0, 1]."""
    # A share of whole pixels is no multiple of 0.1 in binary: 0.3 must not fall above its bound by an ulp.
    return BINS[min(max(math.ceil(round(ratio * 10, 9)) - 1, 0), len(BINS) - 1)]
