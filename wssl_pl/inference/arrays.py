"""PIL images, NumPy arrays and tensors to the arrays that the engine works on, and back."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wssl_pl.data.files import reason
from wssl_pl.errors import WSSLError
from wssl_pl.inference.pyramid import to_dtype, value_range

STRIP = 256  # rows whose values are checked at once
KINDS = "must be a PIL image, a NumPy array or a tensor"
Rebuild = Callable[[list[NDArray[Any]]], Any]


@dataclass
class Batch:
    """Images of one call.

    Attributes:
        images: each `(H, W, C)`, `C` 1 or 3, uint8, uint16 or float32 in [0, 1].
        masks: each `(H, W)`, True in the hole.
        invisible: each `(H, W)`, True where alpha is 0, or None without alpha.
        rebuild: returns what the caller gave with the holes filled from images like these.
    """

    images: list[NDArray[Any]]
    masks: list[NDArray[np.bool_]]
    invisible: list[NDArray[np.bool_] | None]
    rebuild: Rebuild


def parse(image: Any, mask: Any) -> Batch:
    """Return the images and masks of a call of `Inpainter`; with None as mask nothing is a hole.

    Raises:
        WSSLError: a kind, shape, type or value that cannot be used; a damaged PIL image; image and mask of different
            sizes; a mask that is empty or full.
    """
    if isinstance(image, list | tuple):
        return _parse_list(image, mask)
    batch = _parse_pixels(to_pixels(image), mask)
    if isinstance(image, Image.Image):
        batch.rebuild = partial(_to_pil, image, batch.rebuild)
    elif _is_tensor(image):
        batch.rebuild = partial(_to_tensor, image, batch.rebuild)
    for number, (each, hole) in enumerate(zip(batch.images, batch.masks, strict=True)):
        index = "" if len(batch.images) == 1 else f"[{number}]"
        if mask is not None:
            _check_mask(hole, each.shape, f"mask{index}")
        if each.dtype == np.float32:
            _check_range(each, hole, f"image{index}")
    return batch


def parse_images(image: Any) -> list[NDArray[Any]]:
    """Return the images of what `parse` takes, without masks, as `Batch.images` has them; on white by their alpha.

    Raises:
        WSSLError: a kind, shape, type or value that cannot be used.
    """
    if isinstance(image, list | tuple):
        return [found for each in image for found in parse_images(each)]
    batch = _batched(to_pixels(image))
    images = _colours(batch)
    for each in images:
        if each.dtype == np.float32:
            _check_range(each, np.zeros(each.shape[:2], bool), "image")
    has_alpha = images[0].shape[-1] < batch.shape[-1]
    return [on_white(*pair) for pair in zip(images, batch[..., -1], strict=True)] if has_alpha else images


def on_white(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Return `(H, W, C)` colours as they are seen on white, by an alpha `(H, W)` of their type."""
    result, top = np.empty_like(colours), np.float32(value_range(colours.dtype))
    for start in range(0, len(colours), STRIP):
        rows = slice(start, start + STRIP)
        opacity = alpha[rows, :, None].astype(np.float32) / top
        result[rows] = to_dtype(colours[rows] / top * opacity + (1 - opacity), colours.dtype)
    return result


def to_pixels(image: Any) -> NDArray[Any]:
    """Return a PIL image, an array or a tensor as an array with its channels last.

    Raises:
        WSSLError: a kind, shape or type that cannot be used.
    """
    if isinstance(image, Image.Image):
        if image.mode in ("I", "I;16B"):
            return _whole_numbers(_pixels(image, (image.mode,), image.mode, "image"))
        # A palette, CMYK or black and white cannot hold what is filled in.
        mode = "RGBA" if image.has_transparency_data else "L" if image.mode == "1" else "RGB"
        return _pixels(image, ("L", "LA", "RGB", "RGBA", "I;16", "F"), mode, "image")
    if _is_tensor(image):
        if image.ndim not in (3, 4) or image.shape[-3] not in (1, 3, 4) or 0 in image.shape:
            raise WSSLError("image", str(tuple(image.shape)), "tensors must be (3, H, W) or (B, 3, H, W)")
        if not image.is_floating_point() and str(image.dtype) != "torch.uint8":
            raise WSSLError("image", image.dtype, "must be uint8 or floats in [0, 1]")
        return np.moveaxis(_to_array(image), -3, -1)
    if not isinstance(image, np.ndarray):
        raise WSSLError("image", type(image).__name__, KINDS)
    if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        raise WSSLError("image", image.dtype, "must be uint8, uint16 or floats in [0, 1]")
    if image.ndim not in (2, 3, 4) or (image.ndim > 2 and image.shape[-1] not in (1, 3, 4)) or 0 in image.shape:
        raise WSSLError("image", str(image.shape), "must be (H, W, 3) or a batch (B, H, W, 3)")
    return image


