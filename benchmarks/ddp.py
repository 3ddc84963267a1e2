"""Images per second of one and two processes, the time in their all-reduce, and a model of many GPUs.

    python benchmarks/ddp.py --rounds 3 --json benchmarks/results/ddp.json
    python benchmarks/ddp.py --model --json benchmarks/results/ddp.json   # the model alone, with its table in the docs

Measured: the bare step of a stage on random tensors, in float32, by one process of one thread, and by two with
`DistributedDataParallel` over gloo, both on this machine, in turn. The time in all-reduce is that from the start of
each bucket's to its end, in a hook, added up; it overlaps with the backward pass. What it costs is the step without it
(`no_sync`) subtracted from the step.

Modelled, not measured: the steps of n GPUs. A step computes for operations / `--tflops`. Its gradients, 4 bytes each,
take a ring all-reduce: 2 (n - 1) / n * bytes / bandwidth + 2 (n - 1) * latency, at the bandwidth of the slowest link.
With overlap it is hidden behind the backward pass, which takes its part of the operations; without, it is added. The
efficiency is the images per second of n GPUs over n times those of one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from blocks import fill_block
from ceilings import count_flops
from steps import STAGES, bare_step, machine, make_module
from torch import distributed, nn
from torch._C._distributed_c10d import GradBucket  # torch.distributed does not export its type
from torch.nn.parallel import DistributedDataParallel

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cluster.md"
GPUS = (2, 8, 16, 32, 64)
WIDTHS = (16, 64, 128)
BYTES = 4  # of a gradient


class Loss(nn.Module):
    """The loss of a module as a forward pass, which DDP wraps."""

    def __init__(self, module: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self) -> torch.Tensor:
        """Return the loss."""
        return self.loss()


def gradient_bytes(module: nn.Module) -> int:
    """The bytes that a step exchanges."""
    return BYTES * sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def all_reduce_seconds(gpus: int, size: float, gbits: float, latency_s: float) -> float:
    """The seconds of a ring all-reduce of `size` bytes over links of `gbits` Gbit/s."""
    return 2 * (gpus - 1) / gpus * size * 8 / (gbits * 1e9) + 2 * (gpus - 1) * latency_s


def efficiency(forward_s: float, backward_s: float, exchange_s: float, overlap: bool) -> float:
    """The images per second of n GPUs over n times those of one, by the model."""
    alone = forward_s + backward_s
    return alone / (forward_s + max(backward_s, exchange_s) if overlap else alone + exchange_s)


def model(
    links: dict[str, float], batch: int, size: int, tflops: float, latency_s: float, widths: tuple[int, ...] = WIDTHS
) -> list[dict[str, Any]]:
    """A row per stage, width and link with the efficiency of `GPUS`, without and with overlap."""
    rows = []
    for stage in STAGES:
        for width in widths:
            exchanged = gradient_bytes(make_module(stage, width))
            forward_s, backward_s = (flops * batch / (tflops * 1e12) for flops in count_flops(stage, width, size))
            for link, gbits in links.items():
                waits = {gpus: all_reduce_seconds(gpus, exchanged, gbits, latency_s) for gpus in GPUS}
                found = {
                    gpus: [round(efficiency(forward_s, backward_s, wait, overlap), 3) for overlap in (False, True)]
                    for gpus, wait in waits.items()
                }
                rows.append(
                    {"stage": stage, "width": width, "link": link, "gbits": gbits, "gradient_mb": exchanged / 1e6,
                     "compute_ms": 1000 * (forward_s + backward_s), "efficiency": found}
                )  # fmt: skip
    return rows


def lowest(rows: list[dict[str, Any]], link: str) -> str:
    """Return a sentence with the least that most GPUs reach over a link, by width."""
    most = GPUS[-1]
    least = {
        width: min(row["efficiency"][most][0] for row in rows if (row["width"], row["link"]) == (width, link))
        for width in WIDTHS
    }
    numbers = ", ".join(f"{value:.2f} at width {width}" for width, value in least.items())
    return f"In this model {most} GPUs at {link} reach an efficiency of at least {numbers}."


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The model's table, without and with overlap."""
    head = ["stage", "width", "gradients", "computing", "link", *(f"{gpus} GPUs" for gpus in GPUS)]
    lines = [f"| {' | '.join(head)} |", "|---|---:|---:|---:|---|" + "---:|" * len(GPUS)]
    for row in rows:
        cells = [" to ".join(f"{value:.2f}" for value in row["efficiency"][gpus]) for gpus in GPUS]
        facts = [row["stage"], str(row["width"]), f"{row['gradient_mb']:.0f} MB", f"{row['compute_ms']:.0f} ms"]
        lines.append(f"| {' | '.join([*facts, row['link'], *cells])} |")
    return "\n".join(lines)


