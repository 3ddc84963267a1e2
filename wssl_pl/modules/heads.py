"""What both stages do with pretext tasks: change images, read the heads' outputs, and measure them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from wssl_pl.data.crop import trim
from wssl_pl.data.dataset import RANDOM_NUMBERS
from wssl_pl.errors import WSSLError
from wssl_pl.metrics import Mean
from wssl_pl.networks import without_autocast
from wssl_pl.tasks import Classification, Damage, PretextTask, Restoration, best_temperature, make_tasks, task_names
from wssl_pl.tasks.classification import TEMPERATURE_STEPS

SPREAD = 4096
"""How many evenly spread random numbers measure how often a level is drawn."""


class TaskState(Metric):
    """The sum of the states of a task over batches and processes."""

    total: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(shape), dist_reduce_fx="sum")

    def update(self, state: Tensor) -> None:
        """Add the state of a batch."""
        # With trainer.precision=bf16-true the sum starts in bfloat16, which holds no count above 256.
        self.total = self.total.float() + state

    def compute(self) -> Tensor:
        """Return the sum."""
        return self.total


@dataclass(frozen=True)
class Drawn:
    """What the tasks did to a batch of images.

    Attributes:
        drawn: what each task drew, by task: labels `(B,)` of a classification, patches of `masked`.
        targets: the answers by task: the labels, or the images to reconstruct `(B, 3, S, S)`.
        mask: where tasks masked the images, `(B, 1, S, S)` bool; None if no task masks.
    """

    drawn: dict[str, Tensor]
    targets: dict[str, Tensor]
    mask: Tensor | None


def sources(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, int]:
    """Return what changes to a batch are made of.

    A batch without random numbers of its samples, from a data set of your own, gets PyTorch's.

    Returns:
        the clean images with their margin, `(B, 3, S + 2 * margin, S + 2 * margin)`, the uniform random numbers of each
        sample, `(B, 16)`, and the margin in pixels.
    """
    image = batch["image"]
    wide, uniform = batch.get("image_with_margin", image), batch.get("random")
    if uniform is None:
        uniform = torch.rand(len(image), RANDOM_NUMBERS, device=image.device)
    return wide, uniform, (wide.shape[-1] - image.shape[-1]) // 2


def change_images(
    tasks: Mapping[str, PretextTask], images: Tensor, uniform: Tensor, margin: int = 0
) -> tuple[Tensor, Drawn]:
    """Change images by every task, one after the other.

    Args:
        tasks: the tasks by name.
        images: `(B, 3, S + 2 * margin, S + 2 * margin)` in [0, 1].
        uniform: `(B, K)` uniform random numbers in [0, 1), at least as many columns as the tasks take.
        margin: pixels on every side that are there for the tasks' filters alone and are cut off afterwards.

    Returns:
        the changed images `(B, 3, S, S)`, and what was drawn for them.
    """
    drawn, targets, masks, first = {}, {}, [], 0
    any_strength = has_restoration(tasks)
    with without_autocast(images.device):  # filters round in it, and a sum of weights is not 1
        for name, task in tasks.items():
            numbers = uniform[:, first : first + task.numbers]
            first += task.numbers
            if any_strength and isinstance(task, Damage):
                drawn[name] = what = task.strength(numbers[:, 0])
                targets[name] = task.nearest(what)
                images = task.damage(images, what, numbers[:, -1])
            else:
                drawn[name] = what = task.draw(numbers)
                targets[name] = task.target(trim(images, margin), what)
                if task.masks_input:
                    what = task.mask(images, what)
                    masks.append(trim(what, margin))
                images = task(images, what)
            # Cut after each filter, so that none ever reads what the one before it made of a border.
            used = min(margin, task.margin)
            images, margin = trim(images, used), margin - used
    mask = torch.cat(masks, dim=1).amax(dim=1, keepdim=True) if masks else None
    return trim(images, margin), Drawn(drawn, targets, mask)


def check_same_tasks(tasks: Mapping[str, PretextTask], now: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Check that the heads of a resumed run mean what they meant: its levels, and weights of the same tasks.

    Args:
        tasks: the present tasks.
        now: the present hyperparameters.
        saved: those of the resumed run.

    Raises:
        WSSLError: they do not.
    """
    before = task_names(saved.get("tasks") or [])
    for name in tasks.keys() & {*before}:
        levels = tuple((saved.get("levels") or {}).get(name) or tasks[name].default_levels)
        if tasks[name].levels != levels:
            reason = f"the head of {name} in the resumed run has {list(levels)}"
            raise WSSLError("levels", list(tasks[name].levels), reason, "omit them, or start a new run")
    names, weights = task_names(now.get("tasks") or []), list(now.get("weights") or [])
    if {*before} == {*tasks} and (made := [*make_tasks(saved["tasks"], saved.get("levels"))]) != [*tasks]:
        raise WSSLError("tasks", names, f"the resumed run has them in the order {', '.join(made)}", "give them so")
    if not weights or weights != list(saved.get("weights") or []):
        return  # equal ones, or others that were typed
    if dict(zip(names, weights, strict=True)) != dict(zip(before, weights, strict=True)):
        reason = f"in the resumed run the weights {weights} are those of {', '.join(before)}"
        raise WSSLError("tasks", names, reason, "give the tasks in that order")


