"""Definitions of studies: arms, seeds, steps and claims, read from YAML and checked before anything runs.

The options of runs are passed through as they are and not parsed by jsonargparse here: it would change values such as
`5e-4`, which are part of the names of runs, and import the class paths in a file. `wssl study` parses the command line
of every run as `wssl train` will before it starts the first one.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from jsonargparse import get_loader

from wssl_pl.errors import WSSLError, there_are
from wssl_pl.records import listed, read_record
from wssl_pl.stages import Rival, Stage

Metric = Literal["psnr_composite", "ssim_composite", "psnr", "ssim"]
Plot = Literal["figure2", "figure3", "figure4"]
METRICS: tuple[Metric, ...] = get_args(Metric)
STAGES: tuple[Stage, ...] = get_args(Stage)
OPTIONS = ("common", *STAGES)
MERGED = ("steps", *OPTIONS)  # of a definition and one of its sections; of all else a section has its own
DEFINITIONS = Path(__file__).parent / "definitions"

Options = dict[str, Any]
"""Options of `wssl train` by their long names: `model.tasks`, `data.batch_size`, `trainer.precision`."""


@dataclass(frozen=True)
class Arm:
    """A setting that is compared with the others.

    Attributes:
        pretext: options of its pretext run; None: there is no pretext run.
        downstream: options of its downstream run.
        rival: the stage that is trained in place of the downstream one, by `common` and the arm's own options; of the
            study's downstream options it has those of the data.
        method: a classical method, which is measured and not trained.
        steps: of the downstream run: `equal` to those of the other arms, or those of both stages together (`total`).
        step_cost: time of one of its downstream steps, as a multiple of the plain arm's. It gets so many fewer steps,
            so that all arms train for equal seconds.
        pretext_cost: the same of its pretext steps.
        paper: the paper's metrics, `ssim` and `psnr`.
        label: its name in tables.
        name: unique in the study.
    """

    pretext: Options | None = field(metadata={"example": "give options such as {tasks: [rotation]}, or none"})
    downstream: Options = field(default_factory=dict)
    rival: Rival | None = None
    method: str | None = None
    steps: Literal["equal", "total"] = "equal"
    step_cost: float = 1.0
    pretext_cost: float = 1.0
    paper: dict[str, float] = field(default_factory=dict)
    label: str = ""
    name: str = ""


@dataclass(frozen=True)
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
    metrics: list[Metric] = field(default_factory=lambda: ["psnr_composite", "ssim_composite"])


@dataclass(frozen=True)
class Section:
    """A table of the report: some arms, the claims about them, and the figures to draw.

    Of `omitted_claims` some arms are not trained (`arms=`): Holm's correction counts them all the same, so that a study
    that is run arm by arm is as strict as the whole one.
    """

    name: str
    title: str
    arms: list[str]
    claims: list[Claim] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    omitted_claims: int = 0


@dataclass(frozen=True)
class Tuning:
    """A search of one option on the validation split, with the same effort for every arm.

    Attributes:
        option: an option of the downstream stage.
        values: the values to try.
        steps: downstream steps of each trial.
        seed: of the trials, best one that is not reported.
        metric: the validation metric by which a value is chosen; higher is better.
        downstream: options of every trial in place of the arm's own, so that arms that differ in these alone share
            their trials.
    """

    option: str = "model.lr"
    values: list[float] = field(default_factory=list)
    steps: int = 500
    seed: int = 100
    metric: Metric = "psnr_composite"
    downstream: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Vary:
    """A downstream option whose values every arm, and every claim, is repeated for: `scratch` becomes `scratch_50`, ...

    Attributes:
        option: such as `data.train_images`.
        values: of it.
        label: what a value adds to labels and claims.
    """

    option: str
    values: list[Any]
    label: str = "{}"


@dataclass
class Study:
    """A study: arms x seeds, with what all runs have in common.

    `omitted` has the labels, by name, of arms that are defined and were not asked for; `out_of_domain` is a folder of
    pairs `SET-NAME` on which every trained arm is measured too, none if it is empty.
    """

    name: str
    sections: list[Section]
    arms: dict[str, Arm]
    seeds: list[int]
    steps: dict[Stage, int]
    validations: int
    options: dict[str, Options]
    tune: Tuning | None = None
    omitted: dict[str, str] = field(default_factory=dict)
    out_of_domain: str = ""
    seconds: str = "equal"
    convergence: str = "required"

    @property
    def restore(self) -> list[str]:
        """The damages of the test pairs' inputs, those that the arms undo; none without `model.restore`."""
        return next((_damages(self, arm) for arm in self.arms.values()), [])

    @property
    def undamaged(self) -> float:
        """The probability that a damage leaves an input as it is, by `model.undamaged` of the first arm."""
        options = next((downstream_options(self, arm) for arm in self.arms.values()), {})
        return float(options.get("model.undamaged") or 0.0)


