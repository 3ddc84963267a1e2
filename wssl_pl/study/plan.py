"""From a declared study to its runs: what each trains, what it needs first, and which arms share it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from wssl_pl.study.definition import OPTIONS, Arm, Options, Study, long_names

# Said differently, the same thing: the run of `loss: wssl` is that of an arm that says nothing of the loss.
DEFAULTS: dict[str, Any] = {"model.loss": "wssl", "model.freeze_layers": 16}


@dataclass
class Run:
    """One training run, with the evaluation that follows a downstream one.

    Attributes:
        id: stage, what it is for, seed and a hash of everything that decides its outcome.
        stage: `pretext` or `downstream`.
        seed: of initialisation, order and augmentation.
        options: of `wssl train`; `ckpt` and what the search chooses are filled in when it starts.
        steps: training steps.
        needs: ids of the runs that have to be done first.
        arms: names of the arms that it belongs to.
        pretext: id of the run whose encoder it takes over.
        chooses: trials among which the option of the search is chosen, by the option's value.
        trial: whether it is such a trial, which no table shows.
    """

    id: str
    stage: str
    seed: int
    options: Options
    steps: int
    needs: list[str] = field(default_factory=list)
    arms: list[str] = field(default_factory=list)
    pretext: str | None = None
    chooses: dict[str, str] | None = None
    trial: bool = False

    def words(self, validations: int) -> list[str]:
        """The command line of `wssl train` after the verb, without folder and checkpoint."""
        # A trial needs no curve: it is judged by the best of its validations, one at half of its steps, one at the end.
        validations = min(validations, 2) if self.trial else validations
        given = {"stage": self.stage, "seed_everything": self.seed} | self.options
        given |= {
            "trainer.max_epochs": -1,
            "trainer.max_steps": self.steps,
            # In steps and across epochs. The last validation comes with the last step if `validations` divides the
            # steps, and less than one interval before it otherwise.
            "trainer.check_val_every_n_epoch": None,
            "trainer.val_check_interval": max(1, self.steps // validations),
        }
        return [f"{key}={_text(value)}" for key, value in given.items()]


@dataclass
class Plan:
    """All runs of a study in the order of their worth, and each arm's final run by seed."""

    runs: dict[str, Run]
    final: dict[str, dict[int, str]]

    def as_dict(self) -> dict[str, Any]:
        """In plain types, for `plan.json`."""
        return {"runs": [asdict(run) for run in self.runs.values()], "final": self.final}


def make_plan(study: Study) -> Plan:
    """The runs of a study; a pretext run that several arms need is there once."""
    plan = Plan({}, {name: {} for name in study.arms})
    for arm in study.arms.values():
        for seed in study.seeds:
            *before, last = _arm_runs(study, arm, seed)
            for run in (*before, last):
                mine = plan.runs.setdefault(run.id, run)
                if arm.name not in mine.arms:
                    mine.arms.append(arm.name)
            plan.final[arm.name][seed] = last.id
    return plan


def _arm_runs(study: Study, arm: Arm, seed: int) -> Iterator[Run]:
    """What one arm needs for one seed, the reported run last."""
    chooses = None
    if study.tune is not None:
        tune = study.tune
        # The trials share one pretext run, of the search's own seed.
        pretext = _pretext(study, arm, tune.seed)
        if pretext is not None:
            pretext.trial = tune.seed not in study.seeds
            yield pretext
        chooses = {}
        for value in tune.values:
            steps = tune.steps
            trial = _downstream(study, arm, tune.seed, pretext, steps, {tune.option: value})
            trial.trial = True
            yield trial
            chooses[str(value)] = trial.id
    pretext = _pretext(study, arm, seed)
    if pretext is not None:
        yield pretext
    steps = study.steps["downstream"] + (study.steps["pretext"] if arm.steps == "total" else 0)
    yield _downstream(study, arm, seed, pretext, steps, {}, chooses)


def _pretext(study: Study, arm: Arm, seed: int) -> Run | None:
    if arm.pretext is None:
        return None
    options = study.options["common"] | study.options["pretext"] | arm.pretext
    return _named(Run("", "pretext", seed, options, study.steps["pretext"]))


def _downstream(
    study: Study,
    arm: Arm,
    seed: int,
    pretext: Run | None,
    steps: int,
    chosen: Options,
    chooses: dict[str, str] | None = None,
) -> Run:
    options = study.options["common"] | study.options["downstream"] | arm.downstream | chosen
    options = {key: value for key, value in options.items() if key not in DEFAULTS or DEFAULTS[key] != value}
    if pretext is not None:
        # Both are the encoder's, and come with the checkpoint.
        options = {key: value for key, value in options.items() if key not in ("model.width", "model.norm")}
    needs = [pretext.id] if pretext else []
    run = Run("", "downstream", seed, options, steps, [*needs, *(chooses or {}).values()])
    run.pretext, run.chooses = (pretext.id if pretext else None), chooses
    return _named(run)


def _named(run: Run) -> Run:
    decides = [run.stage, run.seed, run.options, run.steps, run.pretext, run.chooses]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:10]
    run.id = f"{run.stage}-s{run.seed}-{digest}"
    return run


def split_options(options: Options) -> dict[str, Options]:
    """Options typed for a study by where they go: `pretext.KEY` and `downstream.KEY` to a stage, the rest to both."""
    parts: dict[str, Options] = {name: {} for name in OPTIONS}
    for key, value in options.items():
        head, _, rest = key.partition(".")
        if head in OPTIONS and rest:
            parts[head][rest] = value
        else:
            parts["common"][key] = value
    return {name: long_names(part) for name, part in parts.items()}


def describe(plan: Plan, run: Run) -> str:
    """One line on a run, in the words of the command line: `stage=... tasks=... weights=... seed=...`."""
    source = plan.runs[run.pretext].options if run.pretext else run.options
    words = [f"stage={run.stage}"]
    if run.stage == "downstream" and run.pretext is None:
        words.append("ckpt=none")
    shown = {key: source[f"model.{key}"] for key in ("tasks", "weights") if f"model.{key}" in source}
    shown |= {"seed": run.seed, "steps": run.steps}
    shown |= {key: value for key, value in run.options.items() if key.removeprefix("model.") not in shown}
    words += [f"{key}={_text(value)}" for key, value in shown.items()]
    if run.chooses:
        words.append(f"chosen_from={_text(list(run.chooses))}")
    if run.trial:
        words.append("trial=true")
    return " ".join([*words, f"arms={_text(run.arms)}"])


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict) else str(value)
