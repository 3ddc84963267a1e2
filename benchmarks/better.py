"""What the arms of a study, `better` or another, gain and cost: parameters, operations, seconds of a step and an image.

    python benchmarks/better.py --costs                      # measures all arms, and writes the page's table
    python benchmarks/better.py --study runs/study/better    # takes the results of the study, finished or not
    python benchmarks/better.py --definition restore --costs

Costs are measured on one CPU thread, in its own time, so that other programs on the machine count little. The ratios of
the steps, to that of the first arm, are the `step_cost` in wssl_pl/study/definitions; where the first arm has a pretext
stage and another has none, that one may spend the seconds of both on its only stage. Results go to `better.json` and
`better_study.json` in benchmarks/results, and the table of both to docs/better.md.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from blocks import fill_block
from torch.utils.flop_counter import FlopCounterMode

from wssl_pl.evaluation.metrics import LABELS
from wssl_pl.evaluation.statistics import compare
from wssl_pl.study.cost import Stepper, batch_shape
from wssl_pl.study.definition import Study, read_study
from wssl_pl.study.plan import make_plan
from wssl_pl.study.results import read_results
from wssl_pl.study.verdicts import group_values

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "better.md"
METRICS = ("psnr_composite", "ssim_composite", "lpips_composite")
RESTORED_METRICS = ("psnr", "psnr_hole", "psnr_known", "ssim", "lpips")


class Arm:
    """An untrained run of an arm: its steps, and its network on one image."""

    def __init__(self, study: Study, name: str) -> None:
        self.name, self.label = name, study.arms[name].label
        plan = make_plan(study)
        run = plan.runs[plan.final[name][study.seeds[0]]]
        self.batch, self.size = batch_shape(run)
        self.stepper = Stepper(plan, run)
        self.pretext = Stepper(plan, plan.runs[run.pretext]) if run.pretext else None
        self.steps: list[float] = []
        self.pretext_steps: list[float] = []
        self.images: list[float] = []

    def measure(self, first: bool) -> None:
        """Make a step of each stage, and fill one image."""
        step = self.stepper.step(self.batch, self.size)
        pretext_step = self.pretext.step(self.batch, self.size) if self.pretext else 0.0
        module = self.stepper.module.eval()
        image, mask = torch.rand(1, 3, self.size, self.size), (torch.rand(1, 1, self.size, self.size) < 0.4).float()
        with torch.inference_mode():
            started = time.thread_time()
            module(image, mask, *strengths_of(module))
            seconds = time.thread_time() - started
        module.train()
        if not first:  # kernels are chosen in the first one
            self.steps.append(step)
            self.pretext_steps.append(pretext_step)
            self.images.append(seconds)

    def row(self) -> dict[str, Any]:
        """Return what is known of the arm."""
        module = self.stepper.module.eval()
        image = torch.rand(1, 3, self.size, self.size)
        # Not `inference_mode`, in which the counter fails on spectral normalisation.
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(image, torch.zeros_like(image[:, :1]), *strengths_of(module))
        module.train()
        return {
            "label": self.label,
            "parameters": sum(p.numel() for network in module.networks() for p in network.parameters()),
            "gflop_per_image": counter.get_total_flops() / 1e9,
            "step_s": statistics.median(self.steps),
            "pretext_step_s": statistics.median(self.pretext_steps),
            "image_s": statistics.median(self.images),
        }


def strengths_of(module: Any) -> list[dict[str, torch.Tensor]]:
    """Return strengths of the damages that a module restores, as its third argument; nothing for one without."""
    damages = getattr(module, "damages", None)
    return [] if damages is None else [{name: torch.rand(1) for name in damages.tasks}]


def plain_of(study: Study) -> str:
    """Return the arm that the others are compared with: the first one."""
    return next(iter(study.arms))


def measure_costs(study: Study, names: list[str], rounds: int) -> dict[str, Any]:
    """Return the costs of the arms, each measured in turn with the plain one."""
    torch.set_num_threads(1)
    rows = {}
    for name in names:
        # In turn with the plain arm alone: many networks at once make the memory slow.
        arm, plain = Arm(study, name), Arm(study, plain_of(study))
        for turn in range(rounds + 1):
            arm.measure(first=turn == 0)
            plain.measure(first=turn == 0)
        own, other = arm.row(), plain.row()
        if name == plain_of(study):
            other = own  # two measurements of one arm differ by noise alone
        rows[name] = own | {f"{key} / plain": own[key] / other[key] for key in ("step_s", "image_s")}
        # Of the plain arm with its pretext stage: what an arm without one may spend on its only stage.
        pretext = study.steps["pretext"] * other["pretext_step_s"] / (study.steps["downstream"] * other["step_s"])
        rows[name]["step_cost"] = rows[name]["step_s / plain"] / (1.0 if arm.pretext else 1.0 + pretext)
    about = (
        f"{plain.batch} images of {plain.size} px, one thread of {platform.processor() or platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}"
    )
    return {"about": about, "arms": rows}


def collect_gains(folder: Path) -> dict[str, Any]:
    """Return means of each seed, and the difference to the plain arm over seeds and images, of a study's arms."""
    results = read_results(folder)
    if not results.evaluations:
        raise SystemExit(f"{folder}: no run is measured yet")
    reference, metrics = plain_of(results.study), RESTORED_METRICS if results.study.restore else METRICS
    runs = {name: results.measured(name) for name in results.study.arms}
    found: dict[str, Any] = {}
    for name, measured in runs.items():
        common = [seed for seed in measured if seed in runs[reference]]
        if not common:
            continue
        values = {metric: group_values(results, [name], common, metric) for metric in metrics}
        entry: dict[str, Any] = {"steps": next(iter(measured.values())).steps, "seeds": common}
        for metric, own in values.items():
            if not np.isfinite(own).all():
                continue
            entry[metric] = {"mean": own.mean(), "by_seed": own.mean(axis=1).tolist()}
            if name != reference:
                difference = own - group_values(results, [reference], common, metric)
                entry[metric]["difference"] = difference.mean()
                if len(common) > 1:
                    (between,) = compare(difference[None], 0)
                    entry[metric] |= {} if between is None else {"low": between.low, "high": between.high}
        found[name] = entry
    pairs = next(iter(results.evaluations.values())).pairs
    return {"pairs": pairs.hash[:16], "arms": found}


