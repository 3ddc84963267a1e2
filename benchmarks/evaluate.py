"""How long the figures of 400 pairs at 224 px take, without any model, and how memory grows with the number of pairs.

    python benchmarks/evaluate.py --json benchmarks/results/evaluate.json

Pairs are the synthetic dataset, repeated; the predictions are pictures on disk. Timed are the whole command (hashes,
decoding, figures, intervals, report) and its parts.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from wssl_pl.data import WSSLDataModule
from wssl_pl.data.images import ArrayImages
from wssl_pl.evaluation.evaluate import Settings, evaluate, machine
from wssl_pl.evaluation.metrics import measure
from wssl_pl.evaluation.pairs import Pairs, write_pairs
from wssl_pl.evaluation.predictions import Predictions
from wssl_pl.evaluation.report import write_report
from wssl_pl.metrics import composite, psnr
from wssl_pl.metrics.ms_ssim import similarities


def repeated_pairs(folder: Path, count: int, size: int) -> Pairs:
    """`count` pairs of `size` px from the 32 faces of the synthetic dataset."""
    datamodule = WSSLDataModule("synthetic", "synthetic", image_size=size, resize=size + 32)
    datamodule.setup("test")
    source = datamodule.test_dataloader().dataset.images  # type: ignore[attr-defined]
    index = torch.arange(count).numpy() % len(source)
    # Not public, and only here: the data module has no more than 32 of them.
    datamodule._images._opened["test"] = ArrayImages(source.array[index])  # type: ignore[union-attr]
    return write_pairs(datamodule, "test", folder)


def peak_mib() -> int:
    """Return the peak memory of this process in MiB."""
    # Not `ru_maxrss`, which a process takes over from the one that starts it: here from the one that wrote the pairs.
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def time_whole(pairs: Pairs, limit: int, out: Path) -> dict[str, float]:
    """Seconds for the command on the first `limit` pairs, by the clock and of the CPU, and peak memory in MiB."""
    start, cpu = time.perf_counter(), time.process_time()
    names = [pair.name for pair in pairs.pairs]
    opened = Pairs.open(pairs.folder)
    predictions = Predictions(pairs.folder / "predictions", names[:limit], names)
    settings = Settings(limit=limit)
    write_report(evaluate(opened, predictions, settings), out, opened, predictions, settings.device)
    return {
        "seconds": round(time.perf_counter() - start, 2),
        # Both cores together: what the clock shows on a busy machine is mostly waiting.
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mib": peak_mib(),
    }


def time_parts(pairs: Pairs, batch: int = 16, rounds: int = 3) -> dict[str, float]:
    """Milliseconds per pair of each part, the fastest of some rounds."""
    some = pairs.pairs[:batch]
    image, mask = (part.float() for part in pairs.read(some))
    image = image / 255
    prediction = image.flip(0)
    filled = composite(prediction, image, mask)
    parts: dict[str, Any] = {
        "decode": lambda: pairs.read(some),
        "psnr": lambda: psnr(prediction, image),
        "ssim_and_ms_ssim_raw_and_composite": lambda: similarities([prediction, filled], image),
        "all_figures": lambda: measure(prediction, image, mask),
    }
    found = {}
    for name, part in parts.items():
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            part()
            times.append(time.perf_counter() - start)
        found[name] = min(times) / batch * 1000
    return found


def main() -> None:
    """Measures, prints and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # a process of its own: peak memory
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(time_whole(Pairs.open(args.measure), args.limit, args.measure.parent / f"out{args.limit}")))
        return
    with tempfile.TemporaryDirectory() as name:
        pairs = repeated_pairs(Path(name) / "pairs", args.count, args.size)
        predictions = pairs.folder / "predictions"
        predictions.mkdir()
        # Its neighbour's face: decoded from another file and wrong everywhere.
        for pair, other in zip(pairs.pairs, [*pairs.pairs[1:], pairs.pairs[0]], strict=True):
            (predictions / f"{pair.name}.png").write_bytes((pairs.folder / other.image).read_bytes())
        result: dict[str, Any] = {"machine": machine(), "count": args.count, "size": args.size}
        for limit in (args.count // 4, args.count):
            command = [sys.executable, __file__, "--measure", str(pairs.folder), "--limit", str(limit)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            result[f"{limit}_pairs"] = json.loads(out.splitlines()[-1])
        result["ms_per_pair"] = {name: round(value, 2) for name, value in time_parts(pairs).items()}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
