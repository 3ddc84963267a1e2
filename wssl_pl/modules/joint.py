"""Joint training: the heads of pretext tasks stay on in the downstream stage, beside the inpainting loss."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wssl_pl.errors import WSSLError
from wssl_pl.modules.checkpoint import check_state, part_of, read_checkpoint
from wssl_pl.modules.heads import Answers, TaskMetrics, change_images
from wssl_pl.networks import initialise
from wssl_pl.tasks import Damage, FixedWeights, PretextTask, make_tasks, normalise_weights, task_names

OPTIONS = ("tasks", "weights", "levels")
"""Hyperparameters that come from the pretext checkpoint, and without one from the user."""


class JointTasks(nn.Module):
    """Pretext tasks with a head each on the encoder's features.

    Of a damage that the restoration makes, the head reads the features of the very image that is restored, and the
    label is the level nearest to the damage's strength. For the other tasks the encoder is given, in the same batch,
    the clean images changed by all tasks as in the pretext stage, without holes.

    Args:
        tasks: the tasks by name.
        weights: the weight of each task.
        in_channels: feature maps of the encoder's last features.
        restored: names of the damages that the restoration makes.
        omitted: names of the checkpoint's tasks that have no place in the downstream stage.

    Attributes:
        others: the names of the tasks that take images of their own.
        numbers: random numbers per sample for these images.
        margin: pixels around the image that their filters read.
    """

    def __init__(
        self,
        tasks: Mapping[str, PretextTask],
        weights: Mapping[str, float],
        in_channels: int,
        restored: Collection[str] = (),
        omitted: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.tasks: Any = nn.ModuleDict(tasks)
        self.heads: Any = nn.ModuleDict({name: task.head(in_channels) for name, task in tasks.items()})
        self.weighting = FixedWeights(weights)
        self.metrics = TaskMetrics(tasks)
        self.others = [name for name, task in tasks.items() if not (name in restored and isinstance(task, Damage))]
        changes = tasks.values() if self.others else ()
        self.numbers = sum(task.numbers for task in changes)
        self.margin = sum(task.margin for task in changes)
        self.omitted = list(omitted)

    def change(self, images: Tensor, uniform: Tensor, margin: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the encoder is given for `others`, and their targets.

        By all tasks: a head that never sees a damaged image takes a damage for the change that it looks for.

        Args:
            images: the clean images `(B, 3, S + 2 * margin, S + 2 * margin)`.
            uniform: `(B, K)` uniform random numbers in [0, 1), K at least `numbers`.
            margin: pixels on every side that are there for the tasks' filters alone.

        Returns:
            images `(B, 3, S, S)`, and the targets by task.
        """
        changed, drawn = change_images(self.tasks, images, uniform, margin)
        return changed, {name: drawn.targets[name] for name in self.others}

    def forward(
        self, damaged: Tensor, changed: Tensor, strengths: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> Answers:
        """Return the heads' answers from the encoder's last features.

        Args:
            damaged: the features of the damaged images.
            changed: those of what `change` returned.
            strengths: of the damages, `(B,)` each, by task.
            targets: of the other tasks, as `change` returned them.
        """
        nearest = {name: self.tasks[name].nearest(strengths[name]) for name in self.tasks if name not in self.others}
        return Answers.of(self.tasks, self.outputs(damaged, changed), nearest | dict(targets))

    def outputs(self, damaged: Tensor, changed: Tensor) -> dict[str, Tensor]:
        """Return the heads' outputs, float32, from features as in `forward`."""
        read = {name: changed if name in self.others else damaged for name in self.tasks}
        return {name: head(read[name]).float() for name, head in self.heads.items()}


@dataclass(frozen=True)
class PretextHeads:
    """The tasks of a pretext checkpoint that have a place in the downstream stage, by their own names.

    Attributes:
        paths: names or class paths, as `tasks=` takes them.
        tasks: the tasks, with their levels.
        weights: the weight of each at the end of the pretext stage; equal ones of `weighting=upgrad`.
        heads: the state dict of each head.
        omitted: names of the other tasks: what they do is the downstream stage itself.
    """

    paths: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, PretextTask] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    heads: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    omitted: list[str] = field(default_factory=list)