@dataclass(frozen=True)
class Definition:
    """A YAML file; the arms of the definitions in `include` come before its own.

    `seconds` states that all arms train for `equal` seconds, or that they do not; without it their steps and declared
    costs have to show it. With `convergence: reported` claims are about the declared steps: an arm that had not
    converged takes part in verdicts, which say so. Each of `sections` is a study of its own, a definition that adds to
    this one.
    """

    title: str = ""
    include: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    steps: dict[Stage, int] = field(default_factory=dict)
    validations: int = 10
    tune: Tuning | None = None
    common: Options = field(default_factory=dict)
    pretext: Options = field(default_factory=dict)
    downstream: Options = field(default_factory=dict)
    arms: dict[str, Arm] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    vary: Vary | None = None
    out_of_domain: str = ""
    seconds: Literal["equal", "unequal"] | None = None
    convergence: Literal["required", "reported"] = "required"
    sections: dict[str, Any] = field(default_factory=dict)


def downstream_options(study: Study, arm: Arm) -> Options:
    """Return the options of an arm's downstream run; of those of the study a rival takes no option of the model."""
    shared = study.options["downstream"]
    if arm.rival is not None:
        shared = {key: value for key, value in shared.items() if not key.startswith("model.")}
    return study.options["common"] | shared | arm.downstream


def _damages(study: Study, arm: Arm) -> list[str]:
    return [str(name) for name in downstream_options(study, arm).get("model.restore") or []]


def without_composites(study: Study) -> Study:
    """Return a study whose metrics are those of whole outputs if its inputs are damaged: they have no composite."""
    if not study.restore:
        return study

    def raw(metrics: Sequence[Metric]) -> list[Metric]:
        return [name for name in METRICS if name in {metric.removesuffix("_composite") for metric in metrics}]

    sections = [
        replace(section, claims=[replace(claim, metrics=raw(claim.metrics)) for claim in section.claims])
        for section in study.sections
    ]
    tune = study.tune and replace(study.tune, metric=raw([study.tune.metric])[0])
    return replace(study, sections=sections, tune=tune)


def long_names(options: Mapping[str, Any]) -> Options:
    """Return options whose short names (`tasks`, `weights`, `loss`, `freeze_layers`) are replaced by the model's.

    Names that were typed as `saturation,sharpness` become a list.
    """
    named = {key if "." in key else f"model.{key}": value for key, value in options.items()}
    typed = {key: value for key in ("model.tasks", "model.restore") if isinstance(value := named.get(key), str)}
    return named | {key: listed(value) for key, value in typed.items()}


def find_definition(name: str) -> Path:
    """Return the YAML file of a study: `name` is the path of one, or the name of a shipped definition.

    Raises:
        WSSLError: there is none.
    """
    for path in (Path(name), DEFINITIONS / f"{name}.yaml"):
        if os.path.isfile(path):  # noqa: PTH113 (unlike `is_file`, False for names that no file can have)
            return path
    known = sorted(path.stem for path in DEFINITIONS.glob("*.yaml"))
    raise WSSLError("study", name, "is neither a YAML file nor a shipped study", there_are(known, name))


def read_study(names: Sequence[str]) -> Study:
    """Return one study of one or more definitions; runs that they have in common are trained once.

    Raises:
        WSSLError: a definition is missing, is not YAML, has an unknown key or a value of another type, or contradicts
            itself or another one.
    """
    given = {path: read_definition(path) for path in map(find_definition, names)}
    whole, *others = [_make_study(path, definition, path.stem) for path, definition in given.items()]
    for other in others:
        both = f"{whole.name} and {other.name}"
        for part in ("seeds", "steps", "validations", "options", "tune", "out_of_domain", "convergence"):
            if getattr(other, part) != getattr(whole, part):
                raise WSSLError(None, None, f"{both} have different {part}", "run them apart, with reuse=DIR")
        for name, arm in other.arms.items():
            if whole.arms.setdefault(name, arm) != arm:
                raise WSSLError(None, None, f"{both} define the arm {name!r} differently", "run them apart")
        whole.sections += other.sections
        whole.name += f"+{other.name}"
        if other.seconds == "unequal":
            whole.seconds = other.seconds
    if not any(definition.seconds for definition in given.values()):
        try:
            check_seconds(whole)
        except WSSLError:  # each by itself is equal
            whole.seconds = "unequal"
    return whole


