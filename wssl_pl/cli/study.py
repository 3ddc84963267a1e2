"""`wssl study` and `wssl study report`, `export` and `import`."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from wssl_pl.cli.arguments import CommandLine, one_or_more, read_line
from wssl_pl.cli.messages import silence_messages
from wssl_pl.cli.output import check_folder, replacing_folder
from wssl_pl.cli.train import ALIASES, WSSLCLI
from wssl_pl.data import WSSLDataModule
from wssl_pl.devices import usable_cores
from wssl_pl.errors import SomeFailed, WSSLError
from wssl_pl.evaluation.classical import missing_package
from wssl_pl.evaluation.methods import Classical
from wssl_pl.files import owned
from wssl_pl.modules.encoder import import_encoder
from wssl_pl.study import cost
from wssl_pl.study.definition import STAGES, Study, Tuning, check, read_studies, without_composites
from wssl_pl.study.driver import Resources, check_ray, run_study
from wssl_pl.study.folder import StudyFolder
from wssl_pl.study.plan import Plan, Status, as_text, describe, make_plan, split_options
from wssl_pl.study.reuse import check_foreign_results, other_data
from wssl_pl.study.sections import SECTIONS, open_sections, reuse_sections, start_sections
from wssl_pl.study.storage import Storage, storage_of
from wssl_pl.tasks import import_task

REPORT_FILES = ("report.md", "report.html")
FIXED = ("run.dir", "run.resume", "model.ckpt", "seed_everything", "stage")  # the study sets them for every run


@dataclass
class Steps:
    """Training steps of a run.

    Args:
        pretext: training steps of a pretext run; default: as declared
        downstream: training steps of a downstream run; default: as declared
    """

    pretext: PositiveInt | None = None
    downstream: PositiveInt | None = None


@dataclass
class Tune:
    """A search of one option on the validation split.

    Args:
        option: option of the downstream stage that is searched, such as model.lr
        values: what is tried, such as [1e-4,5e-4]
        steps: downstream steps of each trial
        seed: seed of the trials
        metric: the validation metric that decides, the higher the better
    """

    option: str | None = None
    values: list[float] | None = None
    steps: PositiveInt | None = None
    seed: NonNegativeInt | None = None
    metric: str | None = None


@dataclass
class Cluster:
    """A Ray cluster.

    Args:
        address: a Ray cluster, auto or HOST:PORT, whose machines share the folder or have storage=; default: this
            machine alone
        resources: what each run takes beside cores and GPUs, such as {h100: 1}, by the names that `ray start
            --resources` gave to the machines
    """

    address: str | None = None
    resources: dict[str, PositiveFloat] | None = None


AS_DECLARED, THIS_MACHINE = Steps(), Cluster()


def study(
    names: list[str],
    *,
    out: Path | None = None,
    dry_run: bool = False,
    seeds: list[NonNegativeInt] | None = None,
    arms: list[str] | None = None,
    sections: list[str] | None = None,
    steps: Steps = AS_DECLARED,
    validations: PositiveInt | None = None,
    tune: Tune | Literal["none"] | None = None,
    evaluate: bool = True,
    reuse: list[Path] | None = None,
    cpus_per_run: PositiveFloat = 1.0,
    gpus_per_run: PositiveFloat | None = None,
    parallel: PositiveInt | None = None,
    storage: str | None = None,
    ray: Cluster = THIS_MACHINE,
    **options: Any,
) -> Any:
    """Train the runs that a study declares, every arm with every seed, evaluate them and write a report.

    The same command, or `wssl study resume DIR`, continues a study that was stopped. Runs that several studies share
    are trained once. Every other option is one of `wssl train` for all runs, or with pretext. or downstream. before it
    for the runs of one stage; an arm's own options come first.

    Example:
        wssl study table1 out=DIR --dry-run
        wssl study table1 table2 out=DIR seeds=0,1,2 --data.images=CACHE --downstream.model.lr=5e-4
        wssl study where out=DIR sections=few_pairs,damaged
        wssl study resume DIR
        wssl study report DIR

    Args:
        names: shipped studies (table1, controls, ...) or YAML files
        out: folder of the study
        dry_run: print one line per run, and the expected time from finished runs and from steps measured here
        seeds: every arm is trained with each; default: as declared
        arms: only these arms, in this order; default: all
        sections: only these sections of a definition that has some, each in its own folder of out=; default: all
        steps: training steps
        validations: how often a run is validated; default: as declared
        tune: none, or a search for every arm on the validation split, with tune.values=[1e-4,5e-4], tune.steps= (of a
            trial), tune.option= (model.lr) and tune.seed=; default: as declared
        evaluate: measure the trained models on the test split and write the report
        reuse: folders of other studies, whose finished runs are taken over where they are the same
        cpus_per_run: CPU cores of each run
        gpus_per_run: fraction of a GPU of each run; default: a whole one where there is one
        parallel: runs at a time; default: as many as fit
        storage: where the machines of a cluster exchange files if they share no folder: a path or s3://BUCKET/PREFIX
        ray: where the runs are trained
    """
    silence_messages()
    if sections == []:
        raise WSSLError("sections", sections, "names none", "omit it for all")
    changes = {"seeds": seeds, "arms": arms, "validations": validations, "tune": tune}
    changes = {name: value for name, value in changes.items() if value is not None}
    changes |= {f"steps.{stage}": count for stage, count in vars(steps).items() if count is not None}
    resources = Resources(ray.address, cpus_per_run, gpus_per_run, parallel, ray.resources or {})
    if names[0] == "resume":
        if len(names) != 2:
            raise WSSLError(None, None, "study resume takes one folder, that of the study")
        if out is not None or reuse:
            name, value = ("out", out) if out is not None else ("reuse", reuse)
            raise WSSLError(name, value, "is for a study that is started", "omit it")
        folders = open_sections(names[1])
        if unknown := [name for name in sections or [] if name not in [folder.path.name for folder in folders]]:
            known = ", ".join(folder.path.name for folder in folders)
            raise WSSLError("sections", unknown[0], f"was not started in {names[1]}", f"there are {known}")
        folders = [folder for folder in folders if sections is None or folder.path.name in sections]
        if changes or options:
            for folder in folders:
                folder.check_same(declare(folder.study(), changes, options))
        if dry_run:
            for folder in folders:
                plan = print_plan(folder.plan(), resources, folder)
            return plan
        check_ray(resources.address)
        return train_sections(folders, resources, evaluate, storage)
    studies = read_studies(names, sections)
    if arms is not None and len(studies) > 1:
        raise WSSLError("arms", ",".join(arms), "the sections have arms of their own", "give one section")
    studies = {section: declare(declared, changes, options) for section, declared in studies.items()}
    plans = {section: make_plan(declared) for section, declared in studies.items()}
    for section, plan in plans.items():
        check_runs(studies[section], plan)
    if dry_run:
        for section, plan in plans.items():
            if section:
                print(f"Section {section}", file=sys.stderr)
            started = StudyFolder((out or Path()) / section)
            print_plan(plan, resources, started if out is not None and started.holds_study() else None)
        return plan
    if out is None:
        raise WSSLError("out", None, "is required", "name the folder for runs and report")
    check_ray(resources.address)
    folders = start_sections(out, studies)
    for folder, plan in zip(folders, plans.values(), strict=True):
        for other in reuse or []:
            taken = reuse_sections(folder, open_sections(other), plan)
            print(f"{taken} finished runs taken over from {other}", flush=True)
            for source in open_sections(other):
                if differ := other_data(folder, source, plan):
                    first = next(iter(differ.values()))
                    print(f"Note: {len(differ)} runs of {source.path} are of other data ({first}): not taken over")
    return train_sections(folders, resources, evaluate, storage)


def study_report(dir: Path, *, out: Path | None = None, overwrite: bool = False) -> Path:
    """Write the report of a study, finished or not; of one with sections that of each.

    Example:
        wssl study report runs/study/table1

    Args:
        dir: folder of the study
        out: folder of the report; default: report/ in that of the study, where it is replaced
        overwrite: replace a report that exists in out=
    """
    from wssl_pl.study.report import write_report  # needs matplotlib

    folders = open_sections(dir)
    if out is not None:
        if len(folders) > 1:
            raise WSSLError("out", out, "the study has sections, with a report each", "give the folder of a section")
        check_folder(out, overwrite, REPORT_FILES)
    for folder in folders:
        report = write_report(folder.path, out)
        print(f"Report {report}", flush=True)
    return report


def study_export(dir: Path, *, out: Path) -> int:
    """Write the finished runs of a study as a small folder of JSON, without checkpoints.

    Example:
        wssl study export runs/study/where out=benchmarks/results/where

    Args:
        dir: folder of the study
        out: the folder, new or with an earlier export of the same study
    """
    from wssl_pl.study.transfer import export_study

    count = export_study(dir, out)
    print(f"{count} finished runs in {out}", flush=True)
    return count


def study_import(dir: Path, *, out: Path) -> int:
    """Start or resume a study with the finished runs of an exported one, which are not trained again.

    Example:
        wssl study import benchmarks/results/where out=runs/study/where
        wssl study where out=runs/study/where

    Args:
        dir: the folder that `wssl study export` wrote
        out: folder of the study, new or with the same study
    """
    from wssl_pl.study.transfer import import_study

    count = import_study(dir, out)
    print(f"{count} finished runs taken over into {out}", flush=True)
    return count


def declare(study: Study, changes: Mapping[str, Any], options: Mapping[str, Any]) -> Study:
    """Return a study with what was typed.

    Args:
        study: the declared study, which is changed.
        changes: `seeds`, `arms`, `validations`, `tune`, `steps.pretext` and `steps.downstream`, where typed.
        options: options of `wssl train`.

    Raises:
        WSSLError: a value cannot be used.
    """
    study.seeds = changes.get("seeds", study.seeds)
    study.validations = changes.get("validations", study.validations)
    study.steps |= {stage: changes[f"steps.{stage}"] for stage in STAGES if f"steps.{stage}" in changes}
    if "arms" in changes:
        study = only_arms(study, changes["arms"])
    tune = changes.get("tune")
    if tune == "none":
        study.tune = None
    elif tune is not None:
        given = {name: value for name, value in vars(tune).items() if value is not None}
        study.tune = replace(study.tune or Tuning(), **given)
    typed = split_options({ALIASES.get(key, key): value for key, value in options.items()})
    for stage in STAGES:  # what is typed for all runs is stronger than what the definition gives a stage
        study.options[stage] = {key: value for key, value in study.options[stage].items() if key not in typed["common"]}
    for part, values in typed.items():
        study.options[part] |= values
        for option in FIXED:
            if option in values:
                raise WSSLError(option, values[option], "the study sets it for every run", "omit it")
    check(study)
    return without_composites(study)


def only_arms(study: Study, names: Sequence[str]) -> Study:
    """Return the study with these arms alone, and with the claims that they are enough for.

    Raises:
        WSSLError: there is no such arm.
    """
    for name in names:
        if name not in study.arms:
            raise WSSLError("arms", name, "there is no such arm", f"there are {', '.join(study.arms)}")
    sections = []
    for section in study.sections:
        claims = [claim for claim in section.claims if {*claim.better, *claim.than} <= set(names)]
        kept = [name for name in names if name in section.arms]
        if kept:
            omitted_claims = section.omitted_claims + len(section.claims) - len(claims)
            sections.append(replace(section, arms=kept, claims=claims, omitted_claims=omitted_claims))
    omitted = {name: arm.label for name, arm in study.arms.items() if name not in names}
    return replace(study, arms={name: study.arms[name] for name in names}, sections=sections, omitted=omitted)


class _ParseOnly(WSSLCLI):
    """Parses the command lines of runs as `train` will, and builds nothing but the parser, once."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _set_seed(self) -> None:
        pass

    def check(self, line: CommandLine) -> None:
        """Raise `WSSLError` if `train` would refuse the line."""
        self.line = line
        self.parse_arguments(self.parser, line.arguments())


