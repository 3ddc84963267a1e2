"""Pictures and masks as people have them, PIL, NumPy or tensors, to what the engine works on, and back."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wssl_pl.errors import UsageError


@dataclass
class Batch:
    """Pictures of one call.

    Attributes:
        pictures: each `(H, W, C)`, `C` 1 or 3, uint8, uint16 or float32 in [0, 1].
        holes: each `(H, W)`, True in the hole.
        rebuild: makes what the caller gave out of the filled pictures.
    """

    pictures: list[NDArray[Any]]
    holes: list[NDArray[np.bool_]]
    rebuild: Callable[[list[NDArray[Any]]], Any]


def take_apart(image: Any, mask: Any) -> Batch:
    """The pictures and holes of a call of `Inpainter`.

    Raises:
        UsageError: a kind, shape, type or value that cannot be used; image and mask of different sizes; a mask that is
            empty or full.
    """
    if isinstance(image, list | tuple):
        batch = _of_list(image, mask)
    elif isinstance(image, Image.Image):
        batch = _of_pil(image, mask)
    elif is_tensor(image):
        batch = _of_tensor(image, mask)
    elif isinstance(image, np.ndarray):
        batch = _of_array(image, mask)
    else:
        raise UsageError(f"image={type(image).__name__}: it must be a PIL image, a NumPy array or a tensor")
    for number, (picture, hole) in enumerate(zip(batch.pictures, batch.holes, strict=True)):
        where = "" if len(batch.pictures) == 1 else f" of picture {number}"
        check_hole(hole, picture.shape, where)
        if picture.dtype == np.float32:
            check_range(picture, hole, where)
    return batch


def check_hole(hole: NDArray[np.bool_], shape: tuple[int, ...], where: str = "") -> None:
    """Raises `UsageError` unless the mask has the picture's size, a hole, and a known pixel."""
    if hole.shape != shape[:2]:
        raise UsageError(
            f"the mask{where} is {hole.shape[1]} x {hole.shape[0]} pixels, the picture {shape[1]} x {shape[0]}: "
            "they must be of one size"
        )
    if not hole.any():
        raise UsageError(f"the mask{where} has no hole (1 or white is hole): there is nothing to fill")
    if hole.all():
        raise UsageError(f"the mask{where} is all hole (1 or white is hole): nothing is known to start from")


def check_range(picture: NDArray[np.float32], hole: NDArray[np.bool_], where: str = "") -> None:
    """Raises `UsageError` unless all known values are in [0, 1]."""
    for top in range(0, len(picture), 256):
        part = picture[top : top + 256]
        bad = ~((part >= 0) & (part <= 1)) & ~hole[top : top + 256, :, None]
        if bad.any():
            value = part[bad][0]
            raise UsageError(
                f"the picture{where} holds {value:.6g}: floats must be in [0, 1]; 0 to 255 belongs in uint8"
            )