def read_studies(names: Sequence[str], sections: Sequence[str] | None = None) -> dict[str, Study]:
    """Return the studies of one definition with sections by section, in its order; of others the one study, by "".

    Args:
        names: as `read_study` takes them.
        sections: which; default: all.

    Raises:
        WSSLError: as `read_study`; or there is no such section, or something else beside a definition with sections.
    """
    path = find_definition(names[0])
    known = read_definition(path).sections
    if unknown := [name for name in sections or [] if name not in known]:
        remedy = f"there are {', '.join(known)}" if known else "omit it"
        raise WSSLError("sections", unknown[0], f"{path.stem} has no such section", remedy)
    if not known:
        return {"": read_study(names)}
    if len(names) > 1:
        raise WSSLError("study", path.stem, "has sections", "run it alone")
    return {
        name: _make_study(path, read_definition(path, name), f"{path.stem}_{name}")
        for name in known
        if sections is None or name in sections
    }


def _make_study(path: Path, given: Definition, called: str) -> Study:
    if given.sections:
        raise WSSLError("study", path.stem, "has sections", "run it alone")
    arms: dict[str, Arm] = {}
    for definition in (*map(read_definition, map(find_definition, given.include)), given):
        for name, arm in definition.arms.items():
            pretext = None if arm.pretext is None else long_names(arm.pretext)
            downstream = long_names(arm.downstream)
            arms[name] = replace(arm, name=name, label=arm.label or name, pretext=pretext, downstream=downstream)
    claims = given.claims
    if given.vary is not None:
        arms, claims = varied(given.vary, arms, claims)
    section = Section(called, given.title or called, list(arms), claims, given.plots)
    options = {name: long_names(getattr(given, name)) for name in OPTIONS}
    tune = given.tune and replace(given.tune, downstream=long_names(given.tune.downstream))
    study = Study(
        called, [section], arms, given.seeds, given.steps, given.validations, options, tune,
        out_of_domain=given.out_of_domain, seconds=given.seconds or "equal", convergence=given.convergence,
    )  # fmt: skip
    try:
        check(study)
        if given.seconds is None:
            check_seconds(study)
    except WSSLError as error:
        raise WSSLError("study", path, str(error)) from None
    return study


def varied(vary: Vary, arms: Mapping[str, Arm], claims: Sequence[Claim]) -> tuple[dict[str, Arm], list[Claim]]:
    """Return every arm and every claim with each value of an option."""
    found: dict[str, Arm] = {}
    said: list[Claim] = []
    for value in vary.values:
        label, option = vary.label.format(value), long_names({vary.option: value})
        for name, arm in arms.items():
            full = f"{name}_{value}"
            downstream = arm.downstream | option
            found[full] = replace(arm, name=full, label=f"{arm.label}, {label}", downstream=downstream)
        for claim in claims:
            better, than = ([f"{name}_{value}" for name in side] for side in (claim.better, claim.than))
            said.append(replace(claim, claim=f"{claim.claim}, {label}", better=better, than=than))
    return found, said


def check_seconds(study: Study) -> None:
    """Check that all trained arms have equal seconds by their declared steps and costs.

    Raises:
        WSSLError: they have not.
    """
    steps = {
        arm.name: study.steps["downstream"]
        + (study.steps["pretext"] if arm.pretext is not None or arm.steps == "total" else 0)
        for arm in study.arms.values()
        if arm.method is None
    }
    if len(set(steps.values())) > 1:
        least, most = min(steps, key=steps.__getitem__), max(steps, key=steps.__getitem__)
        reason = f"arm {least} trains for the time of {steps[least]:,} plain steps, arm {most} of {steps[most]:,}"
        remedy = "give `steps: total` to arms without a pretext, or `seconds: unequal` (or `equal`, by their step_cost)"
        raise WSSLError("seconds", None, reason, remedy)


