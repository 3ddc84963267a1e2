"""Which arm came out best, and how far the others are behind it."""

from collections.abc import Mapping
from typing import Any

from wssl_pl.evaluation.statistics import MIN_SEEDS, compare
from wssl_pl.study.results import Results
from wssl_pl.study.verdicts import side_values

FIGURE = "psnr_composite"


def rank(results: Results, arms: Mapping[str, Mapping[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """The measured arms, the best first; those that had not converged are left out.

    Args:
        results: of the study.
        arms: each arm as the summary describes it.
        seed: of the bootstrap.

    Returns:
        for each arm its name, its mean, its `difference` from the best one on the seeds that both have, and the 95 %
        interval of that over seeds and images, `low` and `high`, not corrected for how many intervals there are; None
        where too few seeds have both.
    """
    means = {
        name: arm["figures"][FIGURE]["mean"]
        for name, arm in arms.items()
        if arm["seeds"] and arm["convergence"]["state"] != "not converged"
    }
    names = sorted((name for name in means if means[name] is not None), key=lambda name: -means[name])
    found = []
    for name in names:
        entry = {"arm": name, "mean": means[name], "difference": means[name] - means[names[0]]}
        entry |= {"low": None, "high": None}
        common = [number for number in arms[names[0]]["seeds"] if number in arms[name]["seeds"]]
        if name != names[0] and len(common) >= MIN_SEEDS:
            sides = [side_values(results, [arm], common, FIGURE) for arm in (name, names[0])]
            (between,) = compare((sides[0] - sides[1])[None], seed)
            if between is not None:
                entry |= {"difference": between.mean, "low": between.low, "high": between.high}
        found.append(entry)
    return found