def has_restoration(tasks: Mapping[str, PretextTask]) -> bool:
    """Return whether damages have any strength between their levels, as those of the downstream stage."""
    return any(isinstance(task, Restoration) for task in tasks.values())


def unchanged_fraction(task: Classification, strength: Callable[[Tensor], Tensor] | None = None) -> float:
    """Return the fraction of the training's images that a task has left as they are, by the labels of its head.

    Args:
        task: the task.
        strength: returns strengths from uniform numbers, to which the nearest level is the label; None: all levels are
            drawn alike.
    """
    if strength is None or not isinstance(task, Damage) or task.unchanged is None:
        return 1.0 / len(task.levels)
    labels = task.nearest(strength((torch.arange(SPREAD) + 0.5) / SPREAD))
    fraction = float((labels == task.levels.index(task.unchanged)).float().mean())
    return min(max(fraction, 1.0 / SPREAD), 1.0 - 1.0 / SPREAD)


@dataclass(frozen=True)
class Answers:
    """What the heads made of a batch, by task: outputs, targets, losses and states."""

    outputs: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    losses: dict[str, Tensor]
    states: dict[str, Tensor]

    @classmethod
    def of(cls, tasks: Mapping[str, PretextTask], outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Self:
        """Return the outputs with their losses and states."""
        losses = {name: task.loss(outputs[name], targets[name]) for name, task in tasks.items()}
        with torch.no_grad():
            states = {name: task.state(outputs[name], targets[name]) for name, task in tasks.items()}
        return cls(outputs, targets, losses, states)


def check_temperatures(temperatures: Mapping[str, float] | None) -> None:
    """Raise `WSSLError` for temperatures of heads, by task, that are not positive numbers."""
    for name, value in (temperatures or {}).items():
        if not (isinstance(value, int | float) and 0.0 < value < float("inf")):
            raise WSSLError("temperatures", value, f"that of {name} is not a positive number")


def calibrated(
    tasks: Mapping[str, PretextTask], outputs: Mapping[str, Tensor], temperatures: Mapping[str, float] | None
) -> dict[str, Tensor]:
    """Return the probabilities `(B, levels)`, by task, of the heads' outputs over their temperatures, by default 1."""
    found = {name: task for name, task in tasks.items() if isinstance(task, Classification)}
    return {name: task.predict(outputs[name] / (temperatures or {}).get(name, 1.0)) for name, task in found.items()}


def named_metrics(
    split: str, tasks: Mapping[str, PretextTask], losses: Mapping[str, Tensor], states: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return `<split>/loss/<task>` and `<split>/accuracy/<task>`, or what else the task's score is, of every task."""
    metrics = {f"{split}/loss/{name}": losses[name] for name in tasks}
    return metrics | {f"{split}/{task.score_name}/{name}": task.score(states[name]) for name, task in tasks.items()}


class TaskMetrics(nn.Module):
    """Losses and states of tasks over the batches of a validation, and over processes.

    Args:
        tasks: the tasks by name.

    Attributes:
        latest: the states of the last validation, by task.
        temperatures: of the last validation, by task, with which `calibrated` computes probabilities.
    """

    def __init__(self, tasks: Mapping[str, PretextTask]) -> None:
        super().__init__()
        self.losses: Any = nn.ModuleDict({name: Mean() for name in tasks})
        self.states: Any = nn.ModuleDict({name: TaskState(task.state_shape) for name, task in tasks.items()})
        heads = {name: task for name, task in tasks.items() if isinstance(task, Classification)}
        steps = TEMPERATURE_STEPS[1] - TEMPERATURE_STEPS[0] + 1
        self.by_temperature: Any = nn.ModuleDict({name: TaskState((steps,)) for name in heads})
        self.latest: dict[str, Tensor] = {}
        self.temperatures: dict[str, float] = {}

    def update(self, tasks: Mapping[str, PretextTask], answers: Answers, count: int) -> None:
        """Add a batch of `count` images."""
        for name, loss in answers.losses.items():
            self.losses[name].update(loss, count=count)
            self.states[name].update(answers.states[name])
        for name, metric in self.by_temperature.items():
            task: Any = tasks[name]
            metric.update(task.losses_by_temperature(answers.outputs[name], answers.targets[name]))

    def at_chance(self, tasks: Mapping[str, PretextTask]) -> list[str]:
        """Return the tasks whose heads had not learned at the last validation; none before it."""
        return [name for name, state in self.latest.items() if bool(tasks[name].at_chance(state))]

    def compute(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the mean loss and the state of each task since the last call, and start again."""
        losses = {name: metric.compute() for name, metric in self.losses.items()}
        self.latest = {name: metric.compute() for name, metric in self.states.items()}
        self.temperatures = {name: best_temperature(metric.compute()) for name, metric in self.by_temperature.items()}
        for metrics in (self.losses, self.states, self.by_temperature):
            for metric in metrics.values():
                metric.reset()
        return losses, self.latest

    def figures(self, tasks: Mapping[str, PretextTask], title: str) -> dict[str, Any]:
        """Return the tasks' figures of the last validation by tag."""
        drawn = {name: tasks[name].figures(state.cpu(), f"{name}, {title}") for name, state in self.latest.items()}
        return {f"val/{key}/{name}": figure for name, figures in drawn.items() for key, figure in figures.items()}
