"""Pretext tasks by the name that `tasks=` takes."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from wssl_pl.errors import UsageError
from wssl_pl.tasks.base import PretextTask
from wssl_pl.tasks.masked import Autoencoder, Masked
from wssl_pl.tasks.rotation import Rotation
from wssl_pl.tasks.saturation import Saturation
from wssl_pl.tasks.sharpness import Sharpness

# The order is that in which active tasks change an image; those that hide it come last, wherever they stand.
TASKS: dict[str, type[PretextTask]] = {
    task.name: task for task in (Rotation, Saturation, Sharpness, Autoencoder, Masked)
}


def make_tasks(names: Sequence[str], levels: Mapping[str, Sequence[float]] | None = None) -> dict[str, PretextTask]:
    """The named tasks, in the order in which they change an image, with their levels.

    Args:
        names: keys of `TASKS`, each at most once, at least one.
        levels: levels by task name, for those that shall not have their default ones.

    Raises:
        UsageError: an unknown task, a task twice, none at all, or levels for a task that is not among them.
    """
    known = ", ".join(TASKS)
    for name in names:
        if name not in TASKS:
            nearest = get_close_matches(name, TASKS, n=1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise UsageError(f"tasks: {name!r} is not a pretext task; {hint}there are {known}")
        if list(names).count(name) > 1:
            raise UsageError(f"tasks: {name!r} is given twice; name each task once")
    if not names:
        raise UsageError(f"tasks: none given; name one or more of {known}")
    levels = levels or {}
    for name in levels:
        if name not in names:
            raise UsageError(f"model.levels: {name!r} is not among the tasks {list(names)}")
    ordered = sorted(TASKS, key=lambda name: TASKS[name].hides)
    return {name: TASKS[name](levels.get(name)) for name in ordered if name in names}
