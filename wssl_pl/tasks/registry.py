"""Pretext tasks by the name, or the class path, that `tasks=` takes."""

from collections.abc import Mapping, Sequence

from wssl_pl.errors import WSSLError, there_are
from wssl_pl.plugins import find_class, import_class
from wssl_pl.tasks.base import PretextTask
from wssl_pl.tasks.blur import Blur
from wssl_pl.tasks.contrast import Contrast
from wssl_pl.tasks.jpeg import Jpeg
from wssl_pl.tasks.masked import Autoencoder, Masked, Restoration
from wssl_pl.tasks.noise import Noise
from wssl_pl.tasks.rotation import Rotation
from wssl_pl.tasks.saturation import Saturation
from wssl_pl.tasks.sharpness import Sharpness

# In the order in which active tasks change an image. Restoration comes first, as its target is the image that no other
# task has changed. Tasks that mask the image come last, and tasks by class path before them.
TASKS: dict[str, type[PretextTask]] = {
    task.name: task
    for task in (Restoration, Rotation, Saturation, Contrast, Blur, Sharpness, Noise, Jpeg, Autoencoder, Masked)
}


def find_task(name: str) -> type[PretextTask]:
    """Return the task of a name in `TASKS`, or of a class path such as `mypackage.tasks.Brightness`.

    Nothing is imported: names also come from checkpoints and configurations of other people.

    Raises:
        WSSLError: there is no such task, or its module is not imported.
    """
    if not isinstance(name, str):
        raise WSSLError(
            "tasks", name, "is no name", "give names or class paths, such as rotation or my_tasks.Brightness"
        )
    if name in TASKS:
        return TASKS[name]
    if "." not in name:
        raise WSSLError("tasks", [name], "is not a pretext task", there_are(TASKS, name))
    return find_class("tasks", name, PretextTask)


def import_task(name: str) -> type[PretextTask]:
    """Return the task of a name or class path that the user typed; the module of a class path is imported.

    Raises:
        WSSLError: the module cannot be imported, or has no such task.
    """
    return find_task(name) if name in TASKS or "." not in name else import_class("tasks", name, PretextTask)


def make_tasks(names: Sequence[str], levels: Mapping[str, Sequence[float]] | None = None) -> dict[str, PretextTask]:
    """Return the named tasks by their own names, in the order in which they change an image, with their levels.

    Args:
        names: keys of `TASKS` or class paths, each at most once, at least one.
        levels: levels by the task's own name, for those that do not take their default ones.

    Raises:
        WSSLError: an unknown task, a task twice, none at all, or levels for a task that is not among them.
    """
    if not names:
        raise WSSLError("tasks", [], "none given", f"name one or more of {', '.join(TASKS)}")
    found: dict[str, type[PretextTask]] = {}
    for name in names:
        task = find_task(name)
        if task.name in found:
            raise WSSLError("tasks", list(names), f"{task.name} is given twice", "name each task once")
        found[task.name] = task
    levels = levels or {}
    for name in levels:
        if name not in found:
            raise WSSLError("levels", list(levels[name]), f"{name} is not among the tasks {list(found)}")
    order = [*(name for name in TASKS if name in found), *(name for name in found if name not in TASKS)]
    return {name: found[name](levels.get(name)) for name in sorted(order, key=lambda name: found[name].masks_input)}


def task_names(names: Sequence[str]) -> list[str]:
    """Return the tasks' own names, in the order given: `brightness` for `mypackage.Brightness`."""
    return [find_task(name).name for name in names]
