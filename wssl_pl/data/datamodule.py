"""Images paired with masks, as a LightningDataModule."""

import inspect
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, distributed

from wssl_pl.data.crop import crop_batch, trim
from wssl_pl.data.dataset import RANDOM_SCALE, PairedDataset
from wssl_pl.data.decode import RESIZE_FILTERS
from wssl_pl.data.draws import uniform
from wssl_pl.data.images import ImageSource
from wssl_pl.data.loader import Batch, BatchLoader, as_is
from wssl_pl.data.sampler import KeySampler
from wssl_pl.data.shards import ShardImages
from wssl_pl.data.sources import DEFAULTS, SYNTHETIC, ImageSet, MaskSet, open_images, open_masks, resolve, tell, warn
from wssl_pl.devices import usable_cores
from wssl_pl.errors import DataError, WSSLError

MAX_SIDE = 10_000  # pixels: a resized image has as many as the largest file that is read


class WSSLDataModule(pl.LightningDataModule):
    """Pair crops of images with masks.

    A batch, after the transfer to the device:

    - `image` `(B, 3, image_size, image_size)` in [0, 1], channels_last, in the trainer's precision (float32 where
      that is mixed), or always float32 if the module's `takes_float32` is True;
    - `image_with_margin`, the same crop and the pixels around it, `(B, 3, S, S)` with
      `S = image_size + 2 * crop_margin`; `image` is then a view of it. Absent if the module's `crop_margin` is 0
      or missing, or if the images have no pixels to spare;
    - `mask` `(B, 1, image_size, image_size)`, of the same dtype, 1 = hole; absent if the module's
      `needs_masks` is False;
    - `index` int64 `(B,)`, the number of the image in its split;
    - `random` float32 `(B, 16)` in [0, 1), from which the pretext tasks take their labels;
    - `crop` int64 `(B, 2)`, (top, left).

    What belongs to an image depends on (seed, epoch, index) alone, and its crop on `crop_margin` too, not on the
    number of workers, the batch size or an interruption. Validation and test take the centre crop and one fixed mask
    per image, drawn from `pair_seed`.

    Args:
        images: Folder of images, with `train/`, `val/` and `test/` folders or divided by rule; a cache or shards of
            `wssl prepare`; `s3://bucket/prefix` of shards; or `synthetic`; default: `data/celeba_hq` if it
            exists, else `synthetic`.
        masks: Folder of masks, with `train/` and `test/` folders or divided by rule; or `synthetic`;
            default: `data/qd_imd` if it exists, else `synthetic`.
        image_size: Side of the crops that the model sees, in pixels.
        resize: Side to which images are resized before the crop, in pixels.
        batch_size: Images per batch and device.
        hole: Which brightness is the hole in the mask files: black in QD-IMD, white in NVIDIA's masks.
        hole_ratio: Smallest and largest fraction of the image that is hole, inclusive.
        num_workers: Processes that decode images; default: none for images in memory and on a CPU, else one per core,
            at most 8.
        on_error: What to do about a damaged file: stop (`error`) or omit it and count it (`skip`).
        seed: Seed of the order, crops, masks and labels in training.
        pair_seed: Seed of the pairs and their labels in validation and test.
        limit: Use only the first so many images of each split, for a quick look.
        train_images: Number of training images, drawn from `seed`; default: all.
        chunk_cache: Local folder for chunks from a bucket; default: `~/.cache/wssl_pl`.
        chunk_cache_gb: Its size in 10**9 bytes; the longest unread chunks go.
        split_rule: How the images are divided: `auto` (folders, else CelebA's partition, else a hash of the names),
            `folders`, `celeba`, `hash`, or a folder of file lists (`train.flist`, `val.flist`, `test.flist`).
        dilate: Pixels by which holes are widened on every side.
        resize_filter: How images are resized: `lanczos`, `bicubic`, `bilinear`, or `area`, the mean over each pixel's
            area. A cache must have been prepared with the same.

    Raises:
        WSSLError: An argument is out of range.
        DataError: A folder does not exist or holds no image.
    """

    def __init__(
        self,
        images: str | None = None,
        masks: str | None = None,
        image_size: int = 224,
        resize: int = 256,
        batch_size: int = 64,
        hole: Literal["black", "white"] = "black",
        hole_ratio: tuple[float, float] = (0.3, 0.5),
        num_workers: int | None = None,
        on_error: Literal["error", "skip"] = "error",
        seed: int = 0,
        pair_seed: int = 0,
        limit: int | None = None,
        split_rule: str = "auto",
        dilate: int = 0,
        resize_filter: Literal["lanczos", "bicubic", "bilinear", "area"] = "lanczos",
        train_images: int | None = None,
        chunk_cache: str | None = None,
        chunk_cache_gb: float = 10.0,
    ) -> None:
        super().__init__()
        numbers = {"image_size": (image_size, 1), "batch_size": (batch_size, 1), "num_workers": (num_workers, 0)}
        numbers |= {"limit": (limit, 1), "dilate": (dilate, 0), "seed": (seed, 0), "pair_seed": (pair_seed, 0)}
        numbers |= {"train_images": (train_images, 1)}
        for name, (number, least) in numbers.items():
            if number is not None and number < least:
                raise WSSLError(name, number, f"must be at least {least}")
        for name, choice, known in (
            ("hole", hole, ("black", "white")),
            ("on_error", on_error, ("error", "skip")),
            ("resize_filter", resize_filter, RESIZE_FILTERS),
        ):
            if choice not in known:
                raise WSSLError(name, choice, f"must be {', '.join(known[:-1])} or {known[-1]}")
        if not 0 < chunk_cache_gb < float("inf"):
            raise WSSLError("chunk_cache_gb", chunk_cache_gb, "must be a size above 0")
        if resize < image_size:
            raise WSSLError("resize", resize, f"must be at least image_size={image_size}")
        if resize > MAX_SIDE:
            raise WSSLError("resize", resize, f"must be at most {MAX_SIDE}")
        bounds = [float(bound) for bound in hole_ratio]
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
            raise WSSLError("hole_ratio", bounds, "must be two numbers with 0 <= low <= high <= 1")
        self.images = resolve("images", images)
        self.masks = resolve("masks", masks)
        self.image_size, self.resize, self.batch_size = image_size, resize, batch_size
        self.hole, self.hole_ratio, self.on_error = hole, bounds, on_error
        self.num_workers, self.seed, self.pair_seed, self.limit = num_workers, seed, pair_seed, limit
        self.split_rule, self.dilate, self.resize_filter = split_rule, dilate, resize_filter
        self.train_images, self.chunk_cache, self.chunk_cache_gb = train_images, chunk_cache, chunk_cache_gb
        self.crop_margin = 0
        """Pixels around the crop that a batch has, in `image_with_margin`; `setup` takes it from the module."""
        self._images: ImageSet | None = None
        self._masks: MaskSet | None = None
        self._datasets: dict[str, PairedDataset] = {}
        self._failed: dict[str, str] = {}
        self._failures_told = 0
        self._announced: set[str] = set()
        # Not to the logger: it refuses a name that the model has too, with another value.
        names = list(inspect.signature(WSSLDataModule.__init__).parameters)[1:]
        values = {name: getattr(self, name) for name in names} | {"images": images, "masks": masks}
        self.save_hyperparameters(values, logger=False)

    def setup(self, stage: str) -> None:
        """Open the splits that a stage needs: list and check the files, measure the masks, print one line.

        Masks are read only if the trainer's module wants them (its `needs_masks` is not False). Beside Lightning's
        stages, the name of a split opens this split alone.

        Raises:
            DataError: A split is empty, a file is damaged, or no mask is within `hole_ratio`.
        """
        splits = {"fit": ["train", "val"], "validate": ["val"], "train": ["train"], "val": ["val"]}.get(stage, ["test"])
        if stage == "fit" and self.trainer is not None and self.trainer.limit_val_batches == 0:
            splits = ["train"]
        module = self.trainer.lightning_module if self.trainer is not None else None
        wants_masks = getattr(module, "needs_masks", True)
        if self._images is None:
            self._announce_synthetic("images", self.images)
            self._images = open_images(
                self.images,
                self.resize,
                self.limit,
                self.split_rule,
                self.resize_filter,
                self.on_error,
                self.chunk_cache,
                self.chunk_cache_gb,
            )
        if wants_masks and self._masks is None:
            self._announce_synthetic("masks", self.masks)
            self._masks = open_masks(
                self.masks, self.image_size, self.hole_ratio, self.dilate, self.hole, self.on_error
            )
        self.crop_margin = self._margin(getattr(module, "crop_margin", 0))
        for split in splits:
            images = self._images.open(split)
            if split == "train" and self.train_images is not None:
                images = self._drawn(images, self.train_images)
            masks = self._masks.open(split) if wants_masks and self._masks is not None else None
            seed = self.seed if split == "train" else self.pair_seed
            self._datasets[split] = PairedDataset(
                images, masks, split, self.resize, self.image_size, seed, self.crop_margin
            )
        if (line := self._summary()) not in self._announced:
            self._announced.add(line)
            tell(line)

    def _drawn(self, images: ImageSource, count: int) -> ImageSource:
        """Return so many of the images, drawn from `seed`; the first of a larger number are those of a smaller one."""
        if count > len(images):
            reason = f"{self.images} has {len(images)} training images"
            raise WSSLError("train_images", count, reason, "give fewer, or omit it")
        order = np.argsort(uniform(self.seed, "train_images", 0, np.arange(len(images)), 1)[:, 0], kind="stable")
        return images.take(order[:count])

    def train_dataloader(self) -> BatchLoader:
        """Shuffled batches with random crops and masks; an incomplete last batch is dropped."""
        return self._loader("train")

    def val_dataloader(self) -> BatchLoader:
        """All validation images in order, each once over all processes."""
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        """All test images in order, each once over all processes."""
        return self._loader("test")

    def predict_dataloader(self) -> BatchLoader:
        """The test images."""
        return self._loader("test")

    def fixed_batches(self, split: str, count: int, batch_size: int) -> list[Batch]:
        """Read some images of a split, the same every time, without any loader: none of their positions moves.

        Args:
            split: `train`, `val` or `test`.
            count: How many images, evenly spaced over the split; all if it has fewer.
            batch_size: Images per batch; the last one may be smaller.

        Returns:
            Batches on the CPU, to be given to `on_after_batch_transfer`; training images with the crops and masks of
            epoch 0. Files that cannot be read are reported as by the loaders.
        """
        if split not in self._datasets:
            self.setup(split)
        dataset = self._datasets[split]
        chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist()
        batches = []
        for first in range(0, len(chosen), batch_size):
            batch = dataset.__getitems__([(0, index) for index in chosen[first : first + batch_size]])
            if failed := batch.pop("failed"):
                self._on_failed(failed)
            if len(batch["index"]):
                batches.append(batch)
        return batches

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Crop and convert on the device: uint8 images to [0, 1], masks to 0 and 1, `random` to float32 in [0, 1)."""
        if not isinstance(batch, dict) or "crop" not in batch:
            return batch
        margin = self.crop_margin
        image = crop_batch(batch["image"], batch["crop"] - margin, self.image_size + 2 * margin)
        image = self._rounded(image.to(torch.float32, memory_format=torch.channels_last).div_(255))
        batch = batch | {"image": trim(image, margin), "random": batch["random"].float().div_(RANDOM_SCALE)}
        if margin:
            batch["image_with_margin"] = image
        if "mask" in batch:
            batch["mask"] = batch["mask"].to(image.dtype)
        return batch

    def _rounded(self, image: Tensor) -> Tensor:
        """Return the image in the trainer's precision, for which Lightning's own conversion comes too early."""
        if self.trainer is None or getattr(self.trainer.lightning_module, "takes_float32", False):
            return image
        output: Tensor = self.trainer.precision_plugin.convert_input(image)
        return output

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Damaged files that were omitted so far, as (file, reason)."""
        found = [entry for opened in (self._images, self._masks) if opened for entry in opened.damaged]
        return found + list(self._failed.items())

    def describe(self) -> dict[str, Any]:
        """Return what is read, in plain types for a run's log: layouts, split sizes, masks kept of total, settings."""
        described: dict[str, Any] = {
            "images": {"source": self.images, "resize": self.resize, "resize_filter": self.resize_filter},
            "image_size": self.image_size,
            "seed": self.seed,
            "pair_seed": self.pair_seed,
            "skipped": len(self.skipped),
        }
        if self._images is not None:
            sizes = dict(self._images.sizes)
            if self.train_images is not None and "train" in sizes:
                sizes["train"] = min(self.train_images, sizes["train"])
            found = {"layout": self._images.layout, "split": self._images.split_rule, **sizes}
            described["images"] |= found
        if self._masks is not None:
            described["masks"] = {
                "source": self.masks,
                "layout": self._masks.layout,
                "hole": self.hole,
                "hole_ratio": list(self.hole_ratio),
                "dilate": self.dilate,
                **self._masks.counts,
            }
        return described

    def _summary(self) -> str:
        images = self.describe()["images"]
        sizes = " / ".join(f"{split} {images[split]}" for split in ("train", "val", "test") if split in images)
        line = f"data: images {self.images} ({images['layout']}, split by {images['split']}): {sizes}"
        if self._masks is not None:
            kept = ", ".join(
                f"{part} {count['kept']} of {count['total']}" for part, count in self._masks.counts.items()
            )
            low, high = self.hole_ratio
            line += f"; masks {self.masks} ({self._masks.layout}), hole {low:.0%} to {high:.0%}: {kept}"
        return line

    def _margin(self, wanted: int) -> int:
        """Return the margin that every crop can have, `wanted` or 0; warn once where the images are too small."""
        spare = self.resize - self.image_size
        if spare >= 2 * wanted:
            return wanted
        least = self.image_size + 2 * wanted
        line = (
            f"resize={self.resize}: there are no {wanted} px around crops of image_size={self.image_size}, the filter "
            f"extrapolates them: set resize={least} or more"
        )
        if line not in self._announced:
            self._announced.add(line)
            warn(line)
        return 0

    def _announce_synthetic(self, parameter: str, source: str) -> None:
        if source == SYNTHETIC and self.hparams[parameter] is None:
            warn(
                f"NO DATA SET: {DEFAULTS[parameter]} does not exist, {parameter} are the SYNTHETIC DATASET: "
                f"set {parameter}= to use your own"
            )

    def _loader(self, split: str) -> BatchLoader:
        dataset = self._datasets[split]
        rank, world = self._process()
        train = split == "train"
        if len(dataset) < world:
            reason = f"has {len(dataset)} {split} images for {world} processes"
            raise DataError("images", self.images, reason, "add images, or use fewer devices")
        workers = self._workers(dataset)
        shards = dataset.images if isinstance(dataset.images, ShardImages) else None
        sampler = KeySampler(
            len(dataset),
            self.batch_size,
            train=train,
            seed=self.seed,
            rank=rank,
            world_size=world,
            chunks=shards.chunks if shards else None,
            fetch=shards.fetch if shards else None,
        )
        loader = BatchLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=as_is,
            persistent_workers=workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            # Else each iteration draws the workers' seed from the global generator, which a run that was resumed within
            # an epoch does once more: PIC's latent would be another.
            generator=torch.Generator().manual_seed(self.seed),
        )
        loader.on_failed = self._on_failed
        if train:
            loader.position = self._position
        return loader

    def _process(self) -> tuple[int, int]:
        """Return the number of this process and how many there are, whoever started them."""
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    def _workers(self, dataset: PairedDataset) -> int:
        if self.num_workers is not None:
            return self.num_workers
        # On a CPU the step and the workers would compete for the same cores; the images are decoded by threads instead.
        if dataset.images.in_memory or (self.trainer is not None and self.trainer.strategy.root_device.type == "cpu"):
            return 0
        return max(1, min(8, usable_cores() // (self.trainer.num_devices if self.trainer else 1)))

    def _position(self) -> tuple[int, int] | None:
        trainer = self.trainer
        if trainer is None or not trainer.training:
            return None
        # Not `epoch_progress.current.processed`, which counts one epoch twice when resuming under `max_steps`.
        return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def teardown(self, stage: str) -> None:
        """Log how many files could not be decoded, if any."""
        if self._failed and len(self._failed) != self._failures_told:
            self._failures_told = len(self._failed)
            names = ", ".join(list(self._failed)[:3])
            warn(f"images: {len(self._failed)} files could not be decoded and were omitted: {names}")

    def _on_failed(self, failed: list[DataError]) -> None:
        first = failed[0]
        if self.on_error == "error":
            raise DataError("images", first.value, first.reason, "restore it, or omit such files with on_error=skip")
        if not self._failed:
            warn(f"{first}; it is omitted, and so are others like it")
        self._failed |= {str(error.value): error.reason for error in failed}
