"""What the arms of the study `better` cost: parameters, operations, and seconds of a step and of an image.

    python benchmarks/better.py                                  # all arms, in turn
    python benchmarks/better.py --arms plain dilated --rounds 9

On one CPU thread, in its own time, so that other programs on the machine count little. The ratios of the steps are the
`step_cost` of wssl_pl/study/definitions/better.yaml. Writes `better.json` and `better.md` in benchmarks/results.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.flop_counter import FlopCounterMode

from wssl_pl.study.cost import Stepper, batch_shape
from wssl_pl.study.definition import read_study
from wssl_pl.study.plan import make_plan

RESULTS = Path(__file__).parent / "results"


class Arm:
    """An untrained run of an arm: its steps, and its network on one image."""

    def __init__(self, name: str, label: str) -> None:
        self.name, self.label = name, label
        study = read_study(["better"])
        plan = make_plan(study)
        run = plan.runs[plan.final[name][study.seeds[0]]]
        self.batch, self.size = batch_shape(run)
        self.stepper = Stepper(plan, run)
        self.declared = study.arms[name].step_cost
        self.steps: list[float] = []
        self.images: list[float] = []

    def measure(self, first: bool) -> None:
        """Make a step, and fill one image."""
        step = self.stepper.step(self.batch, self.size)
        module = self.stepper.module.eval()
        image, mask = torch.rand(1, 3, self.size, self.size), (torch.rand(1, 1, self.size, self.size) < 0.4).float()
        with torch.inference_mode():
            started = time.thread_time()
            module(image, mask)
            seconds = time.thread_time() - started
        module.train()
        if not first:  # kernels are chosen in the first one
            self.steps.append(step)
            self.images.append(seconds)

    def row(self) -> dict[str, Any]:
        """Return what is known of the arm."""
        module = self.stepper.module.eval()
        image = torch.rand(1, 3, self.size, self.size)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            module(image, torch.zeros_like(image[:, :1]))
        module.train()
        return {
            "arm": self.name,
            "label": self.label,
            "parameters": sum(p.numel() for network in module.networks() for p in network.parameters()),
            "gflop_per_image": counter.get_total_flops() / 1e9,
            "step_s": statistics.median(self.steps),
            "image_s": statistics.median(self.images),
            "declared_step_cost": self.declared,
        }


def table(rows: list[dict[str, Any]], about: str) -> str:
    """Return the rows as Markdown, times as multiples of the first one's."""
    lines = [
        f"{about}. Times are medians on one thread, in turn; a step is one of training.",
        "",
        "| arm | parameters (million) | GFLOP per image | step (s) | step / plain | image (ms) | image / plain |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['label']} | {row['parameters'] / 1e6:.2f} | {row['gflop_per_image']:.2f} | {row['step_s']:.3f} | "
            f"{row['step_s'] / rows[0]['step_s']:.2f} | {row['image_s'] * 1e3:.1f} | "
            f"{row['image_s'] / rows[0]['image_s']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the arms in turn."""
    study = read_study(["better"])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=list(study.arms), default=list(study.arms))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = dict.fromkeys(["plain", *arguments.arms])
    arms = [Arm(name, study.arms[name].label) for name in names]
    for turn in range(arguments.rounds + 1):
        for arm in arms:
            arm.measure(first=turn == 0)
    rows = [arm.row() for arm in arms]
    about = (
        f"{platform.processor() or platform.machine()}, one thread, Python {platform.python_version()}, "
        f"torch {torch.__version__}, lightning {lightning.__version__}; batch {arms[0].batch} of {arms[0].size} px"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.out.joinpath("better.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    text = table(rows, about)
    arguments.out.joinpath("better.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