def is_tensor(value: Any) -> bool:
    """Whether it is a torch tensor, without importing torch: who has a tensor has imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def read_hole(mask: Any) -> NDArray[np.bool_]:
    """A mask of any kind as bool, True in the hole: the brighter half, or what is not 0 where 1 is the largest value.

    Args:
        mask: PIL image, array or tensor, of any shape.

    Raises:
        UsageError: it is none of these, or of a type that tells no hole.
    """
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask if mask.mode in ("1", "L", "I;16") else mask.convert("L"))
    elif is_tensor(mask):
        mask = mask.detach().cpu()
        mask = (mask.float() if mask.is_floating_point() else mask).numpy()
    if not isinstance(mask, np.ndarray):
        raise UsageError(f"mask={type(mask).__name__}: it must be a PIL image, a NumPy array or a tensor")
    if mask.dtype == bool:
        return mask
    if np.issubdtype(mask.dtype, np.floating):
        if not (np.isfinite(mask).all() and mask.min(initial=0) >= 0 and mask.max(initial=0) <= 1):
            raise UsageError("the mask holds values outside [0, 1]: floats are 0 (known) to 1 (hole)")
        return mask >= 0.5
    if not np.issubdtype(mask.dtype, np.integer):
        raise UsageError(f"mask of {mask.dtype}: it must be bool, whole numbers or floats in [0, 1]")
    if mask.max(initial=0) <= 1:
        result: NDArray[np.bool_] = mask == 1
        return result
    return mask > np.iinfo(mask.dtype if mask.dtype.itemsize <= 2 else np.uint8).max // 2


def _of_list(images: Any, masks: Any) -> Batch:
    if not isinstance(masks, list | tuple) or len(masks) != len(images):
        raise UsageError(f"a list of {len(images)} pictures needs a list of as many masks")
    parts = [take_apart(image, mask) for image, mask in zip(images, masks, strict=True)]
    counts = np.cumsum([0, *(len(part.pictures) for part in parts)])

    def rebuild(filled: list[NDArray[Any]]) -> list[Any]:
        return [part.rebuild(filled[start:stop]) for part, (start, stop) in zip(parts, pairwise(counts), strict=True)]

    return Batch([p for part in parts for p in part.pictures], [h for part in parts for h in part.holes], rebuild)


def _of_pil(image: Image.Image, mask: Any) -> Batch:
    mode = image.mode
    if mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        # A palette, CMYK or black and white cannot hold what is filled in.
        image = image.convert("RGBA" if image.has_transparency_data else "L" if mode == "1" else "RGB")
        mode = image.mode
    info = dict(image.info)
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    colours = 1 if pixels.shape[-1] <= 2 else 3

    def rebuild(filled: list[NDArray[Any]]) -> Image.Image:
        array = np.concatenate([filled[0], pixels[..., colours:]], axis=-1)
        result = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
        result.info.update(info)
        return result

    return Batch([pixels[..., :colours]], _one_each(read_hole(mask), (1, *pixels.shape[:2])), rebuild)


def _of_array(image: NDArray[Any], mask: Any) -> Batch:
    dtype = image.dtype
    if dtype not in (np.uint8, np.uint16) and not np.issubdtype(dtype, np.floating):
        raise UsageError(f"image of {dtype}: it must be uint8, uint16 or floats in [0, 1]")
    if image.ndim not in (2, 3, 4) or (image.ndim > 2 and image.shape[-1] not in (1, 3, 4)) or 0 in image.shape:
        raise UsageError(f"image of shape {image.shape}: it must be (H, W, 3) or a batch (B, H, W, 3)")
    work = image if dtype in (np.uint8, np.uint16) else image.astype(np.float32)
    work = work[..., None] if image.ndim == 2 else work
    work = work[None] if image.ndim < 4 else work
    colours = min(3, work.shape[-1])
    holes = _one_each(read_hole(mask), work.shape[:3])

    def rebuild(filled: list[NDArray[Any]]) -> NDArray[Any]:
        if len(filled) == 1 and filled[0].dtype == dtype and filled[0].size == image.size:
            return filled[0].reshape(image.shape)
        result = image.copy()
        target = result.reshape(work.shape)
        for number, picture in enumerate(filled):
            np.copyto(target[number, ..., :colours], picture, where=holes[number][..., None], casting="same_kind")
        return target.reshape(image.shape)

    return Batch(list(work[..., :colours]), holes, rebuild)


def _of_tensor(image: Any, mask: Any) -> Batch:
    import torch

    if image.ndim not in (3, 4) or image.shape[-3] not in (1, 3, 4) or 0 in image.shape:
        raise UsageError(f"image of shape {tuple(image.shape)}: tensors must be (3, H, W) or (B, 3, H, W)")
    if not image.is_floating_point() and image.dtype != torch.uint8:
        raise UsageError(f"image of {image.dtype}: it must be uint8 or floats in [0, 1]")
    batch = image[None] if image.ndim == 3 else image
    plain = batch.detach().cpu()
    work = (plain.float() if image.is_floating_point() else plain).permute(0, 2, 3, 1).numpy()
    colours = min(3, work.shape[-1])
    holes = _one_each(read_hole(mask), work.shape[:3])

    def rebuild(filled: list[NDArray[Any]]) -> Any:
        result = plain.clone()
        for number, picture in enumerate(filled):
            values = torch.from_numpy(picture).permute(2, 0, 1).to(plain.dtype)
            target = result[number, :colours]
            target.copy_(torch.where(torch.from_numpy(holes[number]), values, target))
        return result.reshape(image.shape).to(image.device)

    return Batch(list(work[..., :colours]), holes, rebuild)


def _one_each(hole: NDArray[np.bool_], shape: tuple[int, ...]) -> list[NDArray[np.bool_]]:
    """One `(H, W)` mask for each of `(B, H, W)` pictures; a single one serves all."""
    count, *size = shape
    if hole.ndim in (3, 4) and hole.shape[-1] == 1 and [*hole.shape[-3:-1]] == size:
        hole = hole[..., 0]  # as NumPy has channels
    elif hole.ndim == 4 and hole.shape[1] == 1:
        hole = hole[:, 0]  # as tensors have them
    if hole.ndim == 2:
        return [hole] * count
    if hole.ndim != 3 or len(hole) not in (1, count):
        raise UsageError(f"mask of shape {hole.shape}: it must be (H, W), or one for each of {count} pictures")
    return list(hole) if len(hole) == count else [hole[0]] * count
