"""Runs a method over the pairs, batch by batch, and leaves figures, tables and a report in a folder."""

import csv
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wssl_pl.errors import UsageError
from wssl_pl.evaluation.figures import FIGURES, MS_SSIM_MISSING, as_picture, measure
from wssl_pl.evaluation.methods import Method
from wssl_pl.evaluation.pairs import Pair, Pairs
from wssl_pl.evaluation.perceptual import FID, FID_MISSING, LPIPS, LPIPS_MISSING
from wssl_pl.evaluation.statistics import IMAGE_RESAMPLES
from wssl_pl.evaluation.table import COLUMNS, cell, plain, read_table, summarise, write_parquet
from wssl_pl.metrics import composite
from wssl_pl.metrics.ms_ssim import SMALLEST


@dataclass
class Settings:
    """How to measure.

    Attributes:
        limit: only the first so many pairs.
        batch_size: pairs in memory at once.
        device: where figures are computed.
        lpips_weights: file for LPIPS, see :mod:`wssl_pl.evaluation.perceptual`.
        inception_weights: file for FID.
        seed: seed of the bootstrap.
    """

    limit: int | None = None
    batch_size: int = 16
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    lpips_weights: str | None = None
    inception_weights: str | None = None
    seed: int = 0


def evaluate(pairs: Pairs, method: Method, out: str | Path, settings: Settings | None = None) -> dict[str, Any]:
    """Measures a method on the pairs and writes `per_image.csv`, `per_image.parquet`, `summary.json` and the report.

    Args:
        pairs: the pairs.
        method: what fills the holes.
        out: folder of the results; an earlier result in it is replaced.
        settings: how to measure.

    Returns:
        what stands in `summary.json`.

    Raises:
        UsageError: the method gives pixels that are not numbers, or weights cannot be used.
    """
    from wssl_pl.evaluation.report import write_report

    settings = settings or Settings()
    folder = Path(out)
    if folder.resolve() == pairs.folder.resolve():
        raise UsageError(f"out={folder} is the pairs folder: name another one")
    lpips = LPIPS(settings.lpips_weights, settings.device) if settings.lpips_weights else None
    fid = FID(settings.inception_weights, settings.device) if settings.inception_weights else None
    notes = list(method.notes)
    if lpips is None:
        notes.append(f"LPIPS {LPIPS_MISSING}")
    if fid is None:
        notes.append(f"FID {FID_MISSING}")
    if pairs.manifest["size"] < SMALLEST:
        notes.append(f"MS-SSIM {MS_SSIM_MISSING}")
    folder.mkdir(parents=True, exist_ok=True)
    # A result that is being replaced is none until the new one is whole.
    (folder / "summary.json").unlink(missing_ok=True)
    clock = Clock()
    with (folder / "per_image.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for batch, image, mask in _read_ahead(pairs, _present(pairs, method, settings.limit), settings):
            prediction = predict(method, batch, image, mask, clock)
            figures = measure(prediction, image, mask)
            if lpips is not None or fid is not None:
                filled = composite(prediction, image, mask)
                if lpips is not None:
                    figures |= {"lpips": lpips(prediction, image), "lpips_composite": lpips(filled, image)}
                if fid is not None:
                    fid.update(prediction, filled, image)
            columns = {name: values.tolist() for name, values in figures.items()}
            for number, pair in enumerate(batch):
                numbers = [cell(columns[name][number]) if name in columns else "" for name in FIGURES]
                writer.writerow([pair.name, pair.mask, pair.ratio, *numbers, pair.bin])
    table = read_table(folder)
    write_parquet(folder)
    summary = {
        "method": {"name": method.name, **method.describe()},
        "pairs": pairs.describe() | {"evaluated": len(table.names)},
        "counts": {name: int(rows.sum()) for name, rows in table.groups().items()},
        "figures": summarise(table, settings.seed),
        "fid": {name: plain(value) for name, value in fid.compute().items()} if fid is not None else None,
        "notes": notes,
        "seconds_per_image": clock.seconds / max(len(table.names), 1),
        "bootstrap": {"resamples": IMAGE_RESAMPLES, "level": 0.95, "seed": settings.seed},
        "machine": machine(),
    }
    write_report(folder, summary, table, pairs, method, settings.device)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False, default=str) + "\n")
    return summary


class Clock:
    """Seconds spent in the method itself."""

    seconds = 0.0


def predict(method: Method, batch: Sequence[Pair], image: Tensor, mask: Tensor, clock: Clock | None = None) -> Tensor:
    """A method's pictures `(B, 3, H, W)` of 256 levels in [0, 1].

    Args:
        method: what fills the holes; it sees 0 where they are.
        batch: the pairs.
        image: the truth `(B, 3, H, W)` in [0, 1].
        mask: `(B, 1, H, W)`, 1 = hole.
        clock: counts the time.

    Raises:
        UsageError: a pixel is not a number, or the shape is another.
    """
    start = time.perf_counter()
    prediction = method([pair.name for pair in batch], torch.where(mask > 0.5, 0.0, image), mask)
    if prediction.device.type == "cuda":
        torch.cuda.synchronize()
    if clock is not None:
        clock.seconds += time.perf_counter() - start
    prediction = prediction.to(image.device)
    if prediction.shape != image.shape:
        raise UsageError(f"{method.name} gives shape {tuple(prediction.shape)} for {tuple(image.shape)}")
    bad = ~prediction.isfinite().flatten(1).all(dim=1)
    if bad.any():
        names = ", ".join(pair.name for pair, is_bad in zip(batch, bad.tolist(), strict=True) if is_bad)
        raise UsageError(f"{method.name} gives pixels that are not numbers (NaN or infinite) for {names}")
    return as_picture(prediction)


def _present(pairs: Pairs, method: Method, limit: int | None) -> list[Pair]:
    has = getattr(method, "has", None)
    return [pair for pair in pairs.pairs[:limit] if has is None or has(pair.name)]


def _read_ahead(
    pairs: Pairs, wanted: Sequence[Pair], settings: Settings
) -> Iterator[tuple[Sequence[Pair], Tensor, Tensor]]:
    """Batches `(pairs, image, mask)` as float32 on the device; the next one is decoded meanwhile."""
    batches = [wanted[start : start + settings.batch_size] for start in range(0, len(wanted), settings.batch_size)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pairs.read, batches[0])
        for number, batch in enumerate(batches):
            image, mask = waiting.result()
            if number + 1 < len(batches):
                waiting = pool.submit(pairs.read, batches[number + 1])
            yield batch, image.to(settings.device).float().div_(255), mask.to(settings.device).float()


def machine() -> dict[str, Any]:
    """What the figures were computed with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": cores,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
