"""What a training step of each rival costs beside its bare network, and how much of it the layer is that names it.

    WSSL_WEIGHTS=FOLDER python benchmarks/rivals.py --name rivals                       # 224 px, the papers' widths
    WSSL_WEIGHTS=FOLDER python benchmarks/rivals.py --size 128 --width 16 --batch 8 --name rivals_128

`step` is a whole training step on random images: losses, discriminator, both optimisers. `bare` is forward and backward
of the generator alone. Both are measured in turn, on one CPU thread in its own time, so that other programs count
little, or on the GPU. `layer` is the forward and backward of Shift-Net's shift, and of PIC's attentions, repeated on
what they were given in a step. `memory` is by how much the process grew, or the GPU's peak. The folder holds VGG16,
which PConv's losses need. With `--name` it writes `NAME.json` in benchmarks/results.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from steps import machine
from torch import Tensor

from wssl_pl.modules import InpaintModule
from wssl_pl.modules.filling import FillingModule
from wssl_pl.modules.rivals import shift_net
from wssl_pl.modules.rivals.pconv import PConvModule
from wssl_pl.modules.rivals.pic import PICModule
from wssl_pl.modules.rivals.pic_networks import Attention, ShortLongAttention
from wssl_pl.modules.rivals.shift_net import ShiftNetModule

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WITHOUT: dict[str, Any] = {"perceptual": 0.0, "style": 0.0}
ARMS: dict[str, Callable[..., FillingModule]] = {
    "downstream": lambda **width: InpaintModule("none", freeze_layers=0, **width),
    "shift_net": ShiftNetModule,
    "pic": PICModule,
    "pconv": lambda **width: PConvModule(second_phase=0.0, **width),
    "pconv without VGG16": lambda **width: PConvModule(second_phase=0.0, **WITHOUT, **width),
}


class Arm:
    """A module outside a training, and a batch of random images."""

    def __init__(self, name: str, width: int | None, batch: int, size: int) -> None:
        self.module = ARMS[name](**({} if width is None else {"width": width})).to(DEVICE).train()
        self.module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        if self.module.perceptual or self.module.style:
            self.module.feature_network(DEVICE)
        self.optimizer = self.module.optimizer_settings.make(self.module.parameter_groups(), fused=True)
        hole = torch.zeros(batch, 1, size, size, device=DEVICE)
        hole[..., size // 4 : -size // 8, size // 4 : -size // 8] = 1.0
        self.batch = {"image": torch.rand(batch, 3, size, size, device=DEVICE), "mask": hole}

    def step(self) -> None:
        """Make a training step."""
        self.optimizer.zero_grad()
        loss: Any = self.module.training_step(self.batch, 0)
        loss.backward()
        self.optimizer.step()
        if self.module.adversary is not None:
            self.module.adversary.step(self.module.discriminator_lr)

    def bare(self) -> None:
        """Run the generator forward and backward."""
        self.optimizer.zero_grad()
        self.module(self.batch["image"], self.batch["mask"]).mean().backward()

    def layers(self) -> dict[str, Callable[[], None]]:
        """Return forward and backward of the layers that name the method, on what a step gives them."""
        found: dict[str, list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]]] = {}

        def keep(name: str, layer: Callable[..., Tensor], given: tuple[Tensor, ...]) -> None:
            found.setdefault(name, []).append((layer, given))

        handles, shift = [], shift_net.shift

        def kept_shift(*given: Tensor) -> Tensor:
            keep("shift", shift, given)
            return shift(*given)

        for layer in [*self.module.modules(), *(x for net in self.module.trained_beside() for x in net.modules())]:
            if isinstance(layer, Attention):
                name = "attention" if isinstance(layer, ShortLongAttention) else "attention of the discriminators"
                handles.append(
                    layer.register_forward_pre_hook(lambda layer, given, name=name: keep(name, layer, given))
                )
        try:
            shift_net.shift = kept_shift  # type: ignore[assignment]
            self.step()
        finally:
            shift_net.shift = shift
            for handle in handles:
                handle.remove()
        return {name: partial(repeat, calls) for name, calls in found.items()}


def repeat(calls: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]]) -> None:
    """Run layers forward and backward, each on what it is given."""
    for layer, given in calls:
        output = layer(*(each.detach().requires_grad_(each.requires_grad) for each in given))
        output.backward(torch.ones_like(output))


def seconds(call: Callable[[], None]) -> float:
    """Return the seconds of a call, of this thread alone on a CPU."""
    now = time.thread_time if DEVICE.type == "cpu" else time.perf_counter
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    started = now()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return now() - started


def memory(name: str, kind: str, *shape: Any) -> float:
    """Return by how many MiB this process, a new one, grows in two steps of an arm, or the peak of the GPU's memory."""
    torch.set_num_threads(1)
    arm = Arm(name, *shape)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now
    before = resident("VmRSS")
    for _ in range(2):
        getattr(arm, kind)()
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resident("VmHWM") - before


def resident(name: str) -> float:
    """Return the memory of this process in MiB: `VmRSS`, now, or `VmHWM`, its peak."""
    # Not `ru_maxrss`, which a new process takes over from the one that starts it.
    status = Path("/proc/self/status").read_text()
    return float(status.partition(f"{name}:")[2].split()[0]) / 1024


def measure(name: str, rounds: int, *shape: Any) -> dict[str, Any]:
    """Return the parameters of an arm, and its times."""
    arm = Arm(name, *shape)
    arm.step()
    calls: dict[str, Callable[[], None]] = {"step": arm.step, "bare": arm.bare, **arm.layers()}
    taken: dict[str, list[float]] = {kind: [] for kind in calls}
    for turn in range(rounds + 1):
        for kind, call in calls.items():
            spent = seconds(call)
            if turn:  # kernels are chosen in the first round
                taken[kind].append(spent)
    times = {kind: statistics.median(values) for kind, values in taken.items()}
    return {
        "width": arm.module.hparams["width"],
        "parameters": sum(p.numel() for network in arm.module.networks() for p in network.parameters()),
        "parameters of the discriminator": sum(
            p.numel() for network in arm.module.trained_beside() for p in network.parameters()
        ),
        "step_s": times["step"],
        "bare_s": times["bare"],
        "step / bare": times["step"] / times["bare"],
        "share of the step": {kind: times[kind] / times["step"] for kind in times if kind not in ("step", "bare")},
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--width", type=int, help="of all; default: of each that of its paper")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--name", help="of the file in benchmarks/results; default: the results are printed alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = options.width, options.batch, options.size
    found: dict[str, Any] = {"settings": {"size": options.size, "batch": options.batch, "rounds": options.rounds}}
    found |= {"machine": machine(), "arms": {}}
    path = Path(__file__).parent / "results" / f"{options.name}.json"
    for name in options.arms:
        row = found["arms"][name] = measure(name, options.rounds, *shape)
        for kind in ("step", "bare"):  # each in a new process, whose peak is its own
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                row[f"{kind}_mib"] = pool.submit(memory, name, kind, *shape).result()
        print(name, json.dumps(row), flush=True)
        if options.name:
            path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
