"""How fast the machine could be: copies, matrix products, and the U-Net's own convolutions, one by one.

The convolution ceiling of a stage is the sum of its convolutions' operations over the sum of their times when each
runs alone, in bfloat16 and channels_last, forward and, where the stage needs it, backward.
"""

import statistics
from typing import Any, NamedTuple

import torch
from steps import make_module, seconds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wssl_pl.modules import PretextModule
from wssl_pl.modules.base import WSSLModule


class Convolution(NamedTuple):
    """One convolution of a network, and which gradients a training step takes through it."""

    transposed: bool
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    size: int
    input_gradient: bool
    weight_gradient: bool

    @property
    def name(self) -> str:
        """E.g. `conv3 64>128 @112 fwd+dx+dw`: kernel, channels, side of the input, passes."""
        passes = "fwd" + "+dx" * self.input_gradient + "+dw" * self.weight_gradient
        kind = "up" if self.transposed else "conv"
        return f"{kind}{self.kernel} {self.in_channels}>{self.out_channels} @{self.size} {passes}"


def training_flops(stage: str, width: int, size: int) -> int:
    """Floating-point operations of a training step's networks for one image, forward and backward, counted."""
    return sum(count_flops(stage, width, size))


def count_flops(stage: str, width: int, size: int) -> tuple[int, int]:
    """Return the operations of a training step for one image: of the forward and of the backward pass."""
    module = make_module(stage, width).to("meta")
    with FlopCounterMode(display=False) as counter:
        loss = _loss(module, size)
        forward: int = counter.get_total_flops()
        loss.backward()
        both: int = counter.get_total_flops()
    return forward, both - forward


def convolutions(stage: str, width: int, size: int) -> list[Convolution]:
    """The convolutions that a training step of the stage runs, in their order."""
    module = make_module(stage, width).to("meta")
    found: list[Convolution] = []

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        transposed = isinstance(layer, nn.ConvTranspose2d)
        shape = (layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0], layer.padding[0])
        gradients = (inputs[0].requires_grad, layer.weight.requires_grad)
        found.append(Convolution(transposed, *shape, inputs[0].shape[-1], *gradients))

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(note)
    _loss(module, size)
    return found


def _loss(module: WSSLModule, size: int) -> Tensor:
    images = torch.zeros(1, 3, size, size, device="meta")
    if isinstance(module, PretextModule):
        return torch.stack([logits.sum() for logits in module(images).values()]).sum()
    output: Tensor = module(images, images[:, :1]).sum()
    return output


def time_convolution(case: Convolution, batch: int, device: torch.device, repeats: int, target: float) -> list[float]:
    """Seconds of one forward and backward pass through a convolution without bias, in bfloat16 and channels_last."""
    kind = nn.ConvTranspose2d if case.transposed else nn.Conv2d
    layer = kind(case.in_channels, case.out_channels, case.kernel, case.stride, case.padding, bias=False)
    layer.to(device, torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    shape = (batch, case.in_channels, case.size, case.size)
    images = torch.randn(shape, device=device, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    images.requires_grad_(case.input_gradient)
    wanted = [images] * case.input_gradient + [layer.weight] * case.weight_gradient
    if not wanted:
        with torch.no_grad():
            return seconds(lambda: layer(images), device, repeats, target)
    gradient = torch.randn_like(layer(images))
    return seconds(lambda: torch.autograd.grad(layer(images), wanted, gradient), device, repeats, target)


def count_convolution(case: Convolution) -> int:
    """Operations of what `time_convolution` times, for one image."""
    passes = 1 + case.input_gradient + case.weight_gradient
    side = case.size if case.transposed else case.size // case.stride
    return passes * 2 * case.in_channels * case.out_channels * case.kernel**2 * side**2


def convolution_ceiling(
    stage: str, width: int, size: int, batch: int, device: torch.device, repeats: int, target: float
) -> dict[str, Any]:
    """The stage's convolutions with FLOP/s each; of all together `tflops`, and `images_per_s` if all else were free."""
    cases = convolutions(stage, width, size)
    timed = {case: statistics.median(time_convolution(case, batch, device, repeats, target)) for case in set(cases)}
    total = sum(timed[case] for case in cases)
    flops = batch * sum(count_convolution(case) for case in cases)
    shapes = [
        {
            "shape": case.name,
            "times": cases.count(case),
            "ms": 1e3 * timed[case],
            "tflops": batch * count_convolution(case) / timed[case] / 1e12,
        }
        for case in dict.fromkeys(cases)
    ]
    return {"batch": batch, "tflops": flops / total / 1e12, "images_per_s": batch / total, "shapes": shapes}


def copy_ceiling(megabytes: int, device: torch.device, repeats: int, target: float) -> dict[str, Any]:
    """GB/s of a copy within the device's memory, bytes read and written counted."""
    source = torch.empty(megabytes * 2**20, dtype=torch.uint8, device=device)
    sink = torch.empty_like(source)
    rates = [2 * source.numel() / taken / 1e9 for taken in seconds(lambda: sink.copy_(source), device, repeats, target)]
    return {"megabytes": megabytes, **spread_of(rates, "gb_per_s")}


def matmul_ceiling(side: int, device: torch.device, repeats: int, target: float) -> dict[str, Any]:
    """TFLOP/s of a square bfloat16 matrix product of random numbers, which draw more power than zeros."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    rates = [2 * side**3 / taken / 1e12 for taken in seconds(lambda: a @ b, device, repeats, target)]
    return {"side": side, **spread_of(rates, "tflops")}


def spread_of(values: list[float], name: str) -> dict[str, Any]:
    """The median under `name`, the spread (largest less smallest, over the median), and the repeats themselves."""
    median = statistics.median(values)
    return {name: median, "spread": (max(values) - min(values)) / median, "repeats": values}
