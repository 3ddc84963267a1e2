"""The paper's Table 4 as measured here: `wssl study table4`, and the same models on other masks, by hole ratio.

    WSSL_WEIGHTS=FOLDER wssl study table4 out=runs/study/table4 --data.images=DIR --data.masks=QD_IMD
    wssl pairs split=test out=PAIRS --data.images=DIR --data.masks=NVIDIA --data.hole=white --data.hole_ratio=[0,0.6] \
        --data.image_size=128 --data.resize=144
    WSSL_WEIGHTS=FOLDER python benchmarks/table4.py runs/study/table4 --pairs PAIRS

The study may be unfinished: what is measured is shown. Results on the pairs are kept in the folders of the runs. All go
to `table4_measured.json` in benchmarks/results, and the tables to docs/rivals.md with docs/rivals_curves.svg.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blocks import fill_block

from wssl_pl.drawing import new_figure, save_figure
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.evaluate import Settings, evaluate
from wssl_pl.evaluation.methods import Classical, Method, Model
from wssl_pl.evaluation.metrics import LABELS
from wssl_pl.evaluation.pages import plain_frame
from wssl_pl.evaluation.pairs import Pairs
from wssl_pl.evaluation.results import Result, read_result
from wssl_pl.foreign_weights import find_weights
from wssl_pl.study.plan import Run
from wssl_pl.study.plots import COLOURS
from wssl_pl.study.results import Results, read_results

RESULTS = Path(__file__).parent / "results" / "table4_measured.json"
PAGE = Path(__file__).parents[1] / "docs" / "rivals.md"
METRICS = ("psnr", "psnr_composite", "ssim", "ssim_composite", "lpips", "lpips_composite")
BY_BIN = ("psnr_composite", "lpips_composite")
CURVE = "val/psnr_composite"


def measure_on(results: Results, run: Run, pairs: Pairs) -> Result:
    """Return the result of a run's model on other pairs, which is measured at the first time."""
    folder = results.folder.run(run.id) / f"evaluation-{pairs.manifest.hash[:16]}"
    with suppress(WSSLError):
        known = read_result(folder)
        if "lpips" in known.table.metrics or find_weights("alexnet") is None:
            return known
        shutil.rmtree(folder)
    method: Method
    if run.stage == "method":
        method = Classical(run.options["method"])
    else:
        method = Model(results.folder.run(run.id) / "best.ckpt", torch.device("cpu"))
    result = evaluate(pairs, method, Settings())
    result.save(folder)
    return result


def mean_of(found: list[Result], metric: str, group: str | None = None) -> float | None:
    """Return the mean of a metric over results and images; None where it was not measured."""
    values = [
        result.table.column(metric)[slice(None) if group is None else result.table.bins == group]
        for result in found
        if metric in result.table.metrics
    ]
    return float(np.nanmean(np.concatenate(values))) if values and len(values[0]) else None


def deviation_of(found: list[Result], metric: str) -> float | None:
    """Return the standard deviation of the seeds' means; None of one seed, or where it was not measured."""
    means = [mean for result in found if (mean := mean_of([result], metric)) is not None]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def collect(results: Results, pairs: Pairs | None) -> dict[str, Any]:
    """Return the rows of both tables."""
    if not results.evaluations:
        raise SystemExit(f"{results.folder.path}: no run is measured yet")
    arms: dict[str, Any] = {}
    for name, arm in results.study.arms.items():
        runs = results.measured(name)
        if not runs:
            continue
        found = [results.evaluations[run.id] for run in runs.values()]
        chains = [list(results.chain(run)) for run in runs.values()]
        entry: dict[str, Any] = {
            "label": arm.label,
            "seeds": [] if arm.method else list(runs),
            "steps": {run.stage: run.steps for run in chains[0]},
            "minutes": float(np.mean([sum(run.status.seconds for run in chain) / 60 for chain in chains])),
            "parameters": found[0].method.get("parameters"),
            "ms_per_image": 1000 * float(np.mean([result.seconds_per_image or np.nan for result in found])),
            "paper": arm.paper,
            "metrics": {metric: mean_of(found, metric) for metric in METRICS},
            "deviation": {metric: deviation_of(found, metric) for metric in METRICS},
        }
        if pairs is not None:
            other = [measure_on(results, run, pairs) for run in {run.id: run for run in runs.values()}.values()]
            groups = sorted(set(other[0].table.bins.tolist()), key=lambda group: int(str(group).split("-")[0]))
            entry["by_bin"] = {
                metric: {str(group): mean_of(other, metric, group) for group in groups} for metric in BY_BIN
            }
        arms[name] = entry
    first = next(iter(results.evaluations.values()))
    machine = f"{first.machine.device}, {first.machine.cores} cores, torch {first.machine.torch}"
    return {"pairs": first.pairs.hash[:16], "count": first.pairs.count, "machine": machine, "arms": arms}


