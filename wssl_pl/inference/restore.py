"""Undo damages of whole images of any size, with a model that was trained with `restore`."""

from collections.abc import Sequence
from itertools import pairwise, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wssl_pl.errors import WSSLError
from wssl_pl.inference.engine import Mask, Progress, Tiling, fill_images, predict
from wssl_pl.inference.pyramid import to_dtype, value_range
from wssl_pl.inference.tiles import Box, ease
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
    invisible: Sequence[Mask | None] | None = None,
) -> list[NDArray[Any]]:
    """Return images with the damages undone that a model was trained with, and their holes filled.

    The known pixels are restored first, tile by tile; the holes are then filled from what was restored.

    Args:
        images: as of `fill_images`.
        masks: each `(H, W)`, True in the hole; may be empty.
        predictor: the model.
        tiling: the sizes.
        progress: called after each tile with (pixels done, of how many), those of holes counting twice.
        invisible: as of `fill_images`.

    Raises:
        WSSLError: the model was not trained with `restore`.
    """
    check_restores(predictor.info)
    done, total = 0, sum(mask.size + int(np.count_nonzero(mask)) for mask in masks)

    def report(pixels: int) -> None:
        if progress is not None:
            progress(done + pixels, total)

    results = []
    for image, mask, unseen in zip(images, masks, invisible or repeat(None), strict=invisible is not None):
        restored = image.copy()
        unknown = mask if unseen is None or (mask | unseen).all() else mask | unseen
        for top, bottom in _parts(len(mask), tiling):
            rows = slice(top, bottom)
            present = restored[rows].astype(np.float32) / np.float32(value_range(image.dtype))
            mixed = present + fade_in(top, bottom, tiling)[:, None, None] * (
                _restored_rows(image, unknown, rows, predictor, tiling) - present
            )
            np.copyto(restored[rows], to_dtype(mixed, image.dtype), where=~unknown[rows][..., None])
            report(min(bottom, len(mask)) * mask.shape[1])
        done += mask.size
        if mask.any():
            fill_images(
                [restored], [mask], predictor, tiling, lambda pixels, _: report(pixels), True, invisible=[unseen]
            )
            done += int(np.count_nonzero(mask))
        results.append(restored)
    return results


def _restored_rows(
    image: NDArray[Any], mask: Mask, rows: slice, predictor: Predictor, tiling: Tiling
) -> NDArray[np.float32]:
    """Return rows of an image restored, `(rows, W, C)` in [0, 1], tile by tile from left to right."""
    result = np.zeros((rows.stop - rows.start, *image.shape[1:]), np.float32)
    for left, right in _parts(image.shape[1], tiling):
        support = Box(rows.start, left, rows.stop, right)
        window = support.grown(tiling.margin, mask.shape)
        output = predict([image[window.slices]], [mask[window.slices]], predictor, seam=0)[0]
        top, start = support.top - window.top, support.left - window.left
        target = result[:, left:right]
        target += fade_in(left, right, tiling)[:, None] * (
            output[top : top + support.height, start : start + support.width] - target
        )
    return result


def fade_in(start: int, stop: int, tiling: Tiling) -> NDArray[np.float32]:
    """Return the weight of a part of a side over the one before it, which it replaces within a margin."""
    if not start:
        return np.ones(stop, np.float32)
    return ease((np.arange(stop - start, dtype=np.float32) + 0.5) / np.float32(tiling.margin))


def _parts(side: int, tiling: Tiling) -> list[tuple[int, int]]:
    """Return the parts of a side; each overlaps the next one by the margin."""
    if side <= tiling.tile:
        return [(0, side)]
    step = max(tiling.tile - 3 * tiling.margin, tiling.margin)
    count = -(-side // step)
    cuts = [side * number // count for number in range(count + 1)]
    return [(start, min(side, stop + tiling.margin)) for start, stop in pairwise(cuts)]
