"""What the validation curves of a run say: points, and how good its heads were."""

from collections.abc import Mapping, Sequence

from wssl_pl.evaluation.statistics import near_chance
from wssl_pl.metrics import is_lower_better
from wssl_pl.records import listed
from wssl_pl.study.definition import Arm
from wssl_pl.study.folder import Curve
from wssl_pl.tasks import TASKS

SCORES = "val/accuracy/"
DEFAULT_LEVELS = 4  # of a task by class path, whose default is not looked up


def points_of(curves: Mapping[str, Curve], metric: str) -> list[tuple[int, float]]:
    """Return the pairs of step and value of a metric; none if it was not logged."""
    return list(zip(curves[metric].steps, curves[metric].values, strict=True)) if metric in curves else []


def scores(curves: Mapping[str, Curve], monitor: str) -> dict[str, float]:
    """Return the accuracy of each head of a pretext run at the step of `best.ckpt`, by the monitored metric."""
    heads = {tag.removeprefix(SCORES): dict(points_of(curves, tag)) for tag in curves if tag.startswith(SCORES)}
    watched = {
        step: value for step, value in points_of(curves, monitor) if all(step in head for head in heads.values())
    }
    if not watched:
        return {}
    best = (min if is_lower_better(monitor) else max)(watched, key=lambda step: watched[step])
    return {name: head[best] for name, head in heads.items()}


def count_near_chance(arm: Arm, task: str, accuracies: Sequence[float]) -> int:
    """Return how many accuracies of a task's head are about those of guessing, by the number of the task's levels."""
    levels = listed((arm.pretext or {}).get(f"model.levels.{task}"))
    count = len(levels) or (len(TASKS[task].default_levels) if task in TASKS else DEFAULT_LEVELS)
    return sum(near_chance(accuracy, count) for accuracy in accuracies)
