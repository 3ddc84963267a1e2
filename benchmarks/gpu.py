"""What a GPU could do, what a training step takes of it, and what is left of that in the whole loop.

    python benchmarks/gpu.py --images data/celeba_hq --out benchmarks/results
    python benchmarks/gpu.py --small --out /tmp/results          # on a CPU, to see that it runs

Parts: a ceilings of the machine, b training steps with their peak memory, c the Lightning loop, e the ten most
expensive kernels, f float32 against bfloat16. Each case is written to `<out>/gpu.json` and `gpu.md` (`gpu_on_cpu` for
`--device=cpu`, `gpu_small` with `--small`) as soon as it is measured. A later call with the same settings adds its
cases, or replaces those that it measures again; with other settings, or on another machine, the earlier files are
renamed to `gpu-1.json` and so on. No case starts after `--budget-s`, and those not measured are listed. From a checkout
that is not installed: `PYTHONPATH=. python benchmarks/gpu.py`.
"""

import argparse
import gc
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ceilings import convolution_ceiling, copy_ceiling, matmul_ceiling, spread_of, training_flops
from gpu_tables import as_markdown
from steps import (
    STAGES,
    ImagesInMemory,
    bare_step,
    full_step,
    host_batches,
    load_images,
    loop,
    machine,
    make_module,
    optimiser_step,
    seconds,
    wait,
)

from wssl_pl.data import WSSLDataModule
from wssl_pl.modules.base import WSSLModule

# Parts run in this order: what comes last is missed least.
ORDER = "abcfe"
SMALL = {
    "width": 4, "size": 32, "resize": 36, "batches": [2, 4], "loop_steps": 4, "curve_steps": 4, "curve_batch": 4,
    "copy_mb": 4, "matmul": 128, "ceiling_batch": 2, "target": 0.01, "images_in_memory": 16,
}  # fmt: skip
# 256 is the first choice of batch: should time run out, the most telling cases are there.
FULL = {
    "width": 64, "size": 224, "resize": 256, "batches": [256, 512, 128, 1024, 64], "loop_steps": 80,
    "curve_steps": 60, "curve_batch": 32, "copy_mb": 2048, "matmul": 8192, "ceiling_batch": 256, "target": 0.4,
    "images_in_memory": 2048,
}  # fmt: skip