def text_of(value: float | None, metric: str) -> str:
    """Return a number with the digits of its metric; a dash for None."""
    return "-" if value is None else f"{value:.{2 if metric.startswith('psnr') else 4}f}"


def tables(found: Mapping[str, Any]) -> str:
    """Return the tables in Markdown."""
    heads = ["", *[LABELS[metric] for metric in METRICS], "paper PSNR", "paper SSIM", "seeds", "minutes",
             "million parameters", "ms per image"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |".replace("|  |", "| |", 1), f"|---|{'---:|' * (len(heads) - 1)}"]
    for arm in found["arms"].values():
        cells = [
            text_of(arm["metrics"][metric], metric)
            + ("" if arm["deviation"][metric] is None else f" ± {text_of(arm['deviation'][metric], metric)}")
            for metric in METRICS
        ]
        cells += [text_of(arm["paper"].get(metric), metric) for metric in ("psnr", "ssim")]
        cells += [str(len(arm["seeds"]) or "-"), f"{arm['minutes']:.0f}" if arm["minutes"] else "-"]
        cells += [f"{arm['parameters'] / 1e6:.2f}" if arm["parameters"] else "-", f"{arm['ms_per_image']:.0f}"]
        lines.append(f"| {arm['label']} | {' | '.join(cells)} |")
    measured = f"{found['count']} test pairs (hash {found['pairs']}), measured on {found['machine']}"
    lines += ["", f"{measured}; ± is the standard deviation of the seeds' means."]
    shown = [arm for arm in found["arms"].values() if "by_bin" in arm]
    for metric in BY_BIN if shown else ():
        groups = list(shown[0]["by_bin"][metric])
        lines += ["", f"{LABELS[metric]} on the other masks, by hole ratio in percent:", ""]
        lines += [f"| | {' | '.join(groups)} |", f"|---|{'---:|' * len(groups)}"]
        for arm in shown:
            cells = [text_of(arm["by_bin"][metric][group], metric) for group in groups]
            lines.append(f"| {arm['label']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_curves(results: Results, path: Path) -> None:
    """Draw the validation PSNR of each arm against the part of its training that is done, a line per seed."""
    figure = new_figure(7.0, 4.0)
    axes = figure.subplots()
    trained = [name for name, arm in results.study.arms.items() if not arm.method and results.measured(name)]
    for number, name in enumerate(trained):
        label: str | None = results.study.arms[name].label
        for run in results.measured(name).values():
            curve = results.folder.curves(run.id)[CURVE]
            part = [100 * (step + 1) / run.steps for step in curve.steps]
            line = "-" if number < len(COLOURS) else "--"
            style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "ls": line}
            axes.plot(part, curve.values, marker="o", ms=3, **style, label=label)
            label = None  # once per arm
    axes.set(xlabel="part of the training (%)", ylabel="PSNR composite, validation (dB)")
    axes.grid(alpha=0.3)
    plain_frame(axes)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Collect the results, and write them and the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("--pairs", type=Path, help="pairs with masks of another kind")
    options = parser.parse_args()
    results = read_results(options.study)
    found = collect(results, Pairs.open(options.pairs) if options.pairs else None)
    draw_curves(results, PAGE.with_name("rivals_curves.svg"))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    made = "![PSNR on validation images during training](rivals_curves.svg)\n\n" + tables(found)
    print(made)
    PAGE.write_text(fill_block(PAGE.read_text(), "benchmarks/table4.py", made))


if __name__ == "__main__":
    main()
