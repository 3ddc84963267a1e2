"""Expected time of a study: from steps that are measured here on small batches, or from runs that are finished."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from wssl_pl.data.dataset import RANDOM_NUMBERS
from wssl_pl.devices import choose_precision
from wssl_pl.errors import WSSLError
from wssl_pl.modules import MODULES
from wssl_pl.modules.base import WSSLModule
from wssl_pl.modules.features import PRETEXT
from wssl_pl.networks import WIDTH
from wssl_pl.study.definition import Study
from wssl_pl.study.plan import Plan, Run, Status

BUDGET_S = 1.0  # for the measurement of steps, without the first ones
EVALUATION_S = 20.0  # of a run on a CPU, until one is measured
NARROW = 4  # width at which floating-point operations are counted
DATA = {"data.image_size": 224, "data.batch_size": 64}
MODEL = (
    "tasks", "weighting", "decoder", "heads", "pretext_holes", "encoder", "width", "norm", "block", "context",
    "context_levels", "mask_channel", "freeze_layers",
    "unfreeze_epoch", "perceptual", "style", "features", "adversarial", "discriminator_width",
    "restore", "strength_channels", "task_loss", "consistency", "loss", "ssim",
)  # fmt: skip
"""Options of the model that decide how long a step takes."""
RECONSTRUCTIONS = ("masked", "autoencoder", "restoration")
"""Tasks that have no place in joint training."""
WITHOUT_FEATURES = {"perceptual": 0.0, "style": 0.0, "features": None}

Kind = tuple[str, ...]
"""The stage and all options that decide how long a step takes, each as `name=value`."""


@dataclass(frozen=True)
class Cost:
    """Time of one training step.

    Attributes:
        seconds: of a step.
        source: how the time was found, in words.
    """

    seconds: float
    source: str


def build_module(plan: Plan, run: Run, widest: int | None = None) -> WSSLModule:
    """Return the run's LightningModule, untrained, at most `widest` wide; its checkpoint need not be there yet.

    Raises:
        WSSLError: an option has a value that the module refuses, or is none of its options.
    """
    options = {key.removeprefix("model."): value for key, value in run.options.items() if key.startswith("model.")}
    for name in [name for name in options if name.startswith("levels.")]:  # as `--model.levels.blur=` is typed
        options["levels"] = (options.get("levels") or {}) | {name.removeprefix("levels."): options.pop(name)}
    if run.stage == "downstream":
        options["ckpt"] = "none"
        encoder = plan.runs[run.pretext].options if run.pretext else {}
        options |= {key: encoder[f"model.{key}"] for key in ("width", "norm", "block") if f"model.{key}" in encoder}
        # What comes from a checkpoint that is not there yet.
        if options.get("features") == PRETEXT:
            for name in ("features", "perceptual", "style"):
                options.pop(name, None)
        if run.pretext:
            options.pop("reuse", None)
            if options.get("task_loss") and not options.get("tasks"):
                names = [name for name in encoder["model.tasks"] if name not in RECONSTRUCTIONS]
                options["tasks"] = names or None
    width = options.get("width")
    if widest is not None and not options.get("encoder") and (width is None or width > widest):
        options["width"] = widest
        if options.get("discriminator_width"):
            options["discriminator_width"] = max(1, round(options["discriminator_width"] * widest / (width or WIDTH)))
    try:
        return MODULES[run.stage](**options)
    except TypeError as error:
        raise WSSLError(None, None, f"{run.stage} of {', '.join(run.arms)}", str(error)) from None


def kind(plan: Plan, run: Run) -> Kind:
    """Return what decides how long a step takes; runs of one kind are measured once."""
    encoder = plan.runs[run.pretext].options if run.pretext else {}
    decisive = {key: encoder[key] for key in ("model.width", "model.norm") if key in encoder} | run.options
    names = (*(f"model.{name}" for name in MODEL), *DATA, "trainer.precision", "trainer.accelerator")
    return (run.stage, *(f"{name.removeprefix('model.')}={decisive[name]}" for name in names if name in decisive))


def batch_shape(run: Run) -> tuple[int, int]:
    """Return the number of images in a run's batch, and their size in pixels."""
    size, count = (int(run.options.get(name, default)) for name, default in DATA.items())
    return count, size


def labels(kinds: Mapping[Kind, object]) -> dict[Kind, str]:
    """Return names of kinds, each of its stage and of what not all kinds of the stage have."""
    named = {}
    for name in kinds:
        same_stage = [set(other) for other in kinds if other[0] == name[0]]
        shared = set.intersection(*same_stage) - {name[0]}
        named[name] = " ".join(part for part in name if part not in shared)
    return named