def work(stage: str, width: int, batch: int, size: int, steps: int) -> None:
    """Measure as one of the processes that `measure` starts, and print the result of the first one."""
    torch.set_num_threads(1)
    processes = int(os.environ["WORLD_SIZE"])
    module = make_module(stage, width)
    model: Any = Loss(module, bare_step(module, batch, size))
    spent = [0.0, 0]
    if processes > 1:
        distributed.init_process_group("gloo")
        model = DistributedDataParallel(model)

        def hook(state: None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
            start, buffer = time.perf_counter(), bucket.buffer().div_(processes)
            spent[1] += buffer.numel() * buffer.element_size()

            def done(future: Any) -> torch.Tensor:
                spent[0] += time.perf_counter() - start
                reduced: torch.Tensor = future.value()[0]
                return reduced

            return distributed.all_reduce(buffer, async_op=True).get_future().then(done)

        model.register_comm_hook(None, hook)
    found: dict[str, list[float]] = {"step": [], "no_sync": [], "all_reduce": []}
    for number in range(steps + 1):
        spent[0] = 0.0
        spent[1] = 0
        start = time.perf_counter()
        model().backward()
        seconds = time.perf_counter() - start
        if number:  # the first one allocates
            found["step"].append(seconds)
            found["all_reduce"].append(spent[0])
        if processes > 1:
            with model.no_sync():
                start = time.perf_counter()
                model().backward()
                if number:
                    found["no_sync"].append(time.perf_counter() - start)
        module.zero_grad()
    if processes == 1 or distributed.get_rank() == 0:
        print(
            json.dumps(
                {name: statistics.median(values) for name, values in found.items() if values} | {"bytes": spent[1]}
            )
        )


def measure(stage: str, width: int, batch: int, size: int, steps: int, processes: int) -> dict[str, float]:
    """What the first of so many processes measures."""
    port = str(unused_port())
    command = [sys.executable, __file__, "--work", stage, "--widths", str(width), "--batch", str(batch)]
    command += ["--size", str(size), "--steps", str(steps)]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    shared |= {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a process failed")
    found: dict[str, float] = json.loads(outputs[0].splitlines()[-1])
    return found | {"images_per_s": processes * batch / found["step"]}


def unused_port() -> int:
    """A port on which nobody listens."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def main() -> None:
    """Read the command line, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--widths", type=int, nargs="+", default=[16])
    parser.add_argument("--batch", type=int, default=8, help="images of a process, where it is measured")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--gpu_batch", type=int, default=64, help="images of a GPU, in the model")
    parser.add_argument("--tflops", type=float, default=100.0, help="10^12 operations per second that a GPU reaches")
    parser.add_argument("--latency_us", type=float, default=10.0, help="of a message")
    parser.add_argument(
        "--links", nargs="+", default=["25 Gbit/s=25", "100 Gbit/s=100", "NVLink=3600"], help="NAME=Gbit/s"
    )
    parser.add_argument("--model", action="store_true", help="measure nothing; write the table of the page")
    parser.add_argument("--json", type=Path, help="file of the result; with --model its measurements stay")
    given = parser.parse_args()
    if given.work:
        work(given.work, given.widths[0], given.batch, given.size, given.steps)
        return
    links = {name: float(value) for name, _, value in (link.rpartition("=") for link in given.links)}
    rows = model(links, given.gpu_batch, given.size, given.tflops, given.latency_us * 1e-6)
    table = as_markdown(rows)
    print(table)
    if given.model:
        PAGE.write_text(fill_block(PAGE.read_text(), "benchmarks/ddp.py", f"{table}\n\n{lowest(rows, '100 Gbit/s')}"))
        if given.json:
            result = json.loads(given.json.read_text())
            given.json.write_text(json.dumps(result | {"model": rows}, indent=2) + "\n")
        return
    measured = []
    for stage in STAGES:
        for width in given.widths:
            rounds = [
                [measure(stage, width, given.batch, given.size, given.steps, processes) for processes in (1, 2)]
                for _ in range(given.rounds)
            ]
            one, two = (
                {name: statistics.median(entry[place][name] for entry in rounds) for name in rounds[0][place]}
                for place in (0, 1)
            )
            ratio = two["images_per_s"] / one["images_per_s"]
            measured.append({"stage": stage, "width": width, "one": one, "two": two, "speedup": ratio})
            print(f"{stage} {width}: {one['images_per_s']:.2f} and {two['images_per_s']:.2f} images/s", flush=True)
    if given.json:
        settings = {name: value for name, value in vars(given).items() if name not in ("json", "work", "model")}
        result = {"command": "python benchmarks/ddp.py", "settings": settings, "machine": machine()}
        given.json.write_text(json.dumps(result | {"measured": measured, "model": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
