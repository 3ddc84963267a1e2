"""How long a study will take, from steps that are measured here or runs that are finished."""

import time
from collections.abc import Mapping

import torch

from wssl_pl.devices import choose_precision
from wssl_pl.errors import UsageError
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.modules.base import WSSLModule
from wssl_pl.study.folder import Status
from wssl_pl.study.plan import Plan, Run

MEASURED = 3  # steps, after one that warms up
DATA = {"data.image_size": 224, "data.batch_size": 64}
MODULES: dict[str, type[WSSLModule]] = {"pretext": PretextModule, "downstream": InpaintModule}


def build_module(plan: Plan, run: Run, widest: int | None = None) -> WSSLModule:
    """The run's LightningModule, untrained, at most `widest` wide; its checkpoint need not be there yet.

    Raises:
        UsageError: an option has a value that the module refuses, or is none of its options.
    """
    options = {key.removeprefix("model."): value for key, value in run.options.items() if key.startswith("model.")}
    if run.stage == "downstream":
        options["ckpt"] = "none"
        encoder = plan.runs[run.pretext].options if run.pretext else {}
        options |= {key: encoder[f"model.{key}"] for key in ("width", "norm") if f"model.{key}" in encoder}
    if widest is not None and options.get("width", widest + 1) > widest:
        options["width"] = widest
    try:
        return MODULES[run.stage](**options)
    except TypeError as error:
        raise UsageError(f"{run.stage} of {', '.join(run.arms)}: {str(error).split('__init__() ')[-1]}") from None


def kind(plan: Plan, run: Run) -> tuple:
    """What decides how long a step takes; runs of one kind are measured once."""
    source = plan.runs[run.pretext].options if run.pretext else {}
    decisive = {**source, **run.options} if run.stage == "downstream" else run.options
    names = ("model.width", "model.norm", "model.freeze_layers", "model.tasks", *DATA)
    shown = tuple(str(decisive.get(name)) for name in names if run.stage == "pretext" or name != "model.tasks")
    return (run.stage, *shown)


def measure_step(plan: Plan, run: Run, threads: int) -> float:
    """Seconds of one training step on random images, forward, backward and Adam, with so many CPU threads."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = build_module(plan, run).to(device).train()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], fused=True)
    size, count = (int(run.options.get(name, default)) for name, default in DATA.items())
    batch = {
        "image": torch.rand(count, 3, size, size, device=device),
        "mask": (torch.rand(count, 1, size, size, device=device) < 0.4).float(),
        "random": torch.rand(count, 32, device=device),
    }
    precision = run.options.get("trainer.precision") or choose_precision()[0]
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision, torch.bfloat16)
    module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for step in range(MEASURED + 1):
            if step == 1:
                _wait(device)
                begun = time.perf_counter()
            with torch.autocast(device.type, dtype, enabled=precision.endswith("mixed")):
                loss = module.training_step(batch, 0)
            loss.backward()  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()
        _wait(device)
        return (time.perf_counter() - begun) / MEASURED
    finally:
        torch.set_num_threads(before)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_costs(plan: Plan, threads: int) -> dict[tuple, float]:
    """Seconds per step of every kind of run."""
    costs: dict[tuple, float] = {}
    for run in plan.runs.values():
        if kind(plan, run) not in costs:
            costs[kind(plan, run)] = measure_step(plan, run, threads)
    return costs


def learned_costs(plan: Plan, states: Mapping[str, Status]) -> dict[tuple, float]:
    """Seconds per step from the runs that are done, by kind."""
    sums: dict[tuple, list[float]] = {}
    for identity, status in states.items():
        if status.state == "done" and status.steps:
            total = sums.setdefault(kind(plan, plan.runs[identity]), [0.0, 0.0])
            total[0] += status.seconds
            total[1] += status.steps
    return {name: seconds / steps for name, (seconds, steps) in sums.items()}


def expected_seconds(
    plan: Plan, costs: Mapping[tuple, float], slots: int, states: Mapping[str, Status], done_steps: Mapping[str, int]
) -> float | None:
    """Seconds until all runs are done, if `slots` are always busy; None while a cost is unknown.

    Args:
        plan: the runs.
        costs: seconds per step by kind; a kind that is missing takes the mean of its stage.
        slots: runs at the same time.
        states: what has become of them.
        done_steps: steps of those that are under way.
    """
    total = 0.0
    longest = 0.0
    for identity, run in plan.runs.items():
        if states[identity].state not in ("waiting", "running"):
            continue
        same_stage = [cost for name, cost in costs.items() if name[0] == run.stage]
        cost = costs.get(kind(plan, run)) or (sum(same_stage) / len(same_stage) if same_stage else None)
        if cost is None:
            return None
        left = cost * max(0, run.steps - done_steps.get(identity, 0))
        total += left
        longest = max(longest, left)
    return max(total / max(1, slots), longest)


def as_time(seconds: float) -> str:
    """Seconds as `3 h 05 min` or `12 min` or `40 s`."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
