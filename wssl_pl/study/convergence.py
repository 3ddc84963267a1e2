"""Whether an arm's training had come to its end: an arm that still rises takes no part in a verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

GAIN_DB = 0.1
LAST = 0.2  # share of the steps that is looked at
SLACK = 0.02  # share of the steps by which a validation may come early
FIGURE = "val/psnr"
RULE = (
    f"An arm is not converged when its raw validation PSNR rises by {GAIN_DB} dB or more from 80 % to 100 % of its "
    "steps, in the mean over seeds. The rise of a seed is that of a straight line fitted by least squares to its "
    "validations in this last fifth, so that it rests on all of them; averaging over seeds takes out most of the "
    "noise, and the standard error over seeds is given with it."
)

Curve = Sequence[Sequence[float]]


@dataclass
class Convergence:
    """What the curves of an arm's seeds say.

    Attributes:
        state: `converged`, `not converged`, or `unknown` where no curve tells.
        rise: dB in the last fifth, the mean over seeds.
        error: standard error of that mean; None with one seed.
        by_seed: the rise of each seed that has a curve.
    """

    state: str
    rise: float | None = None
    error: float | None = None
    by_seed: list[float] | None = None


def judge(curves: Sequence[Curve]) -> Convergence:
    """Judges an arm by the curves of its seeds, each a list of (step, raw validation PSNR)."""
    rises = [found for curve in curves if (found := rise(curve)) is not None]
    if not rises or len(rises) < len(curves):
        return Convergence("unknown", by_seed=rises)
    mean = sum(rises) / len(rises)
    error = None
    if len(rises) > 1:
        error = math.sqrt(sum((value - mean) ** 2 for value in rises) / (len(rises) - 1) / len(rises))
    state = "not converged" if mean >= GAIN_DB - 1e-9 else "converged"
    return Convergence(state, mean, error, rises)


def rise(curve: Curve) -> float | None:
    """dB that the fitted line gains over the last fifth of the steps; None with fewer than two validations.

    A run that was validated fewer than five times has only its last one in that fifth: the one before is taken too.
    """
    points = sorted((step, value) for step, value in curve if math.isfinite(value))
    if len(points) < 2:
        return None
    end = points[-1][0]
    first = end * (1 - LAST - SLACK)
    number = min(sum(step < first for step, _ in points), len(points) - 2)
    last = points[number:]
    middle = sum(step for step, _ in last) / len(last)
    level = sum(value for _, value in last) / len(last)
    slope = sum((step - middle) * (value - level) for step, value in last)
    slope /= sum((step - middle) ** 2 for step, _ in last)
    return slope * end * LAST