def table(study: Study, costs: dict[str, Any], gains: dict[str, Any]) -> str:
    """Return the page's table: every measured arm with its gains over the plain one, and its costs."""
    plain, metrics = plain_of(study), RESTORED_METRICS if study.restore else METRICS
    shown = [LABELS[metric.removesuffix("_composite")] for metric in metrics]
    shown = [f"{label} (dB)" if label.startswith("PSNR") else label for label in shown]
    heads = ["", "seeds", *shown, "million parameters", "GFLOP per image", f"step / {plain}", f"image / {plain}"]
    rows = [f"| {' | '.join(heads)} |".replace("|  |", "| |", 1), f"|---|{'---:|' * (len(heads) - 1)}"]
    for name, arm in study.arms.items():
        if name not in gains["arms"] or name not in costs["arms"]:
            continue
        cost, gain = costs["arms"][name], gains["arms"][name]
        shown = [_gain(gain.get(metric), metric) for metric in metrics]
        rows.append(
            f"| {arm.label} | {len(gain['seeds'])} | {' | '.join(shown)} | {cost['parameters'] / 1e6:.2f} | "
            f"{cost['gflop_per_image']:.2f} | {cost['step_s / plain']:.2f} | {cost['image_s / plain']:.2f} |"
        )
    return "\n".join(
        [
            *rows,
            "",
            f"Costs: {costs['about']}; a {plain} step takes {costs['arms'][plain]['step_s']:.2f} s, an image "
            f"{costs['arms'][plain]['image_s'] * 1e3:.0f} ms.",
        ]
    )


def _gain(entry: dict[str, Any] | None, metric: str) -> str:
    """Return a mean, and its difference to the plain arm with the interval over seeds and images."""
    if entry is None:
        return "-"
    digits = 2 if metric.startswith("psnr") else 4
    text = f"{entry['mean']:.{digits}f}"
    if "difference" in entry:
        text += f" ({entry['difference']:+.{digits}f}"
        text += f" [{entry['low']:+.{digits}f}, {entry['high']:+.{digits}f}])" if "low" in entry else ")"
    return text


def main() -> None:
    """Measure costs or collect gains, and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", action="store_true", help="measure costs")
    parser.add_argument("--definition", default="better", help="the study; its first arm is the plain one")
    parser.add_argument("--arms", nargs="+", help="which; default: all")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each arm")
    parser.add_argument("--study", type=Path, help="folder of the study")
    options = parser.parse_args()
    study = read_study([options.definition])
    if unknown := set(options.arms or ()) - study.arms.keys():
        parser.error(f"--arms: {', '.join(unknown)}: there are {', '.join(study.arms)}")
    costs, gains = (RESULTS / f"{study.name}{part}.json" for part in ("", "_study"))
    if options.costs:
        trained = [name for name, arm in study.arms.items() if arm.method is None]
        names = dict.fromkeys([plain_of(study), *(options.arms or trained)])
        found = measure_costs(study, list(names), options.rounds)
        for name, row in found["arms"].items():
            print(f"{name}: step_cost {row['step_cost']:.2f}, {row}")
        if options.arms and costs.is_file():  # the other arms' rows stay
            found["arms"] = json.loads(costs.read_text())["arms"] | found["arms"]
        costs.write_text(json.dumps(found, indent=1) + "\n")
    if options.study:
        if not costs.is_file():
            parser.error(f"{costs} is missing: measure it first, with --costs")
        gains.write_text(json.dumps(collect_gains(options.study), indent=1) + "\n")
    if gains.is_file():
        made = table(study, json.loads(costs.read_text()), json.loads(gains.read_text()))
        print(made)
        if study.name == "better":
            PAGE.write_text(fill_block(PAGE.read_text(), "benchmarks/better.py", made))


if __name__ == "__main__":
    main()
