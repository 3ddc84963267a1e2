"""Runs of other studies: which of them a study takes over, and whether their results can be compared with its own."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from wssl_pl.data.sources import DEFAULTS, SYNTHETIC, default_source
from wssl_pl.errors import WSSLError
from wssl_pl.study.folder import EVALUATION, OUT_OF_DOMAIN, NotComparable, StudyFolder
from wssl_pl.study.plan import Plan


def different_rules(folder: StudyFolder, other: StudyFolder) -> dict[str, tuple[object, object]]:
    """Return the rules, which no run's id shows, by which two studies choose otherwise: ours and theirs by name."""
    mine, theirs = (each.study() for each in (folder, other))
    rules: dict[str, tuple[object, object]] = {"validations": (mine.validations, theirs.validations)}
    if mine.tune and theirs.tune:
        rules["tune.metric"] = (mine.tune.metric, theirs.tune.metric)
    if mine.out_of_domain and theirs.out_of_domain:
        rules["out_of_domain"] = (mine.out_of_domain, theirs.out_of_domain)
        if mine.out_of_domain == theirs.out_of_domain and other.cwd().is_dir():
            places = (each.cwd() / theirs.out_of_domain for each in (folder, other))
            own, its = (str(place.resolve()) for place in places)
            rules["out_of_domain"] = (own, its)
    return {name: values for name, values in rules.items() if values[0] != values[1]}


def reuse(folder: StudyFolder, other: StudyFolder, plan: Plan) -> int:
    """Link the finished runs that this plan shares with another study, and return how many.

    Not linked are classical methods, which are measured in seconds, trials that the other study has in place of
    runs, as their best checkpoint is another one, and what `other_data` names.

    Raises:
        WSSLError: the other study chose checkpoints or learning rates by other rules.
    """
    for name, (own, its) in different_rules(folder, other).items():
        reason = f"has {name}={its} where this study has {own}: its runs are others"
        raise WSSLError("reuse", other.path, reason, f"give {name}={its}")
    taken, its_runs, differ = 0, other.plan().runs, other_data(folder, other, plan)
    for identity, run in plan.runs.items():
        link = folder.run(identity)
        same = identity in its_runs and its_runs[identity].trial == run.trial and identity not in differ
        if run.steps and same and not link.exists() and other.status(identity).state == "done":
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)  # to a study that is gone
            # Relative, so that studies can be moved together.
            target = os.path.relpath(other.run(identity).resolve(), link.parent.resolve())
            link.symlink_to(target, target_is_directory=True)
            taken += 1
    return taken


def other_data(folder: StudyFolder, other: StudyFolder, plan: Plan) -> dict[str, str]:
    """Return the finished runs of another study, by id, that have this plan's options and other data, and why.

    Its options name other data where both studies were started in different working folders. Data that are gone, as
    after a move to another machine, are not compared; the pairs are, as far as there are some.
    """
    found: dict[str, str] = {}
    compared = other.cwd().is_dir()
    for identity, run in plan.runs.items():
        if not run.steps or other.status(identity).state != "done":
            continue
        for part in DEFAULTS:
            own, its = (data_source(part, run.options.get(f"data.{part}"), each.cwd()) for each in (folder, other))
            if compared and own != its:
                found[identity] = f"{part}={its}, not {own}"
        if run.reported and (wanted := folder.pairs_hash()) is not None:
            with suppress(WSSLError):
                if other.result(identity).pairs.hash != wanted:
                    found.setdefault(identity, "measured on other pairs")
    return found


def check_foreign_results(folder: StudyFolder) -> None:
    """Check that trained runs of other studies, linked or imported, can be compared with those of this one.

    Raises:
        WSSLError: some cannot, and are not measured again here: a link would lead into the other study.
    """
    wrong: dict[str, str] = {}
    for run in folder.plan().runs.values():
        path = folder.run(run.id)
        foreign = path.is_symlink() or folder.is_imported(run.id)
        if not (run.reported and run.steps and run.status.state == "done" and foreign):
            continue
        for name in (EVALUATION, *([OUT_OF_DOMAIN] if folder.elsewhere(run) else [])):
            try:
                folder.measured(run, name)
            except WSSLError as error:
                damaged = path.is_symlink() and (path / name).exists()
                if isinstance(error, NotComparable) or damaged:
                    wrong[run.id] = error.reason
    if wrong:
        first, reason = next(iter(wrong.items()))
        others = f" ({len(wrong)} runs: {', '.join(wrong)})" if len(wrong) > 1 else ""
        remedy = f"remove {'these' if others else 'this'} in {folder.path / 'runs'}, a link alone; it is trained here"
        raise WSSLError("out", folder.run(first), f"{reason}{others}", remedy)


def data_source(part: str, value: Any, cwd: Path) -> str:
    """Return what `images` or `masks` of a run are: a folder without links, a URL, or `synthetic`.

    Args:
        part: `images` or `masks`.
        value: as given; None for the default.
        cwd: the folder to which a relative path belongs.
    """
    source = default_source(part, cwd) if value is None else str(value)
    return source if source == SYNTHETIC or "://" in source else str((cwd / source).resolve())
