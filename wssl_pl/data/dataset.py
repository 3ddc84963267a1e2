"""Pair images with crops, masks and random numbers, a whole batch at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from wssl_pl.data.draws import uniform
from wssl_pl.data.images import ImageSource
from wssl_pl.data.masks import Masks
from wssl_pl.data.sampler import Key
from wssl_pl.errors import WSSLError

OVERSHOOT = 0.25
"""How far outside [0, 1] a bicubic filter may leave an image."""
RANDOM_NUMBERS = 16
"""Numbers in `batch["random"]` per sample."""
RANDOM_SCALE = 2**24
"""What these are multiplied with to be integers on their way to the device."""


class PairedDataset(Dataset[Any]):
    """Batches of images with what belongs to each sample.

    In training everything is drawn from (seed, epoch, index); in evaluation from (seed, split, index), with a centre
    crop, so that it stays over epochs.

    Args:
        images: The images, `resize` px on a side.
        masks: The masks, or None if no mask is wanted.
        split: `train`, `val` or `test`.
        resize: Side of an image in pixels.
        image_size: Side of a crop and of a mask in pixels.
        seed: Seed of the draws.
        margin: Pixels of the image that lie on every side of a crop, at the least.
    """

    def __init__(
        self,
        images: ImageSource,
        masks: Masks | None,
        split: str,
        resize: int,
        image_size: int,
        seed: int,
        margin: int = 0,
    ) -> None:
        self.images = images
        self.masks = masks
        self.split = split
        self.spare = resize - image_size
        self.margin = margin
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        """Return a batch of one sample."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key | int]) -> dict[str, Any]:
        """Return the samples of `keys` = (epoch, index) as one batch; an index alone is of epoch 0.

        Returns:
            `image` uint8 `(B, 3, resize, resize)` in channels_last order, `mask` uint8
            `(B, 1, image_size, image_size)` with 1 = hole (absent without masks), `index` int64 `(B,)`, `crop`
            int64 `(B, 2)` (top, left), `random` int32 `(B, 16)` in [0, 2**24), and `failed`, errors of files that
            could not be read: they are not in the batch. A worker process returns an error as `{"error": error}`,
            because PyTorch would hand on its text alone.
        """
        try:
            return self._read(keys)
        except WSSLError as error:
            if get_worker_info() is None:
                raise
            return {"error": error}

    def _read(self, keys: Sequence[Key | int]) -> dict[str, Any]:
        pairs = np.array([key if isinstance(key, tuple) else (0, key) for key in keys], np.int64)
        images, failures = self.images.read(pairs[:, 1])
        pairs = np.delete(pairs, [position for position, _ in failures], axis=0)
        epoch, index = pairs.T
        train = self.split == "train"
        numbers = uniform(self.seed, self.split, epoch if train else 0, index, RANDOM_NUMBERS + 3)
        if train:
            places = self.spare - 2 * self.margin + 1
            crop = self.margin + (numbers[:, -3:-1] * places).astype(np.int64)
        else:
            crop = np.full((len(index), 2), self.spare // 2, np.int64)
        batch = {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2),
            "index": torch.from_numpy(index.copy()),
            "crop": torch.from_numpy(crop),
            # Integers, because Lightning rounds floating-point numbers to the trainer's precision.
            "random": torch.from_numpy((numbers[:, :RANDOM_NUMBERS] * RANDOM_SCALE).astype(np.int32)),
            "failed": [error for _, error in failures],
        }
        if self.masks is not None:
            batch["mask"] = torch.from_numpy(self.masks.draw(numbers[:, -1]))
        return batch


def check_range(images: torch.Tensor) -> None:
    """Check that images of a user's own dataset are in [0, 1], but for what a resize may add.

    Raises:
        WSSLError: They are not, as after a normalisation.
    """
    low, high = (value.item() for value in images.aminmax())
    if low != low:
        raise WSSLError("batch", None, "image has NaN", "look at what your dataset returns")
    if not (-OVERSHOOT <= low and high <= 1.0 + OVERSHOOT):
        remedy = "return uint8, or floating-point numbers in [0, 1], without a normalisation"
        raise WSSLError("batch", None, f"image is between {low:.3g} and {high:.3g}", remedy)


def complete_batch(batch: dict[str, torch.Tensor], *, train: bool, needs_masks: bool) -> dict[str, torch.Tensor]:
    """Return a batch of a user's own dataset in the form of `WSSLDataModule`.

    Args:
        batch: `image` `(B, 3, H, W)`, uint8 or in [0, 1]; `mask` `(B, 1, H, W)` or `(B, H, W)`, 1 = hole; `index` and
            `random` if the dataset has them.
        train: Draw new random numbers in every step; else an image always gets the same ones, by its pixels.
        needs_masks: Whether the module reads `mask`.

    Returns:
        The batch with float32 images and masks, `index` (default: the positions in the batch) and `random`.

    Raises:
        WSSLError: The image or the mask is missing, or has another shape.
    """
    if not isinstance(batch, dict) or "image" not in batch:
        raise WSSLError("batch", None, "has no image", "return a dict with `image` and `mask` from your dataset")
    image = batch["image"]
    if image.ndim != 4 or image.shape[1] != 3:
        raise WSSLError("batch", None, f"image is {tuple(image.shape)}", "return images (3, H, W) from your dataset")
    image = image.float().div(255) if image.dtype == torch.uint8 else image.float()
    batch = {"index": torch.arange(len(image), device=image.device)} | batch | {"image": image}
    if needs_masks:
        mask = batch.get("mask")
        if mask is None:
            raise WSSLError("batch", None, "has no mask", "return a dict with `image` and `mask` from your dataset")
        mask = mask if mask.ndim == 4 else mask[:, None]
        if mask.shape != image[:, :1].shape:
            reason = f"mask is {tuple(mask.shape)} beside an image of {tuple(image.shape)}"
            raise WSSLError("batch", None, reason, "return masks (1, H, W) from your dataset")
        batch["mask"] = mask.to(image.dtype)
    if "random" not in batch and train:
        batch["random"] = torch.rand(len(image), RANDOM_NUMBERS, device=image.device)
    elif "random" not in batch:
        pixels = (image.mean((1, 2, 3)).cpu().double() * 2**40).long().numpy()  # MPS has no float64
        numbers = uniform(0, "own dataset", 0, pixels, RANDOM_NUMBERS)
        batch["random"] = torch.from_numpy(numbers).float().to(image.device)
    return batch
