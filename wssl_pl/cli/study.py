"""`wssl study`: declared runs with seeds and controls, resumed as often as it takes, and a report with verdicts."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from wssl_pl.cli.grammar import Words, as_list, read_words
from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.train import ALIASES, WSSLCLI
from wssl_pl.errors import UsageError, WSSLError
from wssl_pl.study.definition import STAGES, Study, Tuning, check, read_study
from wssl_pl.study.folder import StudyFolder
from wssl_pl.study.plan import Plan, describe, make_plan, split_options
from wssl_pl.tasks import import_task

HELP = """\
usage: train.py study NAME [NAME ...] out=DIR [option=value ...]
       train.py study resume DIR
       train.py study report DIR [out=DIR]

NAME is a shipped study (table1, controls, ...) or a YAML file. What several studies share is trained once.

  out=          folder of the study; the same command, or `resume`, goes on with it
  seeds=        [0,1,2]: every arm is trained with each
  steps.pretext=, steps.downstream=
                training steps of a pretext and of a downstream run
  arms=         only these arms, in this order
  validations=  how often a run is validated (default 10)
  tune.values=  [1e-4,5e-4]: learning rates to choose from for every arm on the validation split;
                tune.steps=, tune.option=, tune.seed=; tune=none: as the options say, without a search
  cpus_per_run= CPU cores of each run (default 1); gpus_per_run=0.25 shares a GPU; parallel= limits the runs at a time
  ray.address=  a Ray cluster whose machines share the folder: auto, or HOST:PORT (default: this machine alone)
  reuse=        [DIR,...]: other studies whose finished runs are taken over where they are the same
  --dry-run     prints one line per run, and the expected time from finished runs and from small steps measured here
  --evaluate=false
                trains only

