"""Validation curves of runs, as JSON and as a picture, and whether each run had converged.

    python benchmarks/curves.py runs/downstream/frozen runs/downstream/scratch --out benchmarks/results/mini_curves

Writes `<out>.json` and `<out>.png`. Convergence is judged as in a study: `wssl_pl.evaluation.statistics`.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wssl_pl.evaluation.statistics import CONVERGENCE_METRIC, judge_convergence

PREFIX = "val/"


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the (step, value) pairs of every validation metric in a run's TensorBoard events, resumes included."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(PREFIX)]
    return {tag: [(event.step + 1, event.value) for event in events.Scalars(tag)] for tag in tags}


def wall_seconds(run: Path) -> float:
    """Return the seconds from the first to the last logged value, without those between a run and its resume."""
    seconds = 0.0
    for file in run.glob("events.out.tfevents.*"):  # one for each resume
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        times = [event.wall_time for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
        seconds += max(times, default=0.0) - min(times, default=0.0)
    return seconds


def draw(curves: dict[str, dict[str, list[tuple[int, float]]]], path: Path) -> None:
    """PSNR and SSIM, raw and composited, or accuracies per task, of all runs over the steps."""
    tags = [t for t in ("val/psnr", "val/ssim", "val/psnr_composite", "val/ssim_composite") if _in_all(t, curves)]
    tags = tags or sorted({t for run in curves.values() for t in run if t.startswith("val/accuracy/")})
    figure = Figure(figsize=(3.4 * len(tags), 3), layout="constrained")
    for axes, tag in zip(figure.subplots(1, len(tags), squeeze=False)[0], tags, strict=True):
        for name, run in curves.items():
            if tag in run:
                axes.plot(*zip(*run[tag], strict=True), label=name)
        axes.set(title=tag, xlabel="steps")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _in_all(tag: str, curves: dict[str, dict[str, list[tuple[int, float]]]]) -> bool:
    return all(tag in run for run in curves.values())


def main() -> None:
    """Read the runs, and write JSON and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="path without suffix")
    args = parser.parse_args()
    if len({run.name for run in args.runs}) < len(args.runs):
        parser.error("two runs have one name: rename a folder")
    curves = {run.name: read_curves(run) for run in args.runs}
    if empty := [str(run) for run in args.runs if not curves[run.name]]:
        parser.error(f"no validation in the TensorBoard events of {', '.join(empty)}")
    summary: dict[str, dict[str, float]] = {}
    for run in args.runs:
        seconds = wall_seconds(run)
        summary[run.name] = {"steps": max(c[-1][0] for c in curves[run.name].values()), "seconds": round(seconds)}
        judged = judge_convergence([curves[run.name].get(CONVERGENCE_METRIC, [])])
        if judged.slope is not None:
            converged = judged.state == "converged"
            summary[run.name] |= {"gain_last_fifth_db": round(judged.slope, 3), "converged": converged}
        print(run.name, summary[run.name])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps({"summary": summary, "curves": curves}) + "\n")
    draw(curves, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
