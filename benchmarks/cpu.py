"""What the automatic choice of precision and threads gains on this CPU.

    python benchmarks/cpu.py --width 16 --json benchmarks/results/cpu.json

Images per second of the training step, with tasks and losses, in float32 and in what training would choose, with one
thread and with the chosen number; all in turn, compared round by round. Then the same for fused Adam, our SSIM and
channels_last.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from steps import STAGES, full_step, machine, make_module, optimiser_step, seconds

from wssl_pl.devices import choose_precision, choose_threads


def measure(width: int, batch: int, size: int, rounds: int) -> dict[str, Any]:
    """Images per second by stage and choice, with the ratio to float32 on one thread within rounds."""
    chosen = (choose_precision("cpu")[0], choose_threads())
    cases = dict.fromkeys([("32-true", 1), (chosen[0], 1), ("32-true", chosen[1]), chosen])
    result: dict[str, Any] = {"chosen": {"precision": chosen[0], "threads": chosen[1]}, "machine": machine()}
    for stage in STAGES:
        figures: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
        for _ in range(rounds):
            for precision, threads in cases:
                torch.set_num_threads(threads)
                module = make_module(stage, width)
                step = optimiser_step(module, full_step(module, batch, size, size + size // 7), precision)
                times = seconds(step, torch.device("cpu"), repeats=1, calls=4)
                figures[precision, threads].append(batch / statistics.median(times))
        base = figures["32-true", 1]
        result[stage] = {
            f"{precision}, {threads} threads": {
                "images_per_second": statistics.median(found),
                "ratio": statistics.median(a / b for a, b in zip(found, base, strict=True)),
            }
            for (precision, threads), found in figures.items()
        }
    return result


def means(width: int, batch: int, size: int, rounds: int) -> dict[str, Any]:
    """What fused Adam and our SSIM gain in the downstream step: ratios of speed within rounds."""
    torch.set_num_threads(choose_threads())
    cases = ("as chosen", "Adam not fused", "SSIM of Kornia")
    figures: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            module = make_module("downstream", width)
            if case == "Adam not fused":
                trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
                plain = partial(torch.optim.Adam, trained, lr=1e-4)
                module.configure_optimizers = plain  # type: ignore[method-assign]
            elif case == "SSIM of Kornia":
                module.loss.ssim = "kornia"  # type: ignore[union-attr]
            step = optimiser_step(module, full_step(module, batch, size, size + size // 7))
            (taken,) = seconds(step, torch.device("cpu"), repeats=1, calls=4)
            figures[case].append(batch / taken)
    return {
        f"gain over: {case}": statistics.median(a / b for a, b in zip(figures["as chosen"], found, strict=True))
        for case, found in figures.items()
        if case != "as chosen"
    }


def channels_last_gain(width: int, batch: int, size: int, rounds: int) -> float:
    """How much faster the networks' forward and backward pass is in channels_last than in PyTorch's own layout."""
    torch.set_num_threads(choose_threads())
    bf16 = choose_precision("cpu")[0] == "bf16-mixed"
    ratios = []
    for _ in range(rounds):
        taken = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            module = make_module("downstream", width).to(memory_format=layout)
            images = torch.rand(batch, 3, size, size).contiguous(memory_format=layout)

            def step(module: Any = module, images: torch.Tensor = images) -> None:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    output = module.decoder(*module.encoder(images))
                output.float().mean().backward()

            (taken[layout],) = seconds(step, torch.device("cpu"), repeats=1, calls=4)
        ratios.append(taken[torch.contiguous_format] / taken[torch.channels_last])
    return statistics.median(ratios)


def main() -> None:
    """Measures, prints, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = measure(args.width, args.batch, args.size, args.rounds)
    for stage in STAGES:
        for case, row in result[stage].items():
            print(f"{stage:<12}{case:<24}{row['images_per_second']:>8.1f} images/s{row['ratio']:>7.2f} x")
    result["means"] = means(args.width, args.batch, args.size, args.rounds)
    result["means"]["gain of channels_last"] = channels_last_gain(args.width, args.batch, args.size, args.rounds)
    print(json.dumps(result["means"], indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
