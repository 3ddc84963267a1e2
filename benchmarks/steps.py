"""What the benchmarks have in common: training steps without a trainer, the Lightning loop, timing, the machine.

The steps are closures without arguments, `bare_step` and `full_step` for the loss and `optimiser_step` around either.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kornia
import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor

from wssl_pl.cli.train import train
from wssl_pl.data import WSSLDataModule
from wssl_pl.data.dataset import RANDOM_NUMBERS, RANDOM_SCALE, PairedDataset
from wssl_pl.data.images import ArrayImages, Failure
from wssl_pl.data.sources import open_images
from wssl_pl.devices import choose_precision
from wssl_pl.errors import DataError
from wssl_pl.evaluation.evaluate import machine as evaluation_machine
from wssl_pl.modules import InpaintModule, PretextModule
from wssl_pl.modules.base import WSSLModule

STAGES = ("pretext", "downstream")
Loss = Callable[[], Tensor]


def make_module(stage: str, width: int) -> WSSLModule:
    """The module as the paper has it: three pretext tasks, or a decoder on a frozen encoder."""
    module: WSSLModule = PretextModule(width=width) if stage == "pretext" else InpaintModule(width=width)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # no trainer is there to log to
    return module


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the module's parameters lie."""
    return next(module.parameters()).device


def bare_step(module: WSSLModule, batch: int, size: int) -> Loss:
    """The loss of the networks alone on random tensors, made once."""
    device = device_of(module)
    images = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    if isinstance(module, PretextModule):
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        return lambda: sum((F.cross_entropy(x, labels) for x in module(images).values()), images.new_zeros(()))
    masks = torch.zeros(batch, 1, size, size, device=device)
    return lambda: module(images, masks).mean()


def full_step(module: WSSLModule, batch: int, size: int, resize: int) -> Loss:
    """The training step of the module on a uint8 batch as the loader hands it over."""
    device = device_of(module)
    data = WSSLDataModule(images="synthetic", masks="synthetic", image_size=size, resize=resize, batch_size=batch)
    data.crop_margin = module.crop_margin
    raw = {
        # As the loader lays it out: the channels last in memory.
        "image": torch.randint(0, 256, (batch, resize, resize, 3), dtype=torch.uint8, device=device).movedim(-1, 1),
        "mask": (torch.rand(batch, 1, size, size, device=device) < 0.4).to(torch.uint8),
        "crop": torch.randint(data.crop_margin, resize - size - data.crop_margin + 1, (batch, 2), device=device),
        "random": torch.randint(0, RANDOM_SCALE, (batch, RANDOM_NUMBERS), dtype=torch.int32, device=device),
        "index": torch.arange(batch, device=device),
    }
    return lambda: module.training_step(data.on_after_batch_transfer(dict(raw), 0), 0)  # type: ignore[return-value]


def optimiser_step(module: WSSLModule, loss: Loss, precision: str | None = None) -> Loss:
    """Forward, backward and Adam, under `32-true`, `16-mixed`, `bf16-mixed` or what training would choose."""
    device = device_of(module)
    precision = precision or choose_precision(device.type)[0]
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    optimizer = module.configure_optimizers()
    module.train()

    def once() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=precision != "32-true"):
            value = loss()
        value.backward()
        optimizer.step()
        return value.detach()

    return once


def wait(device: torch.device) -> None:
    """Returns when the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(
    call: Callable[[], Any], device: torch.device, repeats: int = 3, target: float = 0.4, calls: int | None = None
) -> list[float]:
    """Seconds per call, once per repeat, each over `calls` calls, or as many as fill about `target` seconds.

    Warmed up before. On a GPU the time is that between two events on its stream, which a busy host does not lengthen.
    """
    for _ in range(2):
        call()
    wait(device)
    if calls is None:
        start = time.perf_counter()
        call()
        wait(device)
        calls = max(1, min(500, round(target / max(time.perf_counter() - start, 1e-6))))
    return [_seconds_of(call, device, calls) / calls for _ in range(repeats)]


def _seconds_of(call: Callable[[], Any], device: torch.device, calls: int) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        call()
    last.record()
    torch.cuda.synchronize(device)
    value: float = first.elapsed_time(last) / 1000.0
    return value


class Repeated(ArrayImages):
    """A small array of images that counts as a long data set."""

    def __init__(self, array: NDArray[np.uint8], length: int) -> None:
        super().__init__(array)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"length": self.length}

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[Failure]]:
        """The images of `indices`, counted round the array."""
        return super().read(indices % len(self.rows))


class ImagesInMemory(Callback):
    """Puts an array in the place of the training images, so that the loop is timed and not the decoding of files.

    Args:
        array: `(N, resize, resize, 3)` uint8, or None for the images of the run itself, decoded once.
        length: how many images an epoch has; default: as many as there are.
    """

    def __init__(self, array: NDArray[np.uint8] | None = None, length: int | None = None) -> None:
        self.array, self.length = array, length

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Comes after the data module's own `setup` and before its loaders are made."""
        if stage != "fit":
            return
        old: PairedDataset = trainer.datamodule._datasets["train"]
        array = self.array
        if array is None:
            if old.images.in_memory:
                return
            array = decode(old.images, len(old))
            if len(array) < len(old):
                raise DataError(
                    "images", None, f"{len(old) - len(array)} of {len(old)} cannot be decoded", "replace them"
                )
        old.images = Repeated(array, self.length or len(array))


