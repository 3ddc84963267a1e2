"""A verdict per claim: supported, refuted, not shown, or not decided and why.

Holm's correction is over the claims of a section, for each figure apart: a claim counts as supported only when every
one of its figures supports it, and for such a conjunction no correction over the figures is needed (Berger 1982).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wssl_pl.evaluation.metrics import LABELS
from wssl_pl.evaluation.statistics import LEVEL, MIN_GAIN_DB, MIN_SEEDS, Convergence, compare, holm
from wssl_pl.study.definition import Claim, Section
from wssl_pl.study.results import Results

ALPHA = round(1.0 - LEVEL, 9)
SHARE = 0.5  # of a group's arms that have to be left for its mean to stand for the group
NOT_DECIDED = "not decided"


def judge_section(
    results: Results, section: Section, convergence: Mapping[str, Convergence], seed: int = 0
) -> list[dict[str, Any]]:
    """The verdicts on a section's claims, in plain types and in their order.

    Args:
        results: of the study.
        section: whose claims.
        convergence: by arm.
        seed: of the bootstrap.
    """
    verdicts = [_who_takes_part(results, claim, convergence) for claim in section.claims]
    _compare_all(results, verdicts, seed)
    for figure in sorted({name for claim in section.claims for name in claim.figures}):
        named = [verdict for verdict in verdicts if figure in verdict["declared_figures"]]
        tested = [verdict["figures"][figure] for verdict in named if figure in verdict["figures"]]
        corrected = holm([entry["p"] for entry in tested], family=len(named))
        for entry, p in zip(tested, corrected, strict=True):
            entry["p_holm"], entry["family"] = p, len(named)
            entry["state"] = state_of(entry)
    for verdict in verdicts:
        if verdict["figures"] and not verdict["reason"]:
            verdict["state"], verdict["reason"] = overall({k: v["state"] for k, v in verdict["figures"].items()})
            verdict["reason"] = verdict["reason"] or _why_not_shown(verdict["figures"])
    return verdicts


def _who_takes_part(results: Results, claim: Claim, convergence: Mapping[str, Convergence]) -> dict[str, Any]:
    """The verdict as far as it can be told before any figure is looked at."""
    left_out: dict[str, str] = {}
    for arm in dict.fromkeys([*claim.better, *claim.than]):
        seeds = results.measured(arm)
        judged = convergence.get(arm, Convergence("unknown"))
        if not seeds:
            left_out[arm] = "not run"
        elif len(seeds) < MIN_SEEDS:
            left_out[arm] = f"too few seeds ({len(seeds)} of {len(results.study.seeds)})"
        elif judged.state == "not converged":
            left_out[arm] = f"not converged ({judged.rise:+.2f} dB in its last fifth, {MIN_GAIN_DB} or more)"
        elif judged.state == "unknown":
            left_out[arm] = "convergence unknown (a seed has no validation curve)"
    groups = {
        side: [arm for arm in names if arm not in left_out]
        for side, names in (("better", claim.better), ("than", claim.than))
    }
    verdict: dict[str, Any] = {
        "claim": claim.claim,
        "better": claim.better,
        "than": claim.than,
        "declared_figures": claim.figures,
        "took_part": groups,
        "left_out": left_out,
        "state": NOT_DECIDED,
        "reason": None,
        "seeds": [],
        "figures": {},
    }
    for side, names in (("better", claim.better), ("than", claim.than)):
        if not groups[side] or len(groups[side]) < SHARE * len(names):
            reasons = dict.fromkeys(f"{_label(results, arm)} {left_out[arm]}" for arm in names if arm in left_out)
            verdict["reason"] = verdict["reason"] or _some(list(reasons))
    if verdict["reason"] is None:
        arms = [*groups["better"], *groups["than"]]
        common = [seed for seed in results.study.seeds if all(seed in results.measured(arm) for arm in arms)]
        verdict["seeds"] = common
        if len(common) < MIN_SEEDS:
            verdict["reason"] = f"too few seeds: {len(common)} that all its arms have, {MIN_SEEDS} are the fewest"
    return verdict


def _compare_all(results: Results, verdicts: Sequence[dict[str, Any]], seed: int) -> None:
    """Fills in the differences; those of equally many seeds are drawn together."""
    wanted = [(verdict, figure) for verdict in verdicts if not verdict["reason"] for figure in _measured(verdict)]
    by_seeds: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for verdict, figure in wanted:
        by_seeds.setdefault(len(verdict["seeds"]), []).append((verdict, figure))
    for entries in by_seeds.values():
        sides = [
            [side_values(results, verdict["took_part"][side], verdict["seeds"], figure) for side in ("better", "than")]
            for verdict, figure in entries
        ]
        with np.errstate(invalid="ignore"):
            found = compare(np.stack([better - than for better, than in sides]), seed)
        for (verdict, figure), difference, (better, than) in zip(entries, found, sides, strict=True):
            if difference is None:
                verdict["reason"] = f"{LABELS[figure]} is finite for no image"
                continue
            entry = asdict(difference)
            entry["difference"] = entry.pop("mean")
            entry["by_seed"] = dict(zip(map(str, verdict["seeds"]), difference.by_seed, strict=True))
            entry["better_in"] = sum(value > 0 for value in difference.by_seed)
            entry["better_mean"], entry["than_mean"] = finite_mean(better), finite_mean(than)
            verdict["figures"][figure] = entry


def _measured(verdict: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(verdict["declared_figures"]))


def side_values(results: Results, arms: Sequence[str], seeds: Sequence[int], figure: str) -> NDArray[np.float64]:
    """A group's figures `(seeds, images)`, the mean over its arms."""
    return np.stack(
        [
            np.mean([results.tables[results.final[arm][seed]].column(figure) for arm in arms], axis=0)
            for seed in seeds
        ]
    )  # fmt: skip


