"""A study's folder made by code, whose true effects are known."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wssl_pl.evaluation.results import Machine, MeasuredPairs, Result, Table
from wssl_pl.study.definition import Arm, Claim, Section, Study, Tuning

STEPS = {"pretext": 2500, "downstream": 1500}
DB_PER_SSIM = 40.0


@dataclass
class FakeArm:
    """What an arm truly is.

    Attributes:
        effect: dB that it is better than the rest.
        pretext: options of its pretext run.
        rise: dB that its curve still gains in the last fifth.
        states: by seed, state and reason of a final run that is not done.
    """

    effect: float = 0.0
    pretext: dict[str, Any] | None = None
    rise: float = 0.0
    paper: dict[str, float] = field(default_factory=dict)
    label: str | None = None
    states: dict[int, tuple[str, str | None]] = field(default_factory=dict)


@dataclass
class Noise:
    """Standard deviations in dB: of what an image does to all arms, of a training run, and of the rest."""

    image: float = 2.0
    run: float = 0.03
    rest: float = 0.3


def one_task(name: str, **given: Any) -> FakeArm:
    return FakeArm(pretext={"model.tasks": [name]}, **given)


def write_study(
    folder: Path,
    arms: dict[str, FakeArm],
    claims: list[Claim],
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    images: int = 60,
    noise: Noise | None = None,
    plots: list[str] | None = None,
    sections: list[Section] | None = None,
    tune: Tuning | None = None,
    pairs_hash: str = "a" * 64,
    seed: int = 0,
    restore: list[str] | None = None,
) -> Path:
    """Writes all that a study leaves except models and pictures; see the module `results` for what that is."""
    noise = noise or Noise()
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    declared = {
        name: Arm(arm.pretext, paper=arm.paper, label=arm.label or name, name=name) for name, arm in arms.items()
    }  # fmt: skip
    sections = sections or [Section("fake", "A fake study", list(arms), claims, plots or [])]
    options: dict[str, dict[str, Any]] = {"common": {"data.image_size": 96}, "pretext": {}, "downstream": {}}
    study = Study("fake", sections, declared, list(seeds), STEPS, 10, options, tune)
    write(folder / "study.json", {"version": 1, "study": asdict(study), "cwd": "/home/someone"})
    runs: dict[str, dict[str, Any]] = {}
    final: dict[str, dict[str, str]] = {}
    hard = generator.normal(24, noise.image, images)
    for name, arm in arms.items():
        for number in seeds:
            needs = []
            if arm.pretext is not None:
                words = "-".join(map(str, [*arm.pretext["model.tasks"], *arm.pretext.get("model.weights", [])]))
                pretext = f"pretext-s{number}-{words}"
                add_run(runs, pretext, "pretext", number, [], name)
                write_status(folder, pretext, STEPS["pretext"], 600.0)
                tasks = [f"val/accuracy/{task}" for task in arm.pretext["model.tasks"]]
                curve = {tag: [[1249, 0.9], [2499, 0.7]] for tag in [*tasks, "val/score"]}
                write(folder / "runs" / pretext / "curve.json", curve)
                needs.append(pretext)
            run = f"downstream-s{number}-{name}"
            add_run(runs, run, "downstream", number, needs, name)
            final.setdefault(name, {})[str(number)] = run
            state, reason = arm.states.get(number, ("done", None))
            if state == "absent":
                continue
            chosen = {tune.option: tune.values[0]} if tune else None
            write_status(folder, run, STEPS["downstream"], 300.0, state, reason, chosen)
            if state == "done":
                level = arm.effect + generator.normal(0, noise.run)
                figures = hard + level + generator.normal(0, noise.rest, images)
                write_evaluation(folder / "runs" / run / "evaluation", figures, pairs_hash, restore)
                write_curve(folder / "runs" / run, level, arm.rise, generator)
        if tune:
            for value in tune.values:
                trial = f"trial-{name}-{value}"
                add_run(runs, trial, "downstream", tune.seed, [], name)
                runs[trial] |= {"trial": True, "options": {tune.option: value}}
                write_status(folder, trial, tune.steps, 60.0)
                best = 20 - value * 1000
                write(folder / "runs" / trial / "curve.json", {f"val/{tune.metric}": [[249, best], [499, best - 1]]})
    write(folder / "plan.json", {"runs": list(runs.values()), "final": final})
    return folder


def add_run(runs: dict[str, Any], name: str, stage: str, seed: int, needs: list[str], arm: str) -> None:
    entry = {"id": name, "stage": stage, "seed": seed, "options": {}, "needs": needs, "steps": STEPS[stage]}
    run = runs.setdefault(name, entry | {"arms": [], "trial": False})
    run["arms"].append(arm)


def write_status(
    folder: Path,
    run: str,
    steps: int,
    seconds: float,
    state: str = "done",
    reason: str | None = None,
    chosen: dict[str, Any] | None = None,
) -> None:
    values = {"state": state, "reason": reason, "seconds": seconds, "steps": steps, "attempts": 1, "chosen": chosen}
    write(folder / "runs" / run / "status.json", values)


def write_evaluation(
    folder: Path,
    psnr: np.ndarray,
    pairs_hash: str = "a" * 64,
    restore: list[str] | None = None,
    names: list[str] | None = None,
) -> None:
    """A result of the evaluator as far as a study reads it; SSIM follows PSNR. Restored images have no composite."""
    psnr, count = np.asarray(psnr), len(psnr)
    values = {"psnr": psnr - 0.5, "psnr_composite": psnr}
    values |= {"ssim": 0.2 + psnr / DB_PER_SSIM, "ssim_composite": 0.25 + psnr / DB_PER_SSIM}
    if restore:
        values = {"psnr": psnr, "ssim": 0.25 + psnr / DB_PER_SSIM, "psnr_hole": psnr - 3, "psnr_known": psnr + 2}
    images = np.array(names or [f"{number:05d}" for number in range(count)])
    columns = np.stack(list(values.values()), axis=1).round(6)
    table = Table(images, np.full(count, 0.4), np.full(count, "30-40"), tuple(values), columns)
    machine = Machine(2, "CPU", "3.12", "2.15", "2.0")
    pairs = MeasuredPairs(folder="pairs", hash=pairs_hash, count=count, evaluated=count, restore=restore or [])
    Result(table, {"name": "fake"}, pairs, machine).save(folder)


def write_curve(folder: Path, level: float, rise: float, generator: np.random.Generator) -> None:
    """Ten validations that climb until 80 % of the steps, and from there by `rise` dB along a straight line."""
    shares = np.linspace(0.1, 1.0, 10)
    values = 23 + level - 4 * np.clip(0.8 - shares, 0, None) ** 2 + rise * np.clip(shares - 0.8, 0, None) / 0.2
    values += generator.normal(0, 0.01, 10)
    points = [[int(share * STEPS["downstream"]) - 1, float(value)] for share, value in zip(shares, values, strict=True)]
    write(folder / "curve.json", {"val/psnr": points, "val/psnr_composite": points})


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
