"""What a study declares: arms, seeds, steps and claims, read from YAML and checked before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from wssl_pl.errors import UsageError

FIGURES = ("psnr_composite", "ssim_composite", "psnr", "ssim")
STAGES = ("pretext", "downstream")
OPTIONS = ("common", *STAGES)
STUDY_KEYS = {"title", "include", "seeds", "steps", "validations", "tune", *OPTIONS, "arms", "claims", "plots"}
ARM_KEYS = {"label", "pretext", "downstream", "steps", "paper"}
CLAIM_KEYS = {"claim", "better", "than", "figures"}
TUNE_KEYS = {"option", "values", "steps", "seed", "figure"}
STEPS = ("equal", "total")
DEFINITIONS = Path(__file__).parent / "definitions"
PLOTS = ("figure2", "figure3", "figure4")

Options = dict[str, Any]
"""Options of `wssl train` by their long names: `model.tasks`, `data.batch_size`, `trainer.precision`."""


@dataclass
class Arm:
    """One setting that is compared with the others.

    Attributes:
        name: unique in the study.
        label: how tables call it.
        pretext: options of its pretext run, or None: no pretext.
        downstream: options of its downstream run.
        steps: downstream steps: `equal` to the other arms', or as many as pretext and downstream together (`total`).
        paper: the paper's figures, `ssim` and `psnr`.
    """

    name: str
    label: str
    pretext: Options | None
    downstream: Options = field(default_factory=dict)
    steps: str = "equal"
    paper: dict[str, float] = field(default_factory=dict)


@dataclass
class Claim:
    """That some arms are better than others, in the mean over each group.

    Attributes:
        claim: in words.
        better: names of arms.
        than: names of arms.
        figures: which of the evaluator's figures decide, the higher the better.
    """

    claim: str
    better: list[str]
    than: list[str]
    figures: list[str] = field(default_factory=lambda: ["psnr_composite", "ssim_composite"])


@dataclass
class Section:
    """A table or a figure of the report: some arms, and what is claimed of them."""

    name: str
    title: str
    arms: list[str]
    claims: list[Claim] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)


@dataclass
class Tuning:
    """A search of one option on the validation split, with the same effort for every arm.

    Attributes:
        option: name of an option of the downstream stage.
        values: what is tried.
        steps: downstream steps of each trial.
        seed: seed of the trials, best one that is not reported.
        figure: the validation figure that decides, the higher the better.
    """

    option: str = "model.lr"
    values: list[float] = field(default_factory=list)
    steps: int = 500
    seed: int = 100
    figure: str = "psnr_composite"


@dataclass
class Study:
    """A declared study: arms x seeds, with what all runs share.

    `left_out` holds the labels, by name, of arms that are declared too and were not asked for.
    """

    name: str
    sections: list[Section]
    arms: dict[str, Arm]
    seeds: list[int]
    steps: dict[str, int]
    validations: int
    options: dict[str, Options]
    tune: Tuning | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """In plain types, for `study.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Study":
        """What `as_dict` gave."""
        sections = [
            Section(**{**section, "claims": [Claim(**claim) for claim in section["claims"]]})
            for section in values["sections"]
        ]
        arms = {name: Arm(**arm) for name, arm in values["arms"].items()}
        tune = Tuning(**values["tune"]) if values["tune"] else None
        return cls(**{**values, "sections": sections, "arms": arms, "tune": tune})


def long_names(options: Mapping[str, Any]) -> Options:
    """Options whose short names (`tasks`, `weights`, `loss`, `freeze_layers`) are the model's."""
    return {key if "." in key else f"model.{key}": value for key, value in options.items()}


def find_definition(name: str) -> Path:
    """Return the YAML file of a study: `name` is the path of one, or the name of a shipped definition.

    Raises:
        UsageError: there is none.
    """
    shipped = DEFINITIONS / f"{name}.yaml"
    for path in (Path(name), shipped):
        if path.is_file():
            return path
    known = sorted(path.stem for path in DEFINITIONS.glob("*.yaml"))
    nearest = get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise UsageError(f"study {name!r} is neither a YAML file nor a shipped study; {hint}there are {', '.join(known)}")


def read_study(names: Sequence[str]) -> Study:
    """One study of one or more definitions; runs that they have in common are trained once.

    Raises:
        UsageError: a definition is missing, is not YAML, has an unknown key, or contradicts another one.
    """
    studies = [_read(find_definition(name)) for name in names]
    whole = studies[0]
    for other in studies[1:]:
        for part in ("seeds", "steps", "validations", "options", "tune"):
            if getattr(other, part) != getattr(whole, part):
                raise UsageError(
                    f"{whole.name} and {other.name} have different {part}: run them apart, with reuse= for what they "
                    "share"
                )
        for name, arm in other.arms.items():
            if whole.arms.setdefault(name, arm) != arm:
                raise UsageError(f"{whole.name} and {other.name} mean different things by the arm {name!r}")
        whole.sections += other.sections
        whole.name += f"+{other.name}"
    return whole


def _read(path: Path) -> Study:
    values = _load(path)
    _known(values, STUDY_KEYS, str(path))
    arms: dict[str, Arm] = {}
    for included in values.get("include", []):
        inner = _load(find_definition(included))
        arms |= _arms(inner.get("arms", {}), included)
    arms |= _arms(values.get("arms", {}), str(path))
    if not arms:
        raise UsageError(f"{path}: there are no arms")
    claims = [_claim(claim, arms, path) for claim in values.get("claims", [])]
    for plot in values.get("plots", []):
        if plot not in PLOTS:
            raise UsageError(f"{path}: plots: {plot!r} is not one of {', '.join(PLOTS)}")
    section = Section(path.stem, values.get("title", path.stem), list(arms), claims, values.get("plots", []))
    base = {name: long_names(values.get(name) or {}) for name in OPTIONS}
    tune = values.get("tune")
    tune = None if tune == "none" else tune
    if tune is not None:
        _known(tune, TUNE_KEYS, f"{path}: tune")
    study = Study(
        name=path.stem,
        sections=[section],
        arms=arms,
        seeds=values.get("seeds", [0, 1, 2]),
        steps=values.get("steps", {}),
        validations=values.get("validations", 10),
        options=base,
        tune=Tuning(**tune) if tune else None,
    )
    check(study, str(path))
    return study


def check(study: Study, source: str) -> None:
    """Raises `UsageError` for numbers that no study can have; `source` says whose they are."""
    seeds = study.seeds
    if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) and s >= 0 for s in seeds):
        raise UsageError(f"{source}: seeds={seeds}: give a list of numbers from 0 on, such as [0,1,2]")
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"{source}: seeds={seeds}: the same seed twice is not two runs")
    _known(study.steps, set(STAGES), f"{source}: steps")
    for stage in STAGES:
        steps = study.steps.get(stage)
        if not isinstance(steps, int) or steps < 1:
            raise UsageError(f"{source}: steps.{stage}={steps}: give the number of training steps")
    if not isinstance(study.validations, int) or study.validations < 1:
        raise UsageError(f"{source}: validations={study.validations}: give how often a run is validated")
    if study.tune is not None and (len(study.tune.values) < 2 or study.tune.steps < 1):
        raise UsageError(f"{source}: tune: give two or more values and the steps of a trial")


def _load(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} does not declare a study: it needs arms, seeds and steps")
    return values


def _known(values: Any, known: set[str], where: str) -> None:
    if not isinstance(values, dict):
        raise UsageError(f"{where}: expected names with values, not {values!r}")
    for key in values:
        if key not in known:
            nearest = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise UsageError(f"{where}: unknown key {key!r}; {hint}there are {', '.join(sorted(known))}")


def _arms(values: Any, source: str) -> dict[str, Arm]:
    arms = {}
    for name, entry in (values or {}).items():
        entry = entry or {}
        _known(entry, ARM_KEYS, f"{source}: arm {name}")
        if "pretext" not in entry:
            raise UsageError(f"{source}: arm {name}: say its pretext: options such as {{tasks: [rotation]}}, or none")
        pretext = None if entry["pretext"] in (None, "none") else entry["pretext"]
        if entry.get("steps", "equal") not in STEPS:
            raise UsageError(f"{source}: arm {name}: steps={entry['steps']} is neither equal nor total")
        given = {key: entry[key] for key in ("steps", "paper") if key in entry}
        downstream = long_names(entry.get("downstream") or {})
        pretext = None if pretext is None else long_names(pretext)
        arms[name] = Arm(name, entry.get("label", name), pretext, downstream, **given)
    return arms


def _claim(values: Any, arms: Mapping[str, Arm], path: Path) -> Claim:
    _known(values, CLAIM_KEYS, f"{path}: claim")
    given: dict[str, Any] = {
        key: [value] if key in ("better", "than") and isinstance(value, str) else value for key, value in values.items()
    }
    try:
        claim = Claim(**given)
    except TypeError:
        raise UsageError(f"{path}: a claim needs claim, better and than; {values} lacks one") from None
    for name in (*claim.better, *claim.than):
        if name not in arms:
            raise UsageError(f"{path}: the claim {claim.claim!r} names {name!r}, which is not an arm")
    for figure in claim.figures:
        if figure not in FIGURES:
            raise UsageError(f"{path}: the claim {claim.claim!r}: {figure!r} is not one of {', '.join(FIGURES)}")
    return claim