def check_runs(study: Study, plan: Plan) -> None:
    """Parse every kind of run as `train` would and build its module, a narrow one, before anything expensive.

    Raises:
        WSSLError: one of them would fail.
    """
    seen = set()
    parsers: dict[str, _ParseOnly] = {}
    for run in plan.runs.values():
        identity = (run.stage, repr(run.options))
        if identity in seen:
            continue
        seen.add(identity)
        where = f"arm {run.arms[0]}, {run.stage}"
        try:
            if run.stage == "method":
                # One whose package is missing fails alone, and says so.
                if missing_package(run.options["method"]) is None:
                    Classical(run.options["method"])
                continue
            # Declared by the user; the run's own process imports them from its command line.
            for name in ("model.tasks", "model.restore"):
                for task in one_or_more(run.options.get(name)):
                    if isinstance(task, str):  # the parser refuses what is none
                        import_task(task)
            if isinstance(encoder := run.options.get("model.encoder"), str):
                import_encoder(encoder)
            line = read_line(run.arguments(study.validations), ALIASES)
            if run.stage in parsers:
                parsers[run.stage].check(line)
            else:
                parsers[run.stage] = _ParseOnly(run.stage, line)
            parsed = parsers[run.stage].config
            options = {name: parsed.get(name, value) for name, value in run.options.items()}
            with parsers[run.stage].parser.option_names(line):
                module: Any = cost.build_module(plan, replace(run, options=options), widest=1)
                if run.stage != "pretext" and (module.perceptual or module.style):
                    module.feature_network(module.device)  # its weights have to be there
        except WSSLError as error:
            raise WSSLError(None, None, f"{where}: {error}") from None


