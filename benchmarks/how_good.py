"""Write the tables of docs/how_good.md from `how_good_128.json` and `how_good_256.json` in benchmarks/results.

    B=runs/study/better/runs      # the arms psnr and sharp of `wssl study better`, as its plan.json names their runs
    MODELS="shipped=wssl_pl/inference/model/wssl-w16.safetensors
        downstream_psnr=$B/RUN/best.ckpt downstream_sharp=$B/RUN/best.ckpt"
    WSSL_WEIGHTS=FOLDER python benchmarks/classical.py --data DATA --size 128 --name how_good_128 \
        --methods mean telea navier_stokes biharmonic --ckpt $MODELS
    WSSL_WEIGHTS=FOLDER python benchmarks/classical.py --data DATA --size 256 --name how_good_256 \
        --methods telea biharmonic --ckpt $MODELS --inpaint $(echo "$MODELS" | sed s/=/_inpaint=/g)
    python benchmarks/how_good.py
    python benchmarks/how_good.py --check      # exit code 1 if the page says something else
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blocks import fill_block

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "how_good.md"
SIZES = (128, 256)
NAMES = {
    "mean": "filling with the mean",
    "telea": "OpenCV's Telea",
    "navier_stokes": "OpenCV's Navier-Stokes",
    "biharmonic": "scikit-image's biharmonic",
    "shipped": "**the shipped model**",
    "downstream_psnr": "`downstream_psnr`, 5,310 steps",
    "downstream_sharp": "`downstream_sharp`, 4,580 steps",
}
NAMES |= {f"{name}_inpaint": f"{NAMES[name]}, by `wssl inpaint`" for name in list(NAMES)[-3:]}
METRICS = {"psnr_composite": ("PSNR (dB)", 2), "ssim_composite": ("SSIM", 4), "lpips_composite": ("LPIPS", 4)}
BY_BIN = ("psnr_composite", "lpips_composite")


def shown(figures: Mapping[str, Any], metric: str) -> str:
    """Return a mean with half of its 95 % interval; a dash where it was not measured."""
    if metric not in figures:
        return "-"
    found, digits = figures[metric], METRICS[metric][1]
    return f"{found['mean']:.{digits}f} ± {(found['high'] - found['low']) / 2:.{digits}f}"


def leaderboard(methods: Mapping[str, Any], metric: str = "lpips_composite") -> list[str]:
    """Return the names of the methods, the best one first: by LPIPS, or without it by PSNR."""
    if all(metric in method["figures"]["all"] for method in methods.values()):
        return sorted(methods, key=lambda name: methods[name]["figures"]["all"][metric]["mean"])
    return sorted(methods, key=lambda name: -methods[name]["figures"]["all"]["psnr_composite"]["mean"])


def tables(found: Mapping[str, Any]) -> str:
    """Return the tables of one size in Markdown."""
    lines = []
    for protocol, entry in found["protocols"].items():
        methods = entry["methods"]
        order = leaderboard(methods)
        count = max(method["counts"]["all"] for method in methods.values())
        lines += [f"**{protocol}**, {count} test faces (pairs {entry['pairs'][:16]}):", ""]
        lines += [f"| | {' | '.join(label for label, _ in METRICS.values())} |", "|---|---:|---:|---:|"]
        for name in order:
            method = methods[name]
            cells = [shown(method["figures"]["all"], metric) for metric in METRICS]
            lines.append(f"| {NAMES.get(name, name)} | {' | '.join(cells)} |")
        lines.append("")
        groups = [group for group in methods[order[0]]["figures"] if group != "all"]
        for metric in BY_BIN if len(groups) > 2 else ():
            if metric not in methods[order[0]]["figures"]["all"]:
                continue
            digits = METRICS[metric][1]
            lines += [f"{METRICS[metric][0]} by hole ratio in percent:", ""]
            lines += [f"| | {' | '.join(groups)} |", f"|---|{'---:|' * len(groups)}"]
            for name in order:
                values = (methods[name]["figures"].get(group, {}).get(metric) for group in groups)
                cells = ["-" if value is None else f"{value['mean']:.{digits}f}" for value in values]
                lines.append(f"| {NAMES.get(name, name)} | {' | '.join(cells)} |")
            lines.append("")
    machine = found["machine"]
    lines.append(f"Measured on {machine['device']}, {machine['cores']} cores, torch {machine['torch']}.")
    return "\n".join(lines)


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = before = PAGE.read_text()
    for size in SIZES:
        made = tables(json.loads((RESULTS / f"how_good_{size}.json").read_text()))
        text = fill_block(text, f"benchmarks/how_good.py: {size} px", made)
    if not check:
        PAGE.write_text(text)
    return int(check and text != before)


if __name__ == "__main__":
    sys.exit(main())
