"""Run a method over the pairs, batch by batch, and measure its images."""

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wssl_pl.devices import usable_cores
from wssl_pl.errors import WSSLError
from wssl_pl.evaluation.methods import Method, Model
from wssl_pl.evaluation.metrics import METRICS, MS_SSIM_MISSING, measure, to_8_bit
from wssl_pl.evaluation.pairs import Pair, PairList, Pairs
from wssl_pl.evaluation.perceptual import FID, LPIPS, open_metric
from wssl_pl.evaluation.processes import Part, distances_of_all, joined
from wssl_pl.evaluation.results import DECIMALS, Machine, MeasuredPairs, Result, Table, finite, sample_rows
from wssl_pl.metrics import composite
from wssl_pl.provenance import program

FID_BIAS = (
    "FID of {} images is biased upwards, more for fewer images and by another amount for each method (Chong and "
    "Forsyth 2020): compare KID, which is unbiased (Bińkowski et al. 2018)"
)


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        limit: only the first so many pairs.
        batch_size: pairs in memory at once.
        device: where metrics are computed.
        lpips_weights: file for LPIPS; default: see `find_weights`; `none` for no LPIPS.
        inception_weights: the same for FID.
        seed: of the bootstrap.
        rank: number of this process.
        processes: how many measure the same pairs together, each its own; see `wssl_pl.evaluation.processes`.
    """

    limit: int | None = None
    batch_size: int = 16
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    lpips_weights: str | None = None
    inception_weights: str | None = None
    seed: int = 0
    rank: int = 0
    processes: int = 1


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute products of float32 in float32: TensorFloat-32 keeps 10 bits, too few for the variances of SSIM."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@exact_products()
def evaluate(pairs: Pairs, method: Method, settings: Settings | None = None) -> Result:
    """Measure a method on the pairs.

    Nothing is written: `Result.save` writes the table, `wssl_pl.evaluation.report.write_report` also a report.

    Args:
        pairs: the pairs.
        method: what fills the holes.
        settings: how to measure.

    Raises:
        WSSLError: The method gives pixels that are not numbers, weights cannot be used, or an oracle is not given the
            strengths that it needs.
    """
    settings = settings or Settings()
    lpips, no_lpips = open_metric(LPIPS, settings.lpips_weights, settings.device)
    fid, no_fid = open_metric(FID, settings.inception_weights, settings.device)
    if isinstance(method, Model) and method.is_oracle:
        method.learn_strengths(pairs.strengths, pairs.manifest.restore)
    wanted = _present(pairs, method, settings.limit)
    described, restored = method.describe(), bool(pairs.manifest.restore)
    notes = [*method.notes, *no_lpips, *no_fid, *_other_damages(method.name, described, pairs.manifest.restore)]
    if fid is not None:
        notes.append(FID_BIAS.format(len(wanted)))
    # Arrays and files, so that memory does not grow by a Python object for each pair and metric.
    names = np.array([pair.name for pair in wanted])
    ratios = np.fromiter((pair.ratio for pair in wanted), np.float64, len(wanted))
    bins = np.array([pair.bin for pair in wanted])
    shown = set(names[sample_rows(ratios)].tolist())
    mine = wanted[settings.rank :: settings.processes]
    part = Part(np.full((len(mine), len(METRICS)), np.nan))
    done = 0
    for batch, image, mask, given in _read_ahead(pairs, mine, settings):
        start = time.perf_counter()
        output = _run(method, batch, given, mask)
        part.seconds += time.perf_counter() - start
        output = _checked(method, batch, output, image)
        for pair, one in zip(batch, output, strict=True):
            if pair.name in shown:
                part.outputs[pair.name] = one.to("cpu", copy=True)
        for name, value in _measure(output, image, mask, lpips, fid, restored).items():
            # Small tensors among the large ones of a batch would keep its memory from being freed.
            part.values[done : done + len(batch), METRICS.index(name)] = value.tolist()
            part.measured.add(name)
        done += len(batch)
    whole = joined(part, settings.processes)
    distances = distances_of_all(fid, settings.processes)
    measured = {
        name: whole.values[:, column].round(DECIMALS) for column, name in enumerate(METRICS) if name in whole.measured
    }
    for metric, reason in (
        ("ms_ssim", f"MS-SSIM {MS_SSIM_MISSING}"),
        ("lpips", "LPIPS not measured: images too small"),
    ):
        if metric in measured and np.isnan(measured[metric]).all():
            notes.append(reason)
            measured = {name: column for name, column in measured.items() if not name.startswith(metric)}
    table = Table(
        names,
        ratios,
        bins,
        tuple(measured),
        np.stack(list(measured.values()), axis=1),
    )
    return Result(
        table=table,
        method={"name": method.name, **described},
        pairs=MeasuredPairs(
            folder=pairs.label,
            hash=pairs.manifest.hash,
            count=len(pairs),
            data=pairs.manifest.data,
            evaluated=len(wanted),
            restore=pairs.manifest.restore,
        ),
        machine=Machine(**machine(settings.device) | program()),
        notes=notes,
        seconds_per_image=whole.seconds / len(wanted),
        fid={name: finite(value) for name, value in distances.items()} if distances is not None else None,
        seed=settings.seed,
        weights={name: metric.weights for name, metric in (("lpips", lpips), ("fid", fid)) if metric is not None},
        outputs=whole.outputs,
    )


def _other_damages(name: str, described: Mapping[str, Any], damages: Sequence[str]) -> list[str]:
    """Return a line if the method is a model that was trained to restore something else than the inputs' damages."""
    trained = described.get("restore", [])
    if "ckpt" not in described or set(trained) == set(damages):
        return []
    texts = [", ".join(names) or "nothing" for names in (trained, damages)]
    return [f"{name} was trained to restore {texts[0]}, the inputs are damaged by {texts[1]}"]


