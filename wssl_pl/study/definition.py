"""Definitions of studies: arms, seeds, steps and claims, read from YAML and checked before anything runs.

The options of runs are passed through as they are and not parsed by jsonargparse here: it would change values such as
`5e-4`, which are part of the names of runs, and import the class paths in a file. `wssl study` parses the command line
of every run as `wssl train` will before it starts the first one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from wssl_pl.errors import WSSLError

METRICS = ("psnr_composite", "ssim_composite", "psnr", "ssim")
STAGES = ("pretext", "downstream")
OPTIONS = ("common", *STAGES)
PLOTS = ("figure2", "figure3", "figure4")
ARM_STEPS = ("equal", "total")
DEFINITIONS = Path(__file__).parent / "definitions"

Options = dict[str, Any]
"""Options of `wssl train` by their long names: `model.tasks`, `data.batch_size`, `trainer.precision`."""


@dataclass
class Arm:
    """A setting that is compared with the others.

    Attributes:
        name: unique in the study.
        label: its name in tables.
        pretext: options of its pretext run; None: there is no pretext run.
        downstream: options of its downstream run.
        steps: of the downstream run: `equal` to those of the other arms, or those of both stages together (`total`).
        paper: the paper's metrics, `ssim` and `psnr`.
    """

    name: str
    label: str
    pretext: Options | None
    downstream: Options = field(default_factory=dict)
    steps: str = "equal"
    paper: dict[str, float] = field(default_factory=dict)


@dataclass
class Claim:
    """The claim that some arms are better than others, in the mean over each group.

    Attributes:
        claim: in words.
        better: names of arms.
        than: names of arms.
        metrics: by which it is judged; higher is better.
    """

    claim: str
    better: list[str]
    than: list[str]
    metrics: list[str] = field(default_factory=lambda: ["psnr_composite", "ssim_composite"])


@dataclass
class Section:
    """A table of the report: some arms, the claims about them, and the figures to draw."""

    name: str
    title: str
    arms: list[str]
    claims: list[Claim] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)


@dataclass
class Tuning:
    """A search of one option on the validation split, with the same effort for every arm.

    Attributes:
        option: an option of the downstream stage.
        values: the values to try.
        steps: downstream steps of each trial.
        seed: of the trials, best one that is not reported.
        metric: the validation metric by which a value is chosen; higher is better.
    """

    option: str = "model.lr"
    values: list[float] = field(default_factory=list)
    steps: int = 500
    seed: int = 100
    metric: str = "psnr_composite"


@dataclass
class Study:
    """A study: arms x seeds, with what all runs have in common.

    `omitted` has the labels, by name, of arms that are defined and were not asked for.
    """

    name: str
    sections: list[Section]
    arms: dict[str, Arm]
    seeds: list[int]
    steps: dict[str, int]
    validations: int
    options: dict[str, Options]
    tune: Tuning | None = None
    omitted: dict[str, str] = field(default_factory=dict)


def long_names(options: Mapping[str, Any]) -> Options:
    """Return options whose short names (`tasks`, `weights`, `loss`, `freeze_layers`) are replaced by the model's."""
    return {key if "." in key else f"model.{key}": value for key, value in options.items()}