Every other option is one of `train` for all runs (--data.images=DIR --model.width=16), or with pretext. or downstream.
before it for the runs of one stage (--downstream.model.lr=5e-4). What an arm itself says stands above these.
"""
OWN = {"out", "seeds", "arms", "validations", "tune", "cpus_per_run", "gpus_per_run", "parallel", "ray.address",
       "reuse", "dry_run", "evaluate"}  # fmt: skip
STEP_KEYS = {f"steps.{stage}" for stage in STAGES}
TYPO = 0.75  # how like one of ours a key has to be to be taken for it, mistyped; no option of `train` is
TUNE_KEYS = {f"tune.{name}" for name in ("option", "values", "steps", "seed", "metric")}


def run(args: Sequence[str]) -> Any:
    """Runs `wssl study` with the arguments after the verb.

    Raises:
        UsageError: something in them cannot be used as given.
    """
    words = read_words(args)
    if not args or any(key in ("help", "h") for key, _ in words.options):
        print(HELP)
        return None
    silence_messages()
    if words.positional[:1] == ["report"]:
        return _report(words)
    if words.positional[:1] == ["resume"]:
        return _resume(words)
    if not words.positional:
        raise UsageError("study: name a shipped study or a YAML file, or resume DIR, or report DIR")
    study = declared(words)
    plan = make_plan(study)
    check_runs(study, plan)
    out = words.get("out")
    if _value(words, "dry_run", False):
        started = StudyFolder(out) if out is not None and StudyFolder(out).holds_study() else None
        return dry_run(plan, words, started)
    if out is None:
        raise UsageError("study needs out=: the folder to keep runs and report in")
    _check_cluster(words)
    folder = StudyFolder(out)
    with folder.locked():
        folder.begin(study)
        for other in _names(words, "reuse"):
            taken = folder.reuse(StudyFolder.open(other), plan)
            print(f"{taken} finished runs taken over from {other}", flush=True)
        return _drive(folder, words)


def _resume(words: Words) -> Any:
    """`study resume DIR`: as it was begun; only where it runs may be said anew."""
    folder = StudyFolder.open(_only(words, "resume"))
    changed = [key for key, _ in words.options if key not in OWN - {"out", "seeds", "arms", "validations", "tune"}]
    if changed:
        folder.check_same(declared(words, folder.study()))
    if _value(words, "dry_run", False):
        return dry_run(folder.plan(), words, folder)
    _check_cluster(words)
    with folder.locked():
        return _drive(folder, words)


def _report(words: Words) -> Path:
    from wssl_pl.study.report import write_report

    for key, _ in words.options:
        if key != "out":
            raise UsageError(f"study report takes a study's folder and out=, not {key}=")
    out = words.get("out")
    report = write_report(Path(_only(words, "report")), Path(out) if out else None)
    print(f"Report {report}", flush=True)
    return report


def _only(words: Words, what: str) -> str:
    if len(words.positional) != 2:
        raise UsageError(f"study {what} takes one folder, that of the study")
    return words.positional[1]


def declared(words: Words, begun: Study | None = None) -> Study:
    """The study that the names declare, with what was typed; from one that was `begun`, if it is typed to be resumed.

    Raises:
        UsageError: a name, a key or a value cannot be used.
    """
    study = read_study(words.positional) if begun is None else begun
    typed: dict[str, Any] = {}
    tune: dict[str, Any] = {}
    for key, text in words.options:
        value = _parsed(key, text)
        if key in STEP_KEYS:
            study.steps[key.partition(".")[2]] = value
        elif key in TUNE_KEYS:
            tune[key.partition(".")[2]] = value
        elif key == "tune":
            if value not in ("none", None, False):
                raise UsageError(f"tune={text}: give none, or tune.values= and tune.steps=")
            study.tune = None
        elif key == "seeds":
            study.seeds = _parsed(key, as_list(text or ""))
        elif key == "validations":
            study.validations = value
        elif key == "arms":
            study = only_arms(study, _names(words, "arms"))
        elif key not in OWN:
            if nearest := get_close_matches(key, OWN | STEP_KEYS | TUNE_KEYS, n=1, cutoff=TYPO):
                raise UsageError(f"study: unknown option {key!r}; did you mean {nearest[0]}?")
            typed[ALIASES.get(key, key)] = value
    if tune:
        if words.get("tune") is not None:
            raise UsageError(f"tune=none and tune.{next(iter(tune))}= contradict each other: give one of them")
        tune["values"] = tune["values"] if "values" in tune else (study.tune.values if study.tune else [])
        if not isinstance(tune["values"], list):
            raise UsageError(f"tune.values={tune['values']}: give a list, such as [1e-4,5e-4]")
        study.tune = replace(study.tune or Tuning(), **tune)
    for part, options in split_options(typed).items():
        study.options[part] |= options
        for option in ("run.dir", "run.resume", "model.ckpt", "seed_everything", "stage"):
            if option in options:
                raise UsageError(f"{option}: a study says that itself, for every run")
    check(study)
    return study


def only_arms(study: Study, names: Sequence[str]) -> Study:
    """The study with these arms alone, and with the claims that they are enough for.

    Raises:
        UsageError: there is no such arm.
    """
    for name in names:
        if name not in study.arms:
            raise UsageError(f"arms: there is no arm {name!r}; there are {', '.join(study.arms)}")
    sections = []
    for section in study.sections:
        claims = [claim for claim in section.claims if {*claim.better, *claim.than} <= set(names)]
        kept = [name for name in names if name in section.arms]
        if kept:
            sections.append(replace(section, arms=kept, claims=claims))
    omitted = {name: arm.label for name, arm in study.arms.items() if name not in names}
    return replace(study, arms={name: study.arms[name] for name in names}, sections=sections, omitted=omitted)


class _ParseOnly(WSSLCLI):
    """Reads runs' command lines as `train` will, and builds nothing but the parser, once."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _set_seed(self) -> None:
        pass

    def check(self, words: Words) -> None:
        """Raise `UsageError` if `train` would refuse the words."""
        self.words = words
        self.parse_arguments(self.parser, words.arguments())


def check_runs(study: Study, plan: Plan) -> None:
    """Parses every kind of run as `train` would and builds its module, a narrow one, before anything expensive.

    Raises:
        UsageError: one of them would fail.
    """
    from wssl_pl.study.cost import build_module

    seen = set()
    parsers: dict[str, _ParseOnly] = {}
    for run in plan.runs.values():
        identity = (run.stage, repr(run.options))
        if identity in seen:
            continue
        seen.add(identity)
        where = f"arm {run.arms[0]}, {run.stage}"
        try:
            for task in run.options.get("model.tasks") or []:
                import_task(task)  # declared by the user; the run's own process imports it from its command line
            words = read_words(run.arguments(study.validations), ALIASES)
            if run.stage in parsers:
                parsers[run.stage].check(words)
            else:
                parsers[run.stage] = _ParseOnly(run.stage, words)
            build_module(plan, run, widest=1)
        except WSSLError as error:
            raise UsageError(f"{where}: {error}") from None