def _measure(
    prediction: Tensor, image: Tensor, mask: Tensor, lpips: LPIPS | None, fid: FID | None, restored: bool
) -> dict[str, Tensor]:
    values = measure(prediction, image, mask, restored=restored)
    if lpips is not None or fid is not None:
        outputs = {"prediction": prediction}
        if not restored:
            outputs["composite"] = composite(prediction, image, mask)
        if lpips is not None:
            names = {"prediction": "lpips", "composite": "lpips_composite"}
            values |= {names[kind]: lpips(output, image) for kind, output in outputs.items()}
        if fid is not None:
            fid.update(image=image, **outputs)
    return values


@exact_products()
def predict(method: Method, batch: Sequence[Pair], image: Tensor, mask: Tensor, given: Tensor | None = None) -> Tensor:
    """Return a method's images `(B, 3, H, W)`, rounded to 256 levels, in [0, 1].

    Args:
        method: what fills the holes; its input is 0 in them.
        batch: the pairs.
        image: the truth `(B, 3, H, W)` in [0, 1].
        mask: `(B, 1, H, W)`, 1 = hole.
        given: the damaged images, where they are not the truth.

    Raises:
        WSSLError: A pixel is not a number, or the shape is not that of `image`.
    """
    return _checked(method, batch, _run(method, batch, image if given is None else given, mask), image)


def _run(method: Method, batch: Sequence[Pair], given: Tensor, mask: Tensor) -> Tensor:
    output = method([pair.name for pair in batch], torch.where(mask > 0.5, 0.0, given), mask)
    if output.device.type == "cuda":
        torch.cuda.synchronize()
    return output


def _checked(method: Method, batch: Sequence[Pair], output: Tensor, image: Tensor) -> Tensor:
    if output.shape != image.shape:
        reason = f"gives shape {tuple(output.shape)} for {tuple(image.shape)}"
        raise WSSLError("method", method.name, reason)
    output = output.to(image.device)
    bad = (~output.isfinite().flatten(1).all(dim=1)).tolist()
    if any(bad):
        names = ", ".join(pair.name for pair, is_bad in zip(batch, bad, strict=True) if is_bad)
        raise WSSLError("method", method.name, f"gives pixels that are not numbers (NaN or infinite) for {names}")
    return to_8_bit(output)


def _present(pairs: Pairs, method: Method, limit: int | None) -> PairList:
    has, wanted = getattr(method, "has", None), pairs.pairs[:limit]
    return wanted if has is None else wanted.take([row for row, pair in enumerate(wanted) if has(pair.name)])


def _read_ahead(
    pairs: Pairs, wanted: PairList, settings: Settings
) -> Iterator[tuple[list[Pair], Tensor, Tensor, Tensor]]:
    """Yield batches `(pairs, image, mask, given)`; the next one is decoded meanwhile."""

    def read(batch: PairList) -> tuple[list[Pair], Tensor, Tensor, Tensor]:
        listed = list(batch)
        return listed, *read_pairs(pairs, listed, settings.device)

    batches = pairs.batches(wanted, settings.batch_size)
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(read, batch) for batch in islice(batches, 1)]
        while waiting:
            ready = waiting.pop().result()
            waiting = [pool.submit(read, batch) for batch in islice(batches, 1)]
            yield ready


def read_pairs(pairs: Pairs, batch: Sequence[Pair], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return image, mask and what a method is given of it, without the hole, as float32 on the device."""
    image, mask = pairs.read(batch)
    image, mask = image.to(device).float().div_(255), mask.to(device).float()
    if not pairs.manifest.restore:
        return image, mask, image
    return image, mask, pairs.read_inputs(batch).to(device).float().div_(255)


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Return the cores, the device (by default a GPU, if there is one) and the versions that compute metrics."""
    uses_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    return {
        "cores": usable_cores(),
        "device": torch.cuda.get_device_name(device) if uses_gpu else "CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
