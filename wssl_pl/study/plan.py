"""From a study to its runs: what each trains, what it needs first, and which arms share it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from wssl_pl.stages import Rival, Stage
from wssl_pl.study.definition import OPTIONS, Arm, Options, Study, downstream_options, long_names

# Options that say nothing new, so that the run of `loss: wssl` is that of an arm without a loss.
NUMBERS = ("data.hole_ratio", "model.betas", "model.weights")  # options that take a list of numbers
DEFAULTS: dict[str, Any] = {"model.loss": "wssl", "model.freeze_layers": 16}
RunStage = Literal[Stage, Rival, "method"]
State = Literal["waiting", "running", "done", "failed", "skipped"]
ENDED: tuple[State, ...] = ("done", "failed", "skipped")


@dataclass(frozen=True)
class Status:
    """The state of a run, as in its `status.json`.

    Attributes:
        state: `waiting`, `running`, `done`, `failed` (by an error of its own) or `skipped` (what it needs failed).
        reason: of a failure, in one line.
        seconds: of training, over all attempts.
        steps: trained so far.
        attempts: how often the training was started.
        chosen: the option that the search chose.
        wall_seconds: of training and evaluation, over all attempts.
        cpu_seconds: processor time of the same.
    """

    state: State = "waiting"
    reason: str | None = None
    seconds: float = 0.0
    steps: int = 0
    attempts: int = 0
    chosen: Options | None = None
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Run:
    """A training run with its state, and the evaluation that follows a downstream run.

    Attributes:
        id: stage, seed and a hash of everything that decides the outcome.
        stage: what is trained; `method` for a classical method, which is measured and not trained.
        seed: of initialisation, order and augmentation.
        options: of `wssl train`; `ckpt` and the option that the search chooses are added when it starts.
        steps: training steps.
        needs: ids of the runs that have to end first.
        arms: names of the arms that it belongs to.
        pretext: id of the run that trains its encoder.
        chooses: ids of the trials by the value of the searched option.
        trial: whether it is such a trial, which no table shows.
        status: its state.
    """

    id: str
    stage: RunStage
    seed: int
    options: Options
    steps: int
    needs: list[str] = field(default_factory=list)
    arms: list[str] = field(default_factory=list)
    pretext: str | None = None
    chooses: dict[str, str] | None = None
    trial: bool = False
    status: Status = field(default_factory=Status)

    @property
    def reported(self) -> bool:
        """Whether the run is measured on the test pairs, for the report."""
        return self.stage != "pretext" and not self.trial

    def arguments(self, validations: int) -> list[str]:
        """Return the command line of `wssl train` without directory and checkpoint."""
        # A trial is judged by the best of two validations, at half of its steps and at the end.
        validations = min(validations, 2) if self.trial else validations
        given: Options = {"stage": self.stage, "seed_everything": self.seed, **self.options}
        given |= {
            "trainer.max_epochs": -1,
            "trainer.max_steps": self.steps,
            # In steps and across epochs. The last validation comes with the last step if `validations` divides the
            # steps, and less than one interval before it otherwise.
            "trainer.check_val_every_n_epoch": None,
            "trainer.val_check_interval": max(1, self.steps // validations),
        }
        return [f"{key}={as_text(value)}" for key, value in given.items()]


@dataclass(frozen=True)
class Plan:
    """All runs of a study in the order in which they are trained, and each arm's reported run by seed."""

    runs: dict[str, Run]
    final: dict[str, dict[int, str]]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan in plain types, for `plan.json`, without the states of the runs."""
        runs = [{key: value for key, value in asdict(run).items() if key != "status"} for run in self.runs.values()]
        return {"runs": runs, "final": self.final}


@dataclass(frozen=True)
class PlanFile:
    """What `plan.json` holds."""

    runs: list[Run]
    final: dict[str, dict[int, str]]


def make_plan(study: Study) -> Plan:
    """Return the runs of a study; a pretext run that several arms need is there once."""
    plan = Plan({}, {name: {} for name in study.arms})
    for arm in study.arms.values():
        for seed in study.seeds:
            for run in _arm_runs(study, arm, seed):
                known = plan.runs.get(run.id, run)
                arms = known.arms if arm.name in known.arms else [*known.arms, arm.name]
                plan.runs[run.id] = replace(known, arms=arms)
                plan.final[arm.name][seed] = run.id  # the last one stays
    return plan


def _arm_runs(study: Study, arm: Arm, seed: int) -> Iterator[Run]:
    """Yield the runs of an arm for one seed, the reported one last."""
    if arm.method is not None:
        yield _named(Run("", "method", study.seeds[0], {"method": arm.method}, 0))  # the same for all seeds
        return
    chooses: dict[str, str] = {}
    if study.tune is not None:
        # The trials share one pretext run, of the search's own seed.
        pretext = _pretext(study, arm, study.tune.seed, trial=study.tune.seed not in study.seeds)
        if pretext is not None:
            yield pretext
        for value in study.tune.values:
            chosen = {study.tune.option: value}
            steps, tried = _affordable(study.tune.steps, arm), study.tune.downstream | chosen
            trial = _downstream(study, arm, study.tune.seed, pretext, steps, tried)
            yield replace(trial, trial=True)
            chooses[str(value)] = trial.id
    pretext = _pretext(study, arm, seed)
    if pretext is not None:
        yield pretext
    steps = study.steps["downstream"] + (study.steps["pretext"] if arm.steps == "total" else 0)
    yield _downstream(study, arm, seed, pretext, _affordable(steps, arm), {}, chooses or None)


def _affordable(steps: int, arm: Arm) -> int:
    """Return the steps that an arm makes in the time in which the plain one makes `steps`."""
    return max(1, round(steps / arm.step_cost))


def _pretext(study: Study, arm: Arm, seed: int, trial: bool = False) -> Run | None:
    if arm.pretext is None:
        return None
    options = study.options["common"] | study.options["pretext"] | arm.pretext
    steps = max(1, round(study.steps["pretext"] / arm.pretext_cost))
    return _named(Run("", "pretext", seed, options, steps, trial=trial))


def _downstream(
    study: Study,
    arm: Arm,
    seed: int,
    pretext: Run | None,
    steps: int,
    chosen: Options,
    chooses: dict[str, str] | None = None,
) -> Run:
    options = downstream_options(study, arm) | chosen
    options = {key: value for key, value in options.items() if key not in DEFAULTS or DEFAULTS[key] != value}
    if pretext is not None:
        # Both are the encoder's, and come with the checkpoint.
        options = {key: value for key, value in options.items() if key not in ("model.width", "model.norm")}
    needs = [*([pretext.id] if pretext else []), *(chooses or {}).values()]
    source = pretext.id if pretext else None
    return _named(Run("", arm.rival or "downstream", seed, options, steps, needs, pretext=source, chooses=chooses))


def _named(run: Run) -> Run:
    decides = [run.stage, run.seed, run.options, run.steps, run.pretext, run.chooses]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:10]
    return replace(run, id=f"{run.stage}-s{run.seed}-{digest}")


def split_options(options: Options) -> dict[str, Options]:
    """Return the options typed for a study by stage: `pretext.KEY` and `downstream.KEY`, the rest for both."""
    parts: dict[str, Options] = {name: {} for name in OPTIONS}
    for key, value in options.items():
        head, _, rest = key.partition(".")
        part, name = (head, rest) if head in OPTIONS and rest else ("common", key)
        parts[part][name] = _as_numbers(value) if name in NUMBERS or name.startswith("model.levels.") else value
    return {name: long_names(part) for name, part in parts.items()}


def _as_numbers(value: Any) -> Any:
    """Return the numbers of `0.2,0.6`, as the command line of `train` takes them; any other value as it is."""
    if not isinstance(value, str) or "," not in value:
        return value
    try:
        return [int(part) if part.strip().isdecimal() else float(part) for part in value.split(",")]
    except ValueError:
        return value


def describe(plan: Plan, run: Run) -> str:
    """Return one line on a run, in the syntax of the command line: `stage=... tasks=... weights=... seed=...`."""
    source = plan.runs[run.pretext].options if run.pretext else run.options
    shown: dict[str, Any] = {"stage": run.stage}
    if run.stage == "downstream" and run.pretext is None:
        shown["ckpt"] = "none"
    shown |= {key: source[f"model.{key}"] for key in ("tasks", "weights") if f"model.{key}" in source}
    shown |= {"seed": run.seed, "steps": run.steps}
    shown |= {key: value for key, value in run.options.items() if key.removeprefix("model.") not in shown}
    shown |= {"chosen_from": list(run.chooses)} if run.chooses else {}
    shown |= {"trial": True} if run.trial else {}
    return " ".join(f"{key}={as_text(value)}" for key, value in (shown | {"arms": run.arms}).items())


def as_text(value: Any) -> str:
    """Return a value as a command line has it."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return "[" + ",".join(as_text(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict) else str(value)
