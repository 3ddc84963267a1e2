"""Pretext tasks by the name, or the class path, that `tasks=` takes."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from wssl_pl.errors import UsageError
from wssl_pl.tasks.base import PretextTask
from wssl_pl.tasks.masked import Autoencoder, Masked
from wssl_pl.tasks.rotation import Rotation
from wssl_pl.tasks.saturation import Saturation
from wssl_pl.tasks.sharpness import Sharpness

# In the order in which active tasks change an image. Tasks that mask it come last, and tasks by class path before them.
TASKS: dict[str, type[PretextTask]] = {
    task.name: task for task in (Rotation, Saturation, Sharpness, Autoencoder, Masked)
}


def find_task(name: str) -> type[PretextTask]:
    """Return the task of a name in `TASKS`, or of a class path such as `mypackage.tasks.Brightness`.

    A class path is looked up among the modules that are imported already and never imports one: names also come from
    checkpoints and configurations of other people. `import_task` imports.

    Raises:
        UsageError: there is no such task.
    """
    if name in TASKS:
        return TASKS[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        nearest = get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise UsageError(f"tasks: {name!r} is not a pretext task; {hint}there are {', '.join(TASKS)}")
    if module not in sys.modules:
        raise UsageError(
            f"tasks: {name!r}: its module {module} is not imported: type tasks=[{name}], or import it first"
        )
    task = getattr(sys.modules[module], attribute, None)
    if not (isinstance(task, type) and issubclass(task, PretextTask)):
        raise UsageError(f"tasks: {name!r}: {module} has no subclass of wssl_pl.tasks.PretextTask of that name")
    return task


def import_task(name: str) -> type[PretextTask]:
    """Import the module of a class path from the working directory or the installed packages, and return the task.

    For names that the user typed. The module's code runs.

    Raises:
        UsageError: the module cannot be imported, or has no such task.
    """
    module = name.rpartition(".")[0]
    if module and name not in TASKS:
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # where `python -m` would look; a console script does not
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"tasks: {name!r}: cannot import {module}: {error}") from None
    return find_task(name)


def make_tasks(names: Sequence[str], levels: Mapping[str, Sequence[float]] | None = None) -> dict[str, PretextTask]:
    """Return the named tasks by their own names, in the order in which they change an image, with their levels.

    Args:
        names: keys of `TASKS` or class paths, each at most once, at least one.
        levels: levels by the task's own name, for those that do not take their default ones.

    Raises:
        UsageError: an unknown task, a task twice, none at all, or levels for a task that is not among them.
    """
    if not names:
        raise UsageError(f"tasks: none given; name one or more of {', '.join(TASKS)}")
    found: dict[str, type[PretextTask]] = {}
    for name in names:
        task = find_task(name)
        if task.name in found:
            raise UsageError(f"tasks: {task.name!r} is given twice; name each task once")
        found[task.name] = task
    levels = levels or {}
    for name in levels:
        if name not in found:
            raise UsageError(f"model.levels: {name!r} is not among the tasks {list(found)}")
    order = [*(name for name in TASKS if name in found), *(name for name in found if name not in TASKS)]
    return {name: found[name](levels.get(name)) for name in sorted(order, key=lambda name: found[name].hides)}


def task_names(names: Sequence[str]) -> list[str]:
    """Return the tasks' own names, in the order given: `brightness` for `mypackage.Brightness`."""
    return [find_task(name).name for name in names]