def print_plan(plan: Plan, resources: Resources, folder: StudyFolder | None = None) -> Plan:
    """Print one line per run on standard output, and on standard error the expected time of what is left to do.

    Args:
        plan: the runs.
        resources: with what they are trained.
        folder: the study's, where it has been started: finished runs are not counted, and give the time of a step.
    """
    for run in plan.runs.values():
        print(describe(plan, run))
    sys.stdout.flush()
    states = {name: folder.status(name) if folder else Status() for name in plan.runs}
    slots = max(1, int(resources.parallel or usable_cores() // max(resources.cpus, 1)))
    print("Measuring training steps", file=sys.stderr, flush=True)
    costs = cost.measure_costs(plan, max(1, int(resources.cpus)), cost.learned_costs(plan, states))
    seconds = cost.expected_seconds(plan, {name: found.seconds for name, found in costs.items()}, slots, states)
    print("Seconds per training step:", file=sys.stderr)
    kinds = [cost.kind(plan, run) for run in plan.runs.values()]
    for name, label in cost.labels(costs).items():
        found, number = costs[name], kinds.count(name)
        print(f"  {found.seconds:9.4f}  {label}, {number} runs, {found.source}", file=sys.stderr)
    done = sum(state.state == "done" for state in states.values())
    number_of_runs = f"{len(plan.runs)} runs" + (f", {done} of them done" if done else "")
    print(f"{number_of_runs}, {slots} at a time: about {cost.as_time(seconds)} of training", file=sys.stderr)
    print("Validation, evaluation and start-up are not included.", file=sys.stderr, flush=True)
    return plan


def train_sections(
    folders: Sequence[StudyFolder], resources: Resources, evaluate: bool, storage: str | None = None
) -> Any:
    """Train the studies of some folders one after the other, each with the finished runs of the others."""
    if storage is not None and "://" not in storage:
        storage = str(Path(storage).absolute())
    sections = len(folders) > 1 or (folders[0].path.parent / SECTIONS).is_file()
    found = {
        folder.path: storage_of(folder, f"{storage}/{folder.path.name}" if storage and sections else storage)
        for folder in folders
    }
    failed = 0
    for folder in folders:
        with owned(folder.path):
            reuse_sections(folder, folders, folder.plan())
            plan = train_runs(folder, resources, evaluate, found[folder.path])
        failed += sum(run.status.state == "failed" for run in plan.runs.values())
    if failed:
        raise SomeFailed(None, None, f"{failed} runs failed, as said above; runs that do not need them are done")
    return plan


def train_runs(folder: StudyFolder, resources: Resources, evaluate: bool, storage: Storage | None = None) -> Any:
    """Train and, with `evaluate`, measure what is left of a study and write its report; return the runs."""
    pairs = write_pairs(folder) if evaluate else None
    if pairs is not None:
        check_foreign_results(folder)
    if evaluate and (elsewhere := folder.study().out_of_domain):
        from wssl_pl.evaluation.pairs import Pairs

        Pairs.open(folder.cwd() / elsewhere)  # before the first run is trained
    if count := folder.count_other_programs():
        print(f"Note: {count} finished runs were trained by another or an unknown version of the program", flush=True)
    print(f"TensorBoard of all runs: tensorboard --logdir {folder.path / 'runs'}", flush=True)
    plan = run_study(folder, resources, pairs, storage)
    states = [run.status.state for run in plan.runs.values()]
    print(f"{states.count('done')} of {len(states)} runs done, {states.count('failed')} failed", flush=True)
    for run in plan.runs.values():
        if run.status.state == "failed":
            print(f"failed: {run.id} of {', '.join(run.arms)}: {run.status.reason}", flush=True)
            trained = run.status.steps >= run.steps
            remedy = "to measure it," if trained else f"to train it again, remove {folder.run(run.id)} and"
            print(f"  {remedy} resume the study", flush=True)
    if pairs is not None:
        from wssl_pl.study.report import write_report

        print(f"Report {write_report(folder.path)}", flush=True)
    return plan


def write_pairs(folder: StudyFolder) -> Path:
    """Return the test pairs of the study, which the first call writes.

    Raises:
        WSSLError: they cannot be written.
    """
    from wssl_pl.evaluation.pairs import write_pairs

    path = folder.path / "pairs"
    if not path.is_dir():
        study = folder.study()
        given = study.options["common"] | study.options["downstream"]
        line = read_line(
            [f"{key}={as_text(value)}" for key, value in given.items() if key.startswith("data.")], ALIASES
        )
        data = _ParseOnly("downstream", line).config.data
        with replacing_folder(path) as unfinished, chdir(folder.cwd()):
            for name in study.restore:
                import_task(name)
            data = WSSLDataModule(**data.as_dict())
            write_pairs(data, "test", unfinished, restore=study.restore or None, undamaged=study.undamaged)
    return path
