"""What `wssl study where` found, as a table, and what follows from it for somebody's data.

The table is written by `benchmarks/where.py` from the study's results, and is missing until there are some.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import Any

from wssl_pl.records import read_json
from wssl_pl.study.definition import Arm, Study, read_studies
from wssl_pl.study.plan import as_text

TABLE = Path(__file__).with_name("advice.json")
FEW_PAIRS, DAMAGED = "few_pairs", "damaged"
PLAIN = {FEW_PAIRS: "scratch", DAMAGED: "blind"}
"""The arm without a pretext at equal seconds, by case."""
RIVAL = {FEW_PAIRS: "inpainting", DAMAGED: "restoring"}
"""The pretext without heads: weighted tasks have to beat it."""
TARGETS = "Train on CLEAN, images without these damages: they are what the network learns to give back"
MIN_DAMAGED = 0.5  # fraction of the images in which a head sees a damage


@dataclass(frozen=True)
class Gain:
    """The difference of an arm's PSNR in dB to another arm's, with its 95 % interval over seeds and images."""

    mean: float
    low: float
    high: float
    p_exact: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:+.2f} dB [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True)
class Row:
    """An arm of the study.

    Attributes:
        label: its name.
        seeds: how many were measured.
        psnr: mean in dB, of the composite or of the restored image.
        lpips: mean; None where it was not measured.
        gain: over the plain arm; None of that itself, and with too few seeds.
        over_rival: over the pretext without heads; None of the plain arm and of the rival itself.
        advisable: whether it may be recommended: not an oracle, which no photo can be given to, nor an arm that had
            other seconds than the plain one, had not converged, or lacks seeds.
        options: of the downstream stage, chosen by the study's search.
    """

    label: str
    seeds: int
    psnr: float
    lpips: float | None = None
    gain: Gain | None = None
    over_rival: Gain | None = None
    advisable: bool = True
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """What the study found.

    Attributes:
        about: images, size and network, in words.
        few_pairs: rows by number of training images and arm.
        damaged: rows by arm.
    """

    about: str
    few_pairs: dict[str, dict[str, Row]] = field(default_factory=dict)
    damaged: dict[str, Row] = field(default_factory=dict)


def read_findings(path: Path | None = None) -> Findings | None:
    """Return the findings of a table, by default that of the package; None while there is none."""
    path = path or TABLE
    if not path.is_file():
        return None
    findings: Findings = read_json(path, Findings, "advice", "install the package again")
    return findings


def advise(findings: Findings | None, images: int, damaged: Mapping[str, float]) -> list[str]:
    """Return the advice for somebody's data, in lines.

    Args:
        findings: of the study.
        images: how many images there are for training.
        damaged: fraction of the images in which a head sees a damage, by task; empty where nothing has looked.
    """
    seen = {name: fraction for name, fraction in damaged.items() if fraction >= MIN_DAMAGED}
    case = DAMAGED if seen else FEW_PAIRS
    if findings is None or not getattr(findings, case):
        what = f"damaged images ({', '.join(seen)})" if seen else f"{images:,} training images"
        return [
            f"The study has not covered this case yet: {what}",
            *_plain("It is not known here whether a pretext helps", seen),
        ]
    if case == DAMAGED:
        known = next(iter(read_studies(["where"], [DAMAGED]).values())).restore
        other = [name for name in seen if name not in known]
        notes = [f"The study covers {', '.join(known)}, not {', '.join(other)}"] if other else []
        rows, shown = findings.damaged, f"damages of {', '.join(known)}"
    else:
        counts = sorted(map(int, findings.few_pairs))
        nearest = min(counts, key=lambda count: abs(log(count / max(images, 1))))
        outside = not counts[0] <= images <= counts[-1]
        covered = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
        notes = [f"The study covers {covered} training images, not {images:,}"] if outside else []
        rows, shown = findings.few_pairs[str(nearest)], f"{nearest:,} training images"
    best = choose(rows, case)
    lines = [f"Measured with {shown}: {findings.about}", *notes]
    lines += [f"  {row.label}: {row.psnr:.2f} dB" + (f", {row.gain}" if row.gain else "") for row in rows.values()]
    if best is None:
        return [*lines, *_plain("No pretext is shown to help", seen)]
    recommended = f"Recommended: {rows[best].label}, {rows[best].gain}"
    return [*lines, recommended, *([TARGETS] if seen else []), *commands(best, case, rows[best].options)]


def choose(rows: Mapping[str, Row], case: str) -> str | None:
    """Return the best arm whose gain is clear of 0, that over the rival too; None where none is shown to help.

    The gains are not corrected for the number of arms: the study's verdicts are.
    """
    helps = {name: row.gain for name, row in rows.items() if row.advisable and row.gain and row.gain.low > 0}
    for name in sorted(helps, key=lambda name: -helps[name].mean):
        over = rows[name].over_rival
        if name == RIVAL[case] or RIVAL[case] not in rows or (over is not None and over.low > 0):
            return name
    return None


def commands(name: str, case: str, chosen: Mapping[str, Any]) -> list[str]:
    """Return the command lines that train as an arm of the study did, with the options that its search chose."""
    study = next(iter(read_studies(["where"], [case]).values()))
    arm = study.arms.get(name) or next(arm for full, arm in study.arms.items() if full.rpartition("_")[0] == name)
    ckpt = "none" if arm.pretext is None else "runs/pretext/RUN/best.ckpt"
    lines = [] if arm.pretext is None else [_line(study, "pretext", arm.pretext, "images=POOL masks=DIR")]
    images = "CLEAN" if case == DAMAGED else "DIR"
    return [*lines, _line(study, "downstream", _own(arm) | dict(chosen), f"ckpt={ckpt} images={images} masks=DIR")]


def _own(arm: Arm) -> dict[str, Any]:
    return {key: value for key, value in arm.downstream.items() if key.startswith("model.")}


def _line(study: Study, stage: str, options: Mapping[str, Any], given: str) -> str:
    shared = study.options["common"] | study.options[stage]
    model = {key: value for key, value in shared.items() if key.startswith(("model.", "run."))} | dict(options)
    model.pop("model.probe_steps", None)
    if stage == "downstream" and "ckpt=none" not in given:
        model = {key: value for key, value in model.items() if key not in ("model.width", "model.norm")}
    words = [f"wssl train stage={stage} {given}", *(f"'{key}={as_text(value)}'" for key, value in model.items())]
    return "  " + " ".join(words)


def _plain(reason: str, damages: Collection[str]) -> list[str]:
    images = f"restore={','.join(damages)} images=CLEAN" if damages else "images=DIR"
    return [
        f"{reason}: train from scratch",
        *([TARGETS] if damages else []),
        f"  wssl train --config configs/downstream_psnr.yaml {images} masks=DIR",
    ]