def read_definition(path: Path, section: str | None = None) -> Definition:
    """Return what a YAML file holds, or one of its sections with what it adds to.

    Raises:
        WSSLError: it cannot be read, is not YAML, or has an unknown key or a value of another type; the message names
            the file, and the line if a key is unknown.
    """
    text = ""
    try:
        text = path.read_text()
        values = get_loader("yaml")(text)  # jsonargparse's, to which 1e-3 is a number as on the command line
    except OSError as error:
        raise WSSLError("study", path, f"cannot be read: {error.strerror}") from None
    except Exception as error:  # PyYAML's constructors raise what the types do that they make
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        where = f"line {mark.line + 1}: " if mark else ""
        raise WSSLError("study", path, f"{where}is not YAML: {reason}") from None
    try:
        definition: Definition = read_record(Definition, values)
        if section is not None:
            own: Definition = read_record(Definition, definition.sections[section], section)
            merged = {key: getattr(definition, key) | getattr(own, key) for key in MERGED}
            given = {key: getattr(own, key) for key in definition.sections[section]}
            definition = replace(definition, **({"sections": own.sections} | given | merged))
    except WSSLError as error:
        found = re.search(rf"(?<!\w){re.escape(str(error.value))}\s*:", text) if error.value is not None else None
        where = f"line {text[: found.start()].count(chr(10)) + 1}: " if found else ""
        raise WSSLError("study", path, f"{where}{error.reason}", error.remedy) from None
    return definition


def check(study: Study) -> None:
    """Check the numbers of a study, and the names in it.

    Raises:
        WSSLError: no study can have them.
    """
    if not study.arms:
        raise WSSLError(None, None, "there are no arms")
    if not study.seeds or min(study.seeds) < 0:
        raise WSSLError("seeds", study.seeds, "must be a list of numbers of at least 0", "give seeds=[0,1,2]")
    if len(set(study.seeds)) < len(study.seeds):
        raise WSSLError("seeds", study.seeds, "has the same seed twice")
    numbers = {f"steps.{stage}": study.steps.get(stage, 0) for stage in STAGES} | {"validations": study.validations}
    for name, value in numbers.items():
        if value < 1:
            raise WSSLError(name, value, "must be a number of at least 1")
    for arm in study.arms.values():
        # A study's steps are a day of training at most: outside of these a run has none, or all of them.
        alone = [name for name in ("rival", "method") if getattr(arm, name) is not None]
        if len(alone) > 1 or (alone and arm.pretext is not None):
            other = alone[1] if len(alone) > 1 else "pretext"
            raise WSSLError(alone[0], getattr(arm, alone[0]), f"arm {arm.name}: has no {other}", "make two arms of it")
        if not 0.01 <= arm.step_cost <= 100.0:
            remedy = "give the measured ratio, such as 1.4"
            raise WSSLError("step_cost", arm.step_cost, f"arm {arm.name}: must be between 0.01 and 100", remedy)
        if not 0.01 <= arm.pretext_cost <= 100.0:
            raise WSSLError("pretext_cost", arm.pretext_cost, f"arm {arm.name}: must be between 0.01 and 100")
    for arm in study.arms.values():
        damages = _damages(study, arm)
        if set(damages) != set(study.restore):
            first, own = (", ".join(names) or "nothing" for names in (study.restore, damages))
            reason = f"arm {arm.name} restores {own}, the first arm {first}: all arms are measured on the same inputs"
            raise WSSLError("restore", None, reason, "give one restore for all, or run them apart")
    if study.tune is not None and (len(study.tune.values) < 2 or study.tune.steps < 1):
        raise WSSLError("tune", None, "needs two or more values, and at least 1 step of a trial")
    for section in study.sections:
        for claim in section.claims:
            if empty := [name for name in ("better", "than", "metrics") if not getattr(claim, name)]:
                raise WSSLError(empty[0], None, f"the claim {claim.claim!r} has none", "name at least one")
        for name in [*section.arms, *(arm for claim in section.claims for arm in (*claim.better, *claim.than))]:
            if name not in study.arms:
                reason = f"{section.name}: there is no arm {name!r}"
                raise WSSLError(None, None, reason, there_are(study.arms, name))