class Stepper:
    """Training steps of a run on random images: forward, backward and Adam, without Lightning's loop.

    Args:
        plan: the plan of the run.
        run: whose options are used.
        widest: a wider network is replaced by one of this width.
    """

    def __init__(self, plan: Plan, run: Run, widest: int | None = None) -> None:
        accelerator = str(run.options.get("trainer.accelerator", "auto"))
        cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")
        module: Any = build_module(plan, run, widest).to(self.device).train()
        if "model.unfreeze_epoch" in run.options:
            module.encoder.freeze(0)  # its later and longer steps
        self.optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], fused=True)
        # What a module asks its trainer for.
        module.log = module.log_dict = lambda *args, **kwargs: None
        module.optimizers = lambda *args, **kwargs: self.optimizer
        module.lr_schedulers = lambda: None
        self.module = module
        precision = str(run.options.get("trainer.precision") or choose_precision(accelerator)[0])
        self.mixed = precision.endswith("mixed")
        self.dtype = torch.float16 if precision == "16-mixed" and cuda else torch.bfloat16

    def step(self, count: int, size: int) -> float:
        """Make a step of `count` images with `size` pixels a side; return the seconds that grow with the images."""
        batch = {
            "image": torch.rand(count, 3, size, size, device=self.device),
            "mask": (torch.rand(count, 1, size, size, device=self.device) < 0.4).float(),
            "random": torch.rand(count, RANDOM_NUMBERS, device=self.device),
        }
        started = self.now()
        with torch.autocast(self.device.type, self.dtype, enabled=self.mixed):
            loss = self.module.training_step(batch, 0)
        if self.module.automatic_optimization:
            loss.backward()
            self.optimizer.step()
        seconds = self.now() - started
        self.optimizer.zero_grad()
        return seconds

    def now(self) -> float:
        """Return the seconds by which steps are measured."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        # A single thread's own time, where possible: what other programs take of the core does not belong to a step.
        return time.thread_time() if self.device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def measure_step(plan: Plan, run: Run, budget: float) -> Cost:
    """Return the time of a training step, measured on growing batches for about `budget` seconds.

    Where the run's own batch takes too long, its time is extrapolated along a straight line through the two largest
    batches: a part that every step needs (Adam, copies of the weights in bfloat16), and a part that grows with the
    pixels. Two batches are measured even if they take longer than the budget. At widths 16 and 64, with 224 px, batches
    of 8 and 64 and one thread, the estimate was within 10 % of what a step of `wssl train` took.
    """
    count, size = batch_shape(run)
    stepper = Stepper(plan, run)
    stepper.step(1, min(size, 32))  # memory is allocated and kernels are chosen
    end = stepper.now() + budget
    small = [(1, min(size, 64)), (1, min(size, 160))] if count > 1 or size > 64 else []
    doubled = [(2**power, size) for power in range(count.bit_length()) if 2**power < count]
    points: list[tuple[int, float]] = []
    for number, side in dict.fromkeys([*small, *doubled, (count, size)]):
        pixels = number * side * side
        if len(points) > 1 and stepper.now() + _at(points, pixels) > end:
            break
        if stepper.device.type == "cuda":
            stepper.step(number, side)  # kernels are chosen again for every size
        seconds = stepper.step(number, side)
        if stepper.now() + seconds < end:
            seconds = min(seconds, stepper.step(number, side))
        points.append((pixels, seconds))
        images = f"{number} x {side} px"
    whole = count * size * size
    if points[-1][0] == whole:
        return Cost(points[-1][1], f"measured with {images}")
    return Cost(_at(points, whole), f"extrapolated from {images}")


def _at(points: Sequence[tuple[int, float]], pixels: int) -> float:
    """Return the seconds for so many pixels on the line through the last two points of pixels and seconds."""
    (before, fast), (last, slow) = points[-2:]
    proportional = slow * pixels / last
    slope = (slow - fast) / (last - before)
    # Noise can turn the line. No batch takes longer for each pixel than a smaller one.
    return min(slow + slope * (pixels - last), proportional) if slope > 0 else proportional


def measure_costs(
    plan: Plan, threads: int, known: Mapping[Kind, float] | None = None, budget: float = BUDGET_S
) -> dict[Kind, Cost]:
    """Return the time of a step for every kind of run.

    One kind of each stage is measured, that with most steps, unless a run of the stage is finished; the others take its
    time in proportion to their floating-point operations.

    Args:
        plan: the runs.
        threads: CPU threads of a run.
        known: seconds per step of kinds that need no measurement, from finished runs.
        budget: seconds for the measurements.
    """
    examples: dict[Kind, Run] = {}
    steps: Counter[Kind] = Counter()
    for run in (run for run in plan.runs.values() if run.steps):
        examples.setdefault(kind(plan, run), run)
        steps[kind(plan, run)] += run.steps
    costs = {name: Cost(known[name], "from finished runs") for name in examples if known and name in known}
    left = [name for name, _ in steps.most_common() if name not in costs]
    sources = {name[0]: name for name in costs}  # by stage
    measured = {name[0]: name for name in reversed(left) if name[0] not in sources}
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in measured.values():
            costs[name] = measure_step(plan, examples[name], budget / len(measured))
        for name in left:
            if name not in costs:
                source = (sources | measured)[name[0]]
                ratio = count_operations(plan, examples[name]) / count_operations(plan, examples[source])
                costs[name] = Cost(costs[source].seconds * ratio, "by floating-point operations")
    finally:
        torch.set_num_threads(threads_before)
    return {name: costs[name] for name in examples}


def count_operations(plan: Plan, run: Run) -> float:
    """Return the relative work of a step: floating-point operations of a narrow one, by width and batch."""
    encoder = plan.runs[run.pretext].options if run.pretext else {}
    width = int(run.options.get("model.width", encoder.get("model.width", 64)) or 64)
    count, size = batch_shape(run)
    operations = _narrow_operations(plan, run)
    # The network whose features are compared has the same width whatever ours is.
    known, without = signature(MODULES[run.stage]).parameters, operations
    factors = [
        run.options.get(f"model.{name}", known[name].default) for name in ("perceptual", "style") if name in known
    ]
    if any(factors):
        own = run.options | {f"model.{name}": value for name, value in WITHOUT_FEATURES.items()}
        without = _narrow_operations(plan, replace(run, options=own))
    return (without * (width / NARROW) ** 2 + operations - without) * count * size**2


def _narrow_operations(plan: Plan, run: Run) -> float:
    """Return the floating-point operations of a step of one image of 64 px at width `NARROW`."""
    with FlopCounterMode(display=False) as counter:
        Stepper(plan, run, NARROW).step(1, 64)
    operations: float = counter.get_total_flops()
    return operations


def learned_costs(plan: Plan, states: Mapping[str, Status]) -> dict[Kind, float]:
    """Return the seconds per step of the runs that are done, by kind: the median, as a run may have been held up."""
    rates: dict[Kind, list[float]] = {}
    for identity, status in states.items():
        if status.state == "done" and status.steps:
            rates.setdefault(kind(plan, plan.runs[identity]), []).append(status.seconds / status.steps)
    return {name: median(own) for name, own in rates.items()}


def expected_seconds(plan: Plan, costs: Mapping[Kind, float], slots: int, states: Mapping[str, Status]) -> float:
    """Return the seconds until all runs are done, if `slots` are always busy.

    Args:
        plan: the runs.
        costs: seconds per step by kind.
        slots: runs at the same time.
        states: of the runs.
    """
    left = [
        costs[kind(plan, run)] * max(0, run.steps - states[name].steps)
        for name, run in plan.runs.items()
        if run.steps and states[name].state in ("waiting", "running")
    ]
    return max(sum(left) / max(1, slots), max(left, default=0.0))


def declared_costs(study: Study, plan: Plan) -> dict[str, float]:
    """Return by id of a run the time of one of its steps in those of the plain arm, as its definition has it."""
    arms = {run.id: study.arms[run.arms[0]] for run in plan.runs.values()}
    stages = {run.id: run.stage for run in plan.runs.values()}
    return {name: arm.pretext_cost if stages[name] == "pretext" else arm.step_cost for name, arm in arms.items()}


def time_left(
    plan: Plan, factors: Mapping[str, float], known: Mapping[str, Status], fractions: Mapping[str, float], slots: int
) -> float | None:
    """Return the seconds until all runs have ended, if `slots` are always busy; None without any finished run.

    Training takes as long as in finished runs of the same kind, or without one as in all of them by their declared
    costs; evaluation as long as it took in the median.

    Args:
        plan: the runs with their states.
        factors: as `declared_costs` returns them.
        known: statuses of the finished runs from which times are taken, by id.
        fractions: how much of its steps a running one has made, by id.
        slots: runs at the same time.
    """
    trained = {name: status for name, status in known.items() if status.steps}
    if not trained:
        return None
    rates = learned_costs(plan, trained)
    rate = median(status.seconds / (status.steps * factors[name]) for name, status in trained.items())
    timed = {name: status for name, status in known.items() if status.wall_seconds and plan.runs[name].reported}
    measured = [status.wall_seconds - status.seconds for status in timed.values()]
    evaluation = median(measured) if measured else EVALUATION_S
    left = [
        run.steps * rates.get(kind(plan, run), rate * factors[run.id]) * (1.0 - fractions.get(run.id, 0.0))
        + (evaluation if run.reported else 0.0)
        for run in plan.runs.values()
        if run.status.state in ("waiting", "running")
    ]
    return max(sum(left) / max(1, slots), max(left, default=0.0))


def as_time(seconds: float) -> str:
    """Return seconds as `3 h 05 min` or `12 min` or `40 s`."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