def _whole_numbers(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return the pixels of Pillow's modes I and I;16B, which hold 16 bits, as those of I;16."""
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise WSSLError("image", int(low if low < 0 else high), "whole numbers must be in [0, 65535]")
    return values.astype(np.uint16)


def _batched(image: NDArray[Any]) -> NDArray[Any]:
    """Return `(H, W)`, `(H, W, C)` or `(B, H, W, C)` as the last of these."""
    image = image[..., None] if image.ndim == 2 else image
    return image if image.ndim == 4 else image[None]


def _colours(images: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the colours of `(B, H, W, C)`, of which the last of 2 or 4 channels is alpha, one array per image."""
    kept = images.dtype if images.dtype in (np.uint8, np.uint16) else np.dtype(np.float32)
    return [np.asarray(each[..., : 1 if images.shape[-1] <= 2 else 3], kept) for each in images]


def _check_mask(mask: NDArray[np.bool_], shape: tuple[int, ...], name: str) -> None:
    if mask.shape != shape[:2]:
        size = f"{mask.shape[1]} x {mask.shape[0]} pixels"
        raise WSSLError(name, size, f"the image has {shape[1]} x {shape[0]}", "both must be of one size")
    if not mask.any():
        raise WSSLError(name, None, "has no hole, so that there is nothing to fill", "1 or white is hole")
    if mask.all():
        raise WSSLError(name, None, "is all hole, so that no pixel is known", "1 or white is hole")


def _check_range(image: NDArray[np.float32], mask: NDArray[np.bool_], name: str) -> None:
    for top in range(0, len(image), STRIP):
        part = image[top : top + STRIP]
        bad = ~((part >= 0) & (part <= 1)) & ~mask[top : top + STRIP, :, None]
        if bad.any():
            raise WSSLError(name, f"{part[bad][0]:.6g}", "floats must be in [0, 1]", "give 0 to 255 as uint8")


def _pixels(image: Image.Image, modes: tuple[str, ...], mode: str, name: str) -> NDArray[Any]:
    """Return the pixels of a PIL image, converted to `mode` unless it is one of `modes`."""
    try:
        return np.asarray(image if image.mode in modes else image.convert(mode))
    except Exception as error:
        # Pillow decodes only here, and its decoders raise whatever their format's parser does.
        raise WSSLError(name, getattr(image, "filename", "") or None, reason(error)) from None


def _is_tensor(value: Any) -> bool:
    # Without importing torch: who has a tensor has imported it.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _to_array(tensor: Any) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.dtype.itemsize == 2 else tensor).numpy()  # NumPy has no bfloat16
    return array


def _read_mask(mask: Any, shape: tuple[int, ...]) -> list[NDArray[np.bool_]]:
    """Return one `(H, W)` mask, True in the hole, for each of `(B, H, W)` images; a single one serves all."""
    if mask is None:
        return [np.zeros(shape[1:], bool)] * shape[0]
    if isinstance(mask, Image.Image):
        if mask.has_transparency_data:  # an editor's layer of strokes: what is transparent is no hole
            mask = Image.alpha_composite(Image.new("RGBA", mask.size, "black"), mask.convert("RGBA"))
        mask = _pixels(mask, ("1", "L", "I;16"), "L", "mask")
    elif _is_tensor(mask):
        mask = _to_array(mask)
    if not isinstance(mask, np.ndarray):
        raise WSSLError("mask", type(mask).__name__, KINDS)
    if np.issubdtype(mask.dtype, np.floating):
        if not (np.isfinite(mask).all() and mask.min(initial=0) >= 0 and mask.max(initial=0) <= 1):
            raise WSSLError("mask", None, "holds values outside [0, 1]: floats are 0 (known) to 1 (hole)")
        mask = mask >= 0.5
    elif np.issubdtype(mask.dtype, np.integer):
        top = np.iinfo(mask.dtype if mask.dtype.itemsize <= 2 else np.uint8).max
        mask = mask == 1 if mask.max(initial=0) <= 1 else mask > top // 2
    elif mask.dtype != bool:
        raise WSSLError("mask", mask.dtype, "must be bool, whole numbers or floats in [0, 1]")
    count, *size = shape
    if mask.ndim in (3, 4) and mask.shape[-1] == 1 and [*mask.shape[-3:-1]] == size:
        mask = mask[..., 0]  # as NumPy has channels
    elif mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]  # as tensors have them
    if mask.ndim == 2:
        return [mask] * count
    if mask.ndim != 3 or len(mask) not in (1, count):
        raise WSSLError("mask", str(mask.shape), f"must be (H, W), or one for each of {count} images")
    return list(mask) if len(mask) == count else [mask[0]] * count


def _parse_list(images: Any, masks: Any) -> Batch:
    masks = [None] * len(images) if masks is None else masks
    if not isinstance(masks, list | tuple) or len(masks) != len(images):
        raise WSSLError("mask", None, f"a list of {len(images)} images needs a list of as many masks")
    parts = [parse(image, mask) for image, mask in zip(images, masks, strict=True)]
    counts = np.cumsum([0, *(len(part.images) for part in parts)])

    def rebuild(filled: list[NDArray[Any]]) -> list[Any]:
        return [part.rebuild(filled[start:stop]) for part, (start, stop) in zip(parts, pairwise(counts), strict=True)]

    def joined(name: str) -> list[Any]:
        return [each for part in parts for each in getattr(part, name)]

    return Batch(joined("images"), joined("masks"), joined("invisible"), rebuild)


def _to_pil(image: Image.Image, rebuild: Rebuild, filled: list[NDArray[Any]]) -> Image.Image:
    pixels = rebuild(filled)
    kinds: dict[str, type | str] = {"I": np.int32, "I;16B": ">u2"}
    result = Image.fromarray(pixels.astype(kinds.get(image.mode, pixels.dtype)))
    result.info.update(image.info)
    if result.mode != image.mode:  # what is said of a palette's or of CMYK's colours is not said of these
        result.info.pop("transparency", None)
        if result.info.get("icc_profile", b"")[16:20] not in (b"RGB ", b"GRAY"):
            result.info.pop("icc_profile", None)
    return result


def _to_tensor(image: Any, rebuild: Rebuild, filled: list[NDArray[Any]]) -> Any:
    import torch

    return torch.from_numpy(rebuild(filled)).movedim(-1, -3).contiguous().to(image.device, image.dtype)


def _parse_pixels(image: NDArray[Any], mask: Any) -> Batch:
    """Parse `(H, W)`, `(H, W, C)` or `(B, H, W, C)`; the last of 2 or 4 channels is alpha."""
    work = _batched(image)
    images = _colours(work)
    colours = images[0].shape[-1]
    masks = _read_mask(mask, work.shape[:3])

    def rebuild(filled: list[NDArray[Any]]) -> NDArray[Any]:
        if len(filled) == 1 and (filled[0].dtype, filled[0].size) == (image.dtype, image.size):
            return filled[0].reshape(image.shape)
        result = work.copy()
        for target, given, colour in zip(result, images, filled, strict=True):
            # What is as it was given stays, also where the image has more digits.
            np.copyto(target[..., :colours], colour, where=colour != given, casting="same_kind")
        return result.reshape(image.shape)

    has_alpha = colours < work.shape[-1]
    return Batch(images, masks, [each[..., -1] == 0 if has_alpha else None for each in work], rebuild)