class Report:
    """The measurements so far, on disk as soon as they are made.

    Args:
        path: The JSON file; the tables are beside it, as `.md`.
        settings: What is the same for all measurements of the file.
        budget: Seconds from now in which a measurement may start.
        device: Where they are made.
    """

    def __init__(self, path: Path, settings: dict[str, Any], budget: float, device: torch.device) -> None:
        self.path = path
        self.start, self.budget = time.monotonic(), budget
        belongs = {"machine": machine(device), "settings": settings}
        self.data: dict[str, Any] = belongs | {"not_measured": [], "seconds": {}, "parts": {}}
        if path.exists():
            before = json.loads(path.read_text())
            if without_date(before) == without_date(belongs):
                self.data["parts"], self.data["seconds"] = before["parts"], before["seconds"]
            else:
                self._rename()
        path.parent.mkdir(parents=True, exist_ok=True)

    def _rename(self) -> None:
        number = 1
        while (to := self.path.with_name(f"{self.path.stem}-{number}.json")).exists():
            number += 1
        print(f"{self.path} has other settings, or is of another machine: it is {to.name} now", flush=True)
        for suffix in (".json", ".md"):
            if (file := self.path.with_suffix(suffix)).exists():
                file.rename(to.with_suffix(suffix))

    def spent(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.start

    def has_time(self, what: str, share: float = 1.0) -> bool:
        """Return whether `share` of the budget is not used up yet; if it is, `what` is listed as not measured."""
        if self.spent() < share * self.budget:
            return True
        self.data["not_measured"].append(what)
        self.save()
        return False

    def save(self) -> None:
        """Write both files, each whole or not at all."""
        for path, text in (
            (self.path, json.dumps(self.data, indent=1) + "\n"),
            (self.path.with_suffix(".md"), as_markdown(self.data)),
        ):
            beside = path.with_name(f".{path.name}.tmp")
            beside.write_text(text)
            beside.replace(path)

    def put(self, part: str, case: str, record: dict[str, Any]) -> None:
        """Add the measurements of a case to a part, in place of earlier ones."""
        self.data["parts"].setdefault(part, {})[case] = record
        self.save()


def without_date(data: dict[str, Any]) -> Any:
    """Return machine and settings, with which measurements have to agree to be in one file."""
    return {name: value for name, value in data["machine"].items() if name != "date"}, data["settings"]


@contextmanager
def memory_of(device: torch.device, record: dict[str, Any]) -> Any:
    """Writes the peak of the device's memory within the context into `record`, and frees it all at the end."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    except torch.OutOfMemoryError:
        record["error"] = "out of memory"
    # One case that a compiler cannot handle must not cost those that come after it.
    except Exception as error:
        record["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
    if device.type == "cuda":
        record["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def part_a(args: argparse.Namespace, device: torch.device, report: Report) -> None:
    """The machine's ceilings."""
    once: dict[str, Callable[[], dict[str, Any]]] = {
        "copy": lambda: copy_ceiling(args.copy_mb, device, args.repeats, args.target),
        "matmul": lambda: matmul_ceiling(args.matmul, device, args.repeats, args.target),
    }
    for stage in STAGES:
        once[f"convolutions_{stage}"] = lambda stage=stage: convolution_ceiling(  # type: ignore[misc]
            stage, args.width, args.size, args.ceiling_batch, device, args.repeats, args.target / 4
        )
    for name, measure in once.items():
        record: dict[str, Any] = {}
        with memory_of(device, record):
            record |= measure()
        report.put("a", name, record)


def compile_parts(module: WSSLModule, variant: str, **options: Any) -> None:
    """Compile nothing (`eager`), the networks in place (`compiled`), or tasks and loss as well (`whole`)."""
    torch._dynamo.reset()
    if variant == "eager":
        return
    for network in module.networks():
        network.compile(**options)
    if variant == "whole":
        for owner, name in ((module, "transform"), (getattr(module, "loss", None), "parts")):
            if hasattr(owner, name):
                setattr(owner, name, torch.compile(getattr(owner, name), **options))


def compile_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of torch.compile for the steps of parts b and e."""
    return {"dynamic": False, "mode": args.compile_mode, "backend": args.compile_backend}


def measure_step(
    stage: str, kind: str, variant: str, batch: int, module: WSSLModule, args: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Return images/s of one kind of step with its spread, TFLOP/s, peak of memory, and time of the first call."""
    record: dict[str, Any] = {"stage": stage, "kind": kind, "variant": variant, "batch": batch}
    with memory_of(device, record):
        if kind == "bare":
            loss = bare_step(module, batch, args.size)
        else:
            loss = full_step(module, batch, args.size, args.resize)
        step = optimiser_step(module, loss)
        began = time.perf_counter()
        step()
        wait(device)
        record["first_call_s"] = time.perf_counter() - began
        rates = [batch / taken for taken in seconds(step, device, args.repeats, args.target)]
        record |= spread_of(rates, "images_per_s")
        record["tflops"] = record["images_per_s"] * training_flops(stage, args.width, args.size) / 1e12
        # What the case holds must go before the memory is freed.
        del loss, step
    return record


def part_b(args: argparse.Namespace, device: torch.device, report: Report) -> None:
    """The steps: eager for all batches, then compiled, then tasks and loss compiled at the first batch."""
    cases = [
        (variant, batch, stage)
        for variant in args.variants
        for batch in (args.batches if variant != "whole" else args.batches[:1])
        for stage in STAGES
    ]
    for variant, batch, stage in cases:
        if not report.has_time(f"b: {stage} {variant} {batch}", share=0.6):
            continue
        module = make_module(stage, args.width).to(device)
        compile_parts(module, variant, **compile_options(args))
        for kind in ("bare", "step") if variant != "whole" else ("step",):
            record = measure_step(stage, kind, variant, batch, module, args, device)
            module.zero_grad()
            report.put("b", f"{stage} {kind} {variant} {batch}", record)
        del module


def best_batch(stage: str, variant: str, report: Report, default: int) -> int:
    """Return the batch at which the variant's whole step was fastest in part b."""
    found = [
        record
        for record in report.data["parts"].get("b", {}).values()
        if (record["stage"], record["kind"], record["variant"]) == (stage, "step", variant) and "error" not in record
    ]
    return max(found, key=lambda record: record["images_per_s"])["batch"] if found else default


def part_c(args: argparse.Namespace, device: torch.device, report: Report) -> None:
    """The command line's own training on images in memory, right after the same step without Lightning."""
    images = load_images(args.images, args.resize, args.images_in_memory)
    for variant in [name for name in args.variants if name != "whole"]:
        for stage in STAGES:
            if not report.has_time(f"c: {stage} {variant}"):
                continue
            batch = args.loop_batch or best_batch(stage, variant, report, args.batches[0])
            module = make_module(stage, args.width).to(device)
            compile_parts(module, variant)  # as training does it: without the options of parts b and e
            alone = measure_step(stage, "step", variant, batch, module, args, device)
            del module
            record: dict[str, Any] = {"stage": stage, "variant": variant, "batch": batch, "spread": []}
            rates: list[float] = []
            with memory_of(device, record), tempfile.TemporaryDirectory() as folder:
                for turn in range(args.loop_repeats):
                    torch._dynamo.reset()
                    rates.append(_loop(args, stage, variant, batch, images, Path(folder) / str(turn), device))
                record |= spread_of(rates, "images_per_s")
            record["step_images_per_s"] = alone.get("images_per_s")
            if rates and record["step_images_per_s"]:
                record["loop/step"] = statistics.median(rates) / record["step_images_per_s"]
            report.put("c", f"{stage} {variant} {batch}", record)


def _loop(
    args: argparse.Namespace, stage: str, variant: str, batch: int, images: Any, run: Path, device: torch.device
) -> float:
    warm_up = max(2, args.loop_steps // 4)
    memory = ImagesInMemory(images, batch * (warm_up + args.loop_steps))
    return loop(
        stage, args.width, batch, warm_up, args.size, args.resize, run,
        "--data.images=synthetic", "--data.masks=synthetic",
        f"--model.compile={str(variant == 'compiled').lower()}", f"--trainer.accelerator={device.type}",
        f"--trainer.benchmark={str(args.cudnn_benchmark).lower()}", *args.loop_args, callbacks=(memory,),
    )  # fmt: skip


def part_f(args: argparse.Namespace, device: torch.device, report: Report) -> None:
    """Losses of the same steps on the same data in float32 and bfloat16; and of other initial weights, as a scale."""
    batches = list(host_batches(args.images, args.curve_batch, args.size, args.resize, args.curve_steps))
    for stage in STAGES:
        if not report.has_time(f"f: {stage}"):
            continue
        curves = {
            name: loss_curve(stage, seed, precision, batches, args, device)
            for name, seed, precision in (("float32", 0, "32-true"), ("bf16", 0, "bf16-mixed"), ("seed", 1, "32-true"))
        }
        last = max(1, args.curve_steps // 4)
        ends = {name: statistics.mean(curve[-last:]) for name, curve in curves.items()}
        gaps = {
            f"{name}_gap": statistics.mean(
                abs(a - b) / abs(a) for a, b in zip(curves["float32"], curves[name], strict=True)
            )
            for name in ("bf16", "seed")
        }
        report.put("f", stage, {"end": ends, **gaps, "curves": curves})


def loss_curve(
    stage: str, seed: int, precision: str, batches: list[dict[str, Any]], args: argparse.Namespace, device: torch.device
) -> list[float]:
    """The loss before each step; float32 means float32, without TensorFloat-32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        torch.manual_seed(seed)
        module = make_module(stage, args.width).to(device)
        data = WSSLDataModule("synthetic", "synthetic", image_size=args.size, resize=args.resize)
        ready: dict[str, Any] = {}
        step = optimiser_step(module, lambda: module.training_step(ready, 0), precision)  # type: ignore[arg-type,return-value]
        losses = []
        for batch in batches:
            moved = {name: value.to(device) for name, value in batch.items()}
            ready.clear()
            ready.update(data.on_after_batch_transfer(moved, 0))
            losses.append(step())
        return torch.stack(losses).tolist()
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def part_e(args: argparse.Namespace, device: torch.device, report: Report) -> None:
    """The ten kernels that take most of a step's time on the device, with their shares."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    for variant in [name for name in args.variants if name != "whole"]:
        for stage in STAGES:
            if not report.has_time(f"e: {stage} {variant}"):
                continue
            record: dict[str, Any] = {"batch": args.batches[0]}
            with memory_of(device, record):
                module = make_module(stage, args.width).to(device)
                compile_parts(module, variant, **compile_options(args))
                step = optimiser_step(module, full_step(module, args.batches[0], args.size, args.resize))
                for _ in range(3):
                    step()
                wait(device)
                with torch.profiler.profile(activities=kinds) as profiler:
                    for _ in range(3):
                        step()
                    wait(device)
                record["kernels"] = most_expensive(profiler, device)
                del module, step
            report.put("e", f"{stage} {variant}", record)


def most_expensive(profiler: torch.profiler.profile, device: torch.device, most: int = 10) -> list[dict[str, Any]]:
    """Return the `most` expensive kernels (operators on a CPU): name, calls, milliseconds per step, share of all."""
    events: Any = profiler.key_averages()
    if device.type == "cuda":
        # Operators carry the time of the kernels they start, and so do marks such as `Optimizer.step`: only the kernels
        # themselves are counted.
        cuda = torch.autograd.DeviceType.CUDA  # type: ignore[attr-defined]
        events = [
            event for event in events if event.device_type == cuda and not getattr(event, "is_user_annotation", False)
        ]
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(((getattr(event, own), event) for event in events), key=lambda row: -row[0])
    total = sum(taken for taken, _ in rows) or 1.0
    return [
        {"name": event.key[:100], "calls": event.count // 3, "ms": taken / 3e3, "share": taken / total}
        for taken, event in rows[:most]
    ]


PARTS = {"a": part_a, "b": part_b, "c": part_c, "e": part_e, "f": part_f}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options; the defaults are those of `FULL`, or of `SMALL` with `--small`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=Path, help="folder of images; default: random ones, the synthetic dataset for f"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--parts", default="a,b,c,e,f", help="which parts, e.g. a,b")
    parser.add_argument("--budget-s", type=float, default=460.0, help="seconds in which a measurement may start")
    parser.add_argument("--small", action="store_true", help="tiny networks and batches")
    parser.add_argument("--variants", default="eager,compiled,whole", help="whole: tasks and loss compiled as well")
    parser.add_argument("--compile-mode", help="of torch.compile in b and e, e.g. max-autotune-no-cudagraphs")
    parser.add_argument("--compile-backend", default="inductor", help="of torch.compile in b and e")
    parser.add_argument("--cudnn-benchmark", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--batches", type=lambda text: [int(part) for part in text.split(",")])
    for name in FULL:
        if name != "batches":
            parser.add_argument(f"--{name.replace('_', '-')}", type=float if name == "target" else int)
    parser.add_argument("--loop-batch", type=int, help="the batch of part c; default: the best of part b")
    parser.add_argument("--loop-repeats", type=int, default=2)
    parser.add_argument("--loop-args", default="", help="options of train.py for part c, as --loop-args='--a=1 --b=2'")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    for name, value in (SMALL if args.small else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.loop_args = args.loop_args.split()
    args.variants, args.parts = args.variants.split(","), args.parts.split(",")
    unknown = set(args.parts) - set(PARTS) or set(args.variants) - {"eager", "compiled", "whole"}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return args


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure, and return what is in the JSON file."""
    args = parse(argv)
    logging.getLogger("wssl_pl").setLevel(logging.ERROR)
    torch.backends.cudnn.benchmark = args.cudnn_benchmark
    # What a case is named by, and what does not change it, is not compared.
    free = ("out", "parts", "budget_s", "variants", "batches", "loop_batch", "device")
    settings = {name: value for name, value in vars(args).items() if name not in free}
    settings["images"] = str(args.images) if args.images else "random"
    device = torch.device(args.device)
    name = "gpu_small" if args.small else "gpu" if device.type == "cuda" else "gpu_on_cpu"
    report = Report(args.out / f"{name}.json", settings, args.budget_s, device)
    report.data["flops_per_image"] = {stage: training_flops(stage, args.width, args.size) for stage in STAGES}
    for part in [part for part in ORDER if part in args.parts]:
        if report.has_time(part):
            began = report.spent()
            PARTS[part](args, device, report)
            report.data["seconds"][part] = round(report.spent() - began, 1)
            print(f"part {part}: {report.spent():.0f} s", flush=True)
    report.save()
    print(report.path.with_suffix(".md").read_text())
    return report.data


if __name__ == "__main__":
    main()