def find_definition(name: str) -> Path:
    """Return the YAML file of a study: `name` is the path of one, or the name of a shipped definition.

    Raises:
        WSSLError: there is none.
    """
    for path in (Path(name), DEFINITIONS / f"{name}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in DEFINITIONS.glob("*.yaml"))
    raise WSSLError("study", name, "is neither a YAML file nor a shipped study", _suggest(name, known))


def read_study(names: Sequence[str]) -> Study:
    """Return one study of one or more definitions; runs that they have in common are trained once.

    Raises:
        WSSLError: a definition is missing, is not YAML, has an unknown key, or contradicts another one.
    """
    whole, *others = [_Definition(find_definition(name)).study() for name in names]
    for other in others:
        both = f"{whole.name} and {other.name}"
        for part in ("seeds", "steps", "validations", "options", "tune"):
            if getattr(other, part) != getattr(whole, part):
                raise WSSLError(None, None, f"{both} have different {part}", "run them apart, with reuse=DIR")
        for name, arm in other.arms.items():
            if whole.arms.setdefault(name, arm) != arm:
                raise WSSLError(None, None, f"{both} define the arm {name!r} differently", "run them apart")
        whole.sections += other.sections
        whole.name += f"+{other.name}"
    return whole


class _Definition:
    """A YAML file; errors name it, and the line if a key is wrong."""

    KEYS = ("title", "include", "seeds", "steps", "validations", "tune", *OPTIONS, "arms", "claims", "plots")

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_text()
            values = yaml.safe_load(self.text)
        except UnicodeDecodeError:
            raise self.error("is not YAML: it is not text") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            raise self.error(f"is not YAML: {error.problem}", line=mark.line + 1 if mark else None) from None
        self.values = self.check_keys(values, self.KEYS)

    def error(self, reason: str, remedy: str | None = None, line: int | None = None) -> WSSLError:
        return WSSLError("study", self.path, reason if line is None else f"line {line}: {reason}", remedy)

    def check_keys(self, values: Any, known: Iterable[str], where: str = "") -> dict[str, Any]:
        """Return `values`, a mapping with no other keys than the known ones."""
        if not isinstance(values, dict):
            raise self.error(f"{where}is {values!r}", f"give a mapping with {', '.join(known)}")
        for key in values.keys() - set(known):
            found = re.search(rf"(?<!\w){re.escape(str(key))}\s*:", self.text)
            line = self.text[: found.start()].count("\n") + 1 if found else None
            raise self.error(f"{where}unknown key {key!r}", _suggest(str(key), known), line)
        return values

    def study(self) -> Study:
        values = self.values
        arms: dict[str, Arm] = {}
        for included in values.get("include", []):
            arms |= _Definition(find_definition(included)).arms()
        arms |= self.arms()
        if not arms:
            raise self.error("there are no arms")
        claims = [self.claim(claim, arms) for claim in values.get("claims", [])]
        self.check_names("plots: ", values.get("plots", []), PLOTS)
        tune = values.get("tune")
        study = Study(
            name=self.path.stem,
            sections=[Section(self.path.stem, values.get("title", self.path.stem), list(arms), claims,
                              values.get("plots", []))],
            arms=arms,
            seeds=values.get("seeds", [0, 1, 2]),
            steps=self.check_keys(values.get("steps", {}), STAGES, "steps: "),
            validations=values.get("validations", 10),
            options={name: long_names(values.get(name) or {}) for name in OPTIONS},
            tune=None if tune in (None, "none") else Tuning(**self.check_keys(tune, _names(Tuning), "tune: ")),
        )  # fmt: skip
        try:
            check(study)
        except WSSLError as error:
            raise self.error(f"{error.format(error.parameter)}") from None
        return study

    def arms(self) -> dict[str, Arm]:
        arms = {}
        for name, entry in (self.values.get("arms") or {}).items():
            where = f"arm {name}: "
            entry = dict(self.check_keys(entry or {}, _names(Arm)[1:], where))
            if "pretext" not in entry:
                raise self.error(f"{where}pretext is required", "give options such as {tasks: [rotation]}, or none")
            pretext = entry.pop("pretext")
            self.check_names(f"{where}steps: ", [entry.get("steps", "equal")], ARM_STEPS)
            entry["pretext"] = None if pretext in (None, "none") else long_names(pretext)
            entry["downstream"] = long_names(entry.get("downstream") or {})
            arms[name] = Arm(**{"name": name, "label": name} | entry)
        return arms

    def claim(self, values: Any, arms: Mapping[str, Arm]) -> Claim:
        self.check_keys(values, _names(Claim), "claim: ")
        if missing := {"claim", "better", "than"} - values.keys():
            raise self.error(f"claim {values}: {sorted(missing)[0]} is required")
        sides = {side: [values[side]] if isinstance(values[side], str) else values[side] for side in ("better", "than")}
        claim = Claim(**values | sides)
        self.check_names(f"claim {claim.claim!r}: ", [*claim.better, *claim.than], arms)
        self.check_names(f"claim {claim.claim!r}: metrics: ", claim.metrics, METRICS)
        return claim

    def check_names(self, where: str, given: Iterable[str], known: Iterable[str]) -> None:
        for name in given:
            if name not in known:
                raise self.error(f"{where}{name!r} is unknown", _suggest(str(name), known))


def _names(kind: Any) -> list[str]:
    return [one.name for one in fields(kind)]


def _suggest(name: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(name, known, n=1)
    return (f"did you mean {nearest[0]}? " if nearest else "") + f"there are {', '.join(known)}"


def check(study: Study) -> None:
    """Check the numbers of a study.

    Raises:
        WSSLError: no study can have them.
    """
    seeds = study.seeds
    if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) and s >= 0 for s in seeds):
        raise WSSLError("seeds", seeds, "must be a list of numbers of at least 0", "give seeds=[0,1,2]")
    if len(set(seeds)) < len(seeds):
        raise WSSLError("seeds", seeds, "has the same seed twice")
    numbers = {f"steps.{stage}": study.steps.get(stage) for stage in STAGES} | {"validations": study.validations}
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise WSSLError(name, value, "must be a number of at least 1")
    if study.tune is not None and (len(study.tune.values) < 2 or study.tune.steps < 1):
        raise WSSLError("tune", None, "needs two or more values, and at least 1 step of a trial")
