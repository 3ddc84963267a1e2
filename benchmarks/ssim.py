"""Our SSIM against Kornia's as a loss: milliseconds per image, forward and backward.

    python benchmarks/ssim.py --json benchmarks/results/ssim.json

Both are timed in turn and compared round by round, because shared machines drift; the agreement of value and gradient
is measured on the same images. Contiguous images are what users hand over; within a training step they are
channels_last, in which Kornia's depthwise convolutions are about twice as fast.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import kornia
import torch

from wssl_pl.losses import ssim_loss

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def once(implementation: str, prediction: torch.Tensor, target: torch.Tensor) -> tuple[float, float, torch.Tensor]:
    """Seconds, loss and gradient of one forward and backward pass."""
    prediction = prediction.detach().clone().requires_grad_()
    if prediction.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss = ssim_loss(prediction, target, implementation)
    loss.backward()
    if prediction.is_cuda:
        torch.cuda.synchronize()
    assert prediction.grad is not None
    return time.perf_counter() - start, loss.item(), prediction.grad


def measure(batch: int, size: int, rounds: int, device: str, layout: str) -> dict[str, Any]:
    """Medians and the ratio within rounds, with the largest differences between the two."""
    torch.manual_seed(0)
    target = torch.rand(batch, 3, size, size, device=device)
    prediction = (target + 0.1 * torch.randn_like(target)).clamp(0, 1)
    target, prediction = (images.contiguous(memory_format=FORMATS[layout]) for images in (target, prediction))
    times: dict[str, list[float]] = {"kornia": [], "fast": []}
    results = {}
    for turn in range(rounds + 1):
        for name, seconds in times.items():
            taken, loss, gradient = once(name, prediction, target)
            results[name] = (loss, gradient)
            if turn:  # the first round warms up
                seconds.append(taken)
    difference = (results["fast"][1] - results["kornia"][1]).abs().max() / results["kornia"][1].abs().max()
    ratios = [a / b for a, b in zip(times["kornia"], times["fast"], strict=True)]
    return {
        "ms_per_image": {name: 1e3 * statistics.median(seconds) / batch for name, seconds in times.items()},
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "difference": {"value": abs(results["fast"][0] - results["kornia"][0]), "gradient": float(difference)},
    }


def main() -> None:
    """Measures, prints, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {
        layout: measure(args.batch, args.size, args.rounds, args.device, layout) for layout in FORMATS
    }
    print(json.dumps(result, indent=2))
    result["settings"] = {"batch": args.batch, "size": args.size, "rounds": args.rounds}
    result["machine"] = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kornia": kornia.__version__,
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