def dry_run(plan: Plan, words: Words, folder: StudyFolder | None = None) -> Plan:
    """Print one line per run on standard output, and on standard error the expected time of what is left to do.

    Args:
        plan: the runs.
        words: the command line.
        folder: the study's, where it has been started: finished runs are not counted, and tell how long a step takes.
    """
    from wssl_pl.devices import usable_cores
    from wssl_pl.study.cost import BUDGET_S, as_time, expected_seconds, kind, labels, learned_costs, measure_costs
    from wssl_pl.study.plan import Status

    for run in plan.runs.values():
        print(describe(plan, run))
    sys.stdout.flush()
    states = {name: folder.status(name) if folder else Status() for name in plan.runs}
    cpus = float(_value(words, "cpus_per_run", 1))
    slots = max(1, int(_value(words, "parallel", 0) or usable_cores() // max(cpus, 1)))
    learned = learned_costs(plan, states)
    print(f"Measuring training steps for about {BUDGET_S:.0f} s", file=sys.stderr, flush=True)
    costs = measure_costs(plan, max(1, int(cpus)), learned)
    seconds = expected_seconds(plan, {name: cost.seconds for name, cost in costs.items()}, slots, states, {})
    assert seconds is not None
    print("Seconds per training step:", file=sys.stderr)
    kinds = [kind(plan, run) for run in plan.runs.values()]
    for name, label in labels(costs).items():
        cost, number = costs[name], kinds.count(name)
        print(f"  {cost.seconds:9.4f}  {label}, {number} runs, {cost.source}", file=sys.stderr)
    done = sum(state.state == "done" for state in states.values())
    number_of_runs = f"{len(plan.runs)} runs" + (f", {done} of them done" if done else "")
    print(f"{number_of_runs}, {slots} at a time: about {as_time(seconds)} of training", file=sys.stderr)
    print("Validation, evaluation and start-up are not included.", file=sys.stderr, flush=True)
    return plan


def _check_cluster(words: Words) -> None:
    from wssl_pl.study.driver import check_address

    check_address(words.get("ray.address"))


def _drive(folder: StudyFolder, words: Words) -> Any:
    from wssl_pl.study.driver import Resources, run_study

    resources = Resources(
        address=words.get("ray.address"),
        cpus=_value(words, "cpus_per_run", 1),
        gpus=_value(words, "gpus_per_run", None),
        parallel=_value(words, "parallel", None),
    )
    pairs = write_pairs(folder) if _value(words, "evaluate", True) else None
    print(f"TensorBoard of all runs: tensorboard --logdir {folder.path / 'runs'}", flush=True)
    plan = run_study(folder, resources, pairs)
    states = [run.status.state for run in plan.runs.values()]
    print(f"{states.count('done')} of {len(states)} runs done, {states.count('failed')} failed", flush=True)
    for run in plan.runs.values():
        if run.status.state == "failed":
            print(f"failed: {run.id} of {', '.join(run.arms)}: {run.status.reason}", flush=True)
    if pairs is not None:
        from wssl_pl.study.report import write_report

        print(f"Report {write_report(folder.path)}", flush=True)
    return plan


def write_pairs(folder: StudyFolder) -> Path:
    """The test pairs of the study, which its first call writes.

    Raises:
        UsageError: they cannot be written, and why.
    """
    path = folder.path / "pairs"
    if not path.is_dir():
        unfinished = path.with_name(".pairs")
        shutil.rmtree(unfinished, ignore_errors=True)
        study = folder.study()
        given = study.options["common"] | study.options["downstream"]
        options = [f"{key}={value}" for key, value in given.items() if key.startswith("data.")]
        command = [sys.executable, "-m", "wssl_pl", "pairs", "split=test", f"out={unfinished.resolve()}", *options]
        done = subprocess.run(command, cwd=folder.cwd(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise UsageError((done.stderr.strip() or "wssl pairs failed").splitlines()[-1].removeprefix("error: "))
        unfinished.rename(path)
    return path


def _names(words: Words, key: str) -> list[str]:
    value = words.get(key)
    return [part.strip() for part in (value or "").strip("[]").split(",") if part.strip()]


def _value(words: Words, key: str, default: Any) -> Any:
    text = words.get(key)
    return default if text is None else _parsed(key, text)


def _parsed(key: str, text: str | None) -> Any:
    try:
        value = yaml.safe_load(text or "")
    except yaml.YAMLError:
        raise UsageError(f"{key}={text}: it cannot be read as a value") from None
    # YAML takes 1e-4 for a word.
    if isinstance(value, str):
        return _number(value)
    return [_number(item) if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


def _number(word: str) -> Any:
    try:
        return float(word)
    except ValueError:
        return word
