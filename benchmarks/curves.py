"""Validation curves of runs, as JSON and as a picture, and whether each run had converged.

    python benchmarks/curves.py runs/downstream/frozen runs/downstream/scratch --out benchmarks/results/mini_curves

Writes `<out>.json` and `<out>.png`. A run counts as converged when its raw validation PSNR gained under 0.1 dB in the
last fifth of its steps, means of three validations at both ends.
"""

import argparse
import json
import statistics
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PREFIX = "val/"
GAIN_DB = 0.1


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) pairs of every validation figure in a run's TensorBoard events, later resumptions included."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(PREFIX)]
    return {tag: [(event.step + 1, event.value) for event in events.Scalars(tag)] for tag in tags}


def wall_seconds(run: Path) -> float:
    """Seconds between the first and the last logged value, without the time between two sittings of a resumed run."""
    seconds = 0.0
    for file in run.glob("events.out.tfevents.*"):  # one for each sitting
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        times = [event.wall_time for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
        seconds += max(times, default=0.0) - min(times, default=0.0)
    return seconds


def gain_in_last_fifth(curve: list[tuple[int, float]]) -> float:
    """What a curve gained from 80 % of its steps to the end, each as the mean of three validations.

    One validation differs from the next by up to 0.1 dB at a constant learning rate: as much as is asked about.
    """
    last = max(2, len(curve) - 1)
    before = max((number for number, (step, _) in enumerate(curve) if step <= 0.8 * curve[-1][0]), default=0)
    values = [value for _, value in curve]
    return statistics.fmean(values[last - 2 :]) - statistics.fmean(values[max(0, before - 1) : before + 2])


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
    """Reads the runs and writes JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="path without suffix")
    args = parser.parse_args()
    curves = {run.name: read_curves(run) for run in args.runs}
    summary: dict[str, dict[str, float]] = {}
    for run in args.runs:
        seconds = wall_seconds(run)
        summary[run.name] = {"steps": max(c[-1][0] for c in curves[run.name].values()), "seconds": round(seconds)}
        if "val/psnr" in curves[run.name]:
            gain = gain_in_last_fifth(curves[run.name]["val/psnr"])
            summary[run.name] |= {"gain_last_fifth_db": round(gain, 3), "converged": gain < GAIN_DB}
        print(run.name, summary[run.name])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps({"summary": summary, "curves": curves}) + "\n")
    draw(curves, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