def decode(source: Any, most: int) -> NDArray[np.uint8]:
    """The first `most` images of an image source as one array, decoded by all cores."""
    parts = np.array_split(np.arange(min(most, len(source))), os.cpu_count() or 1)
    with ThreadPoolExecutor() as pool:
        return np.concatenate([images for images, _ in pool.map(source.read, [part for part in parts if len(part)])])


def load_images(folder: Path | None, resize: int, most: int) -> NDArray[np.uint8]:
    """Up to `most` training images of a folder `(N, resize, resize, 3)` uint8; random ones where there is none."""
    if folder is None:
        return np.random.default_rng(0).integers(0, 256, (most, resize, resize, 3), dtype=np.uint8)
    return decode(open_images(str(folder), resize, most, "auto", "lanczos", "skip").open("train"), most)


class Stopwatch(Callback):
    """Images per second from the end of the warm-up to the end of the epoch; waits for the device only at these two."""

    def __init__(self, batch: int, warm_up: int) -> None:
        self.batch, self.warm_up = batch, warm_up
        self.figure = float("nan")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Starts after the warm-up and stops after the last batch."""
        done = batch_idx + 1
        if done not in (self.warm_up, trainer.num_training_batches):
            return
        wait(device_of(pl_module))
        now = time.perf_counter()
        if done == self.warm_up:
            self.start = now
        else:
            self.figure = (done - self.warm_up) * self.batch / (now - self.start)


def loop(
    stage: str, width: int, batch: int, warm_up: int, size: int, resize: int, run: Path, *args: str,
    callbacks: tuple[Callback, ...] = (),
) -> float:  # fmt: skip
    """Images per second of the command line's own training for one epoch, in the folder `run`, without validation."""
    watch = Stopwatch(batch, warm_up)
    train(
        [
            f"stage={stage}", f"--model.width={width}", f"--data.batch_size={batch}", f"--data.image_size={size}",
            f"--data.resize={resize}", f"--run.dir={run}", "--trainer.max_epochs=1", "--trainer.limit_val_batches=0",
            "--trainer.enable_checkpointing=false", *(["ckpt=none"] if stage == "downstream" else []), *args,
        ],
        extra_callbacks=[*callbacks, watch],
    )  # fmt: skip
    return watch.figure


def host_batches(images: Path | None, batch: int, size: int, resize: int, count: int) -> Iterator[dict[str, Any]]:
    """`count` training batches as the loader makes them, with masks; of the built-in faces where no folder is given."""
    source = "synthetic" if images is None else str(images)
    data = WSSLDataModule(source, "synthetic", image_size=size, resize=resize, batch_size=batch, on_error="skip")
    data.setup("fit")
    loader: Any = data.train_dataloader()
    epoch = made = 0
    while made < count:
        loader.sampler.set_epoch(epoch)
        for one in loader:
            if made < count:
                made += 1
                yield one
        epoch += 1


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Return what measurements belong to: the device (by default a GPU, if there is one), precision, versions, date."""
    cuda = torch.cuda.is_available() if device is None else device.type == "cuda"
    return evaluation_machine(device) | {
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if cuda else None,
        "driver": _driver() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "precision": choose_precision("auto" if device is None else device.type)[0],
        "threads": torch.get_num_threads(),
        "lightning": lightning.__version__,
        "kornia": kornia.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