def finite_mean(values: NDArray[np.float64]) -> float | None:
    """The mean of what is finite; None where nothing is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def state_of(entry: Mapping[str, Any]) -> str:
    """What a difference shows: the corrected p-value and the hierarchical bootstrap have to agree on its sign."""
    if entry["p_holm"] >= ALPHA or entry["bootstrap_low"] <= 0 <= entry["bootstrap_high"]:
        return "not shown"
    return "supported" if entry["difference"] > 0 else "refuted"


def overall(states: Mapping[str, str]) -> tuple[str, str | None]:
    """One verdict from those of a claim's figures, and by which of them where they differ."""
    found = {state: [LABELS[figure] for figure, its in states.items() if its == state] for state in states.values()}
    if len(found) == 1:
        return next(iter(found)), None
    if "supported" in found and "refuted" in found:
        return "contradictory", f"supported by {_and(found['supported'])}, refuted by {_and(found['refuted'])}"
    shown = "supported" if "supported" in found else "refuted"
    return f"partly {shown}", f"by {_and(found[shown])}, not shown by {_and(found['not shown'])}"


def _why_not_shown(figures: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Says whether an interval contains 0, or what else stands in the way."""
    if any(entry["state"] != "not shown" for entry in figures.values()):
        return None
    clear = {figure: entry for figure, entry in figures.items() if not entry["low"] <= 0 <= entry["high"]}
    if not clear:
        return "the interval contains 0"
    names = _and([LABELS[figure] for figure in clear])
    if all(entry["p_holm"] < ALPHA for entry in clear.values()):
        return f"the bootstrap's interval of {names} contains 0"
    sizes = " or ".join(str(size) for size in sorted({entry["family"] for entry in clear.values()}))
    return f"{names} would be clear of 0 alone, but p is not below {ALPHA:.2g} after Holm over {sizes} claims"


def _label(results: Results, arm: str) -> str:
    return results.study.arms[arm].label


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _some(reasons: Sequence[str], most: int = 3) -> str:
    return "; ".join(reasons[:most]) + (f"; and {len(reasons) - most} more" if len(reasons) > most else "")
