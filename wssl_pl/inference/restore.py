"""Undo damages of whole images of any size, with a model that was trained with `restore`."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wssl_pl.errors import WSSLError
from wssl_pl.inference.engine import Mask, Progress, Tiling, fill_images, predict
from wssl_pl.inference.pyramid import to_dtype, value_range
from wssl_pl.inference.tiles import Box, Tile
from wssl_pl.models import ModelInfo, Predictor


def check_restores(info: ModelInfo) -> None:
    """Raise `WSSLError` for a model that was not trained with `restore`."""
    if not info.hyper_parameters.get("restore"):
        remedy = "give one that was trained with restore=saturation,sharpness,..."
        raise WSSLError("ckpt", info.name, "fills holes and restores nothing", remedy)


def restore_images(
    images: Sequence[NDArray[Any]],
    masks: Sequence[Mask],
    predictor: Predictor,
    tiling: Tiling,
    progress: Progress | None = None,
) -> list[NDArray[Any]]:
    """Return images with the damages undone that a model was trained with, and their holes filled.

    The known pixels are restored first, tile by tile; the holes are then filled from what was restored.

    Args:
        images: as of `fill_images`.
        masks: each `(H, W)`, True in the hole; may be empty.
        predictor: the model.
        tiling: the sizes.
        progress: called after each tile with (pixels done, of how many), those of holes counting twice.

    Raises:
        WSSLError: the model was not trained with `restore`.
    """
    check_restores(predictor.info)
    done, total = 0, sum(mask.size + int(np.count_nonzero(mask)) for mask in masks)

    def report(pixels: int) -> None:
        if progress is not None:
            progress(done + pixels, total)

    results = []
    for image, mask in zip(images, masks, strict=True):
        restored = image.copy()
        tiles = list(grid(mask.shape, tiling))
        for number, tile in enumerate(tiles, start=1):
            inside, support = tile.window.slices, tile.support
            output = predict([image[inside]], [mask[inside]], predictor, seam=0)[0]
            top, left = support.top - tile.window.top, support.left - tile.window.left
            part = output[top : top + support.height, left : left + support.width]
            target = restored[support.slices]
            present = target.astype(np.float32) / np.float32(value_range(target.dtype))
            mixed = present + tile.weight(tiling.margin)[..., None] * (part - present)
            np.copyto(target, to_dtype(mixed, target.dtype), where=~mask[support.slices][..., None])
            report(mask.size * number // len(tiles))
        done += mask.size
        if mask.any():
            fill_images([restored], [mask], predictor, tiling, lambda pixels, _: report(pixels), in_place=True)
            done += int(np.count_nonzero(mask))
        results.append(restored)
    return results


def grid(shape: tuple[int, ...], tiling: Tiling) -> Iterator[Tile]:
    """Yield tiles that cover all of an image, row by row, each of which fades in over those before it.

    Args:
        shape: `(H, W)`.
        tiling: the sizes; neighbours fade into each other over the margin.
    """
    rows, columns = (_parts(side, tiling) for side in shape[:2])
    for top, bottom in rows:
        for left, right in columns:
            support = Box(top, left, bottom, right)
            window = support.grown(tiling.margin, shape)
            yield Tile(window, support, top or None, left or None)


def _parts(side: int, tiling: Tiling) -> list[tuple[int, int]]:
    """Return the parts of a side, each of which reaches into the next one by the margin."""
    if side <= tiling.tile:
        return [(0, side)]
    step = max(tiling.tile - 3 * tiling.margin, tiling.margin)
    count = -(-side // step)
    cuts = [side * number // count for number in range(count + 1)]
    return [(start, min(side, stop + tiling.margin)) for start, stop in pairwise(cuts)]