def make_joint_tasks(
    task_loss: float,
    typed: Mapping[str, Any],
    ckpt: str | None,
    restored: Sequence[str],
    in_channels: int,
    init: str = "he",
) -> tuple[JointTasks | None, dict[str, Any]]:
    """Return the tasks of joint training, None if there is none, and the values of `OPTIONS` that make them again.

    Args:
        task_loss: factor of the tasks' weighted loss.
        typed: values of `OPTIONS`, None for those that were not given.
        ckpt: the pretext checkpoint, from which tasks, weights, levels and heads come; None or `none`: there is none.
        restored: tasks or class paths of the damages of the restoration: the tasks where nothing else gives any.
        in_channels: feature maps of the encoder's last features.
        init: initialisation of new heads.

    Raises:
        WSSLError: there are no tasks, or some that cannot be joined; the heads of the checkpoint cannot be used; or
            tasks are given and there is no joint training.
    """
    if not task_loss:
        for name, value in typed.items():
            if value is not None:
                raise WSSLError(name, value, "no task is trained in this stage", "give task_loss=0.1, or omit it")
        return None, dict.fromkeys(OPTIONS)
    saved = PretextHeads() if ckpt in (None, "none") else read_heads(str(ckpt))
    paths = list(typed["tasks"] or saved.paths.values() or restored)
    if not paths:
        remedy = "give tasks=rotation,... or restore=..., or a pretext checkpoint of tasks that classify"
        raise WSSLError("task_loss", task_loss, "there are no tasks", remedy)
    names, weights = task_names(paths), typed["weights"]
    if weights is None and not typed["tasks"] and saved.paths:
        weights = [saved.weights[name] for name in names]
    kept = {name: task.levels for name, task in saved.tasks.items() if name in names}
    tasks = make_tasks(paths, kept | (typed["levels"] or {}))
    for name, task in tasks.items():
        if _is_downstream(task):
            raise WSSLError("tasks", paths, f"{name} is what the downstream stage does anyway", "omit it")
        if task.levels != kept.get(name, task.levels):
            raise WSSLError("levels", task.levels, f"the head of {name} in ckpt={ckpt} has {kept[name]}", "omit them")
    fixed = normalise_weights(names, weights)
    joint = JointTasks(tasks, fixed, in_channels, task_names(restored), saved.omitted)
    if init != "he":
        initialise(joint.heads, init)
    for name in kept:
        check_state(joint.heads[name], saved.heads[name], "ckpt", ckpt)
        joint.heads[name].load_state_dict(saved.heads[name])
    levels = {name: list(task.levels) for name, task in tasks.items()}
    return joint, {"tasks": paths, "weights": list(fixed.values()), "levels": levels}


def load_heads(joint: JointTasks, start: dict[str, Any], ckpt: str | None) -> None:
    """Take the heads of a finished model that was trained jointly, as far as they are for the same levels.

    Args:
        joint: the tasks, whose heads are changed.
        start: the finished model's checkpoint.
        ckpt: its path, for the message.

    Raises:
        WSSLError: they do not fit.
    """
    levels = start["hyper_parameters"].get("levels") or {}
    for name, head in joint.heads.items():
        state = part_of(start, f"joint.heads.{name}.")
        if state and tuple(levels.get(name) or joint.tasks[name].default_levels) == joint.tasks[name].levels:
            check_state(head, state, "ckpt", ckpt)
            head.load_state_dict(state)


def read_heads(ckpt: str) -> PretextHeads:
    """Return what a pretext checkpoint has for joint training.

    Raises:
        WSSLError: it cannot be read, or its heads read the decoder's features.
    """
    pretext = read_checkpoint(ckpt, stage="pretext")
    saved = pretext["hyper_parameters"]
    if saved.get("heads", "encoder") != "encoder":
        reason = f"the heads of ckpt={ckpt} read the decoder's features"
        raise WSSLError("task_loss", None, reason, "give a checkpoint of heads=encoder, or omit task_loss")
    found = make_tasks(saved["tasks"], saved.get("levels"))
    paths = dict(zip(task_names(saved["tasks"]), saved["tasks"], strict=True))
    weights = normalise_weights(list(paths), saved.get("weights"))
    if saved.get("weighting") == "uncertainty":
        learned = torch.exp(-pretext["state_dict"]["weighting.log_variances"].float())
        weights = dict(zip(found, learned.tolist(), strict=True))
    omitted = [name for name, task in found.items() if _is_downstream(task)]
    paths = {name: path for name, path in paths.items() if name not in omitted}
    heads = {name: part_of(pretext, f"heads.{name}.") for name in paths}
    return PretextHeads(paths, {name: found[name] for name in paths}, weights, heads, omitted)


def _is_downstream(task: PretextTask) -> bool:
    return task.reconstructs or task.masks_input
