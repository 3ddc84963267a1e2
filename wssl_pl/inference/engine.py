"""Fills the holes of pictures of any size with a network that was trained on small ones.

A picture of about the training size is seen whole. Of a larger one the network sees tiles around the holes; where a
hole is so thick that its middle lies further from known pixels than in training, the hole is filled at half the size
first (and there perhaps at half that size), and the tiles fill a rim of it anew, with the coarse middle as context.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wssl_pl.inference.backends import Backend, ModelInfo
from wssl_pl.inference.padding import MULTIPLE, crop_to, pad_to_multiple
from wssl_pl.inference.pyramid import STRIP, halve, lay, to_dtype
from wssl_pl.inference.seams import mend
from wssl_pl.inference.tiles import Box, Tile, clusters, ease, merged, tiles

Progress = Callable[[int, int], None]
"""Told (pixels of hole that are done, of how many) after each tile; what it raises ends the work."""


@dataclass(frozen=True)
class Scheme:
    """Sizes in pixels that follow from the side of the training pictures.

    Attributes:
        whole: pictures with no longer side are seen whole, unless a hole is deeper than in training.
        reach: how far from known pixels a hole is filled by one look; what is deeper is filled at half the size first.
        tile: the longest side of a window.
        margin: what a window shows around the hole.
        soft: over how many pixels tiles fade into each other.
        seam: over how many pixels the network's error at the border of a hole is averaged, and taken back inside it;
            0 leaves the output as it is.
        batch: pixels that go through the network at once.
    """

    whole: int
    reach: float
    tile: int
    margin: int
    soft: int = 16
    seam: float = 2.0
    batch: int = 512 * 512

    @classmethod
    def of(cls, info: ModelInfo) -> "Scheme":
        """The sizes for a model.

        Half of the holes of 30 to 50 % that QD-IMD's strokes make are no deeper than a tenth of the side, nine of ten
        no deeper than an eighth. On faces of 128 to 512 px a reach of a tenth was the best of 1/16 to 3/8 of the side,
        a margin of a quarter as good as a half, and wide networks see smaller windows for the sake of memory.
        """
        side = max(info.side, 64)
        margin = MULTIPLE * max(1, round(side / 4 / MULTIPLE))
        return cls(whole=side, reach=side / 10, tile=512 if info.width <= 16 else 384, margin=margin)


def fill_all(
    pictures: Sequence[NDArray[Any]], holes: Sequence[NDArray[np.bool_]], backend: Backend, scheme: Scheme,
    progress: Progress | None = None, in_place: bool = False,
) -> list[NDArray[Any]]:  # fmt: skip
    """Fills the holes of several pictures; those of one size that are seen whole go through the network together.

    Args:
        pictures: each `(H, W, C)`, `C` 1 or 3, uint8, uint16 or float32 in [0, 1].
        holes: each `(H, W)`, True in the hole.
        backend: the model.
        scheme: the sizes.
        progress: told how far it is.
        in_place: write into the arrays themselves.

    Returns:
        arrays of the same shapes and types, in which only the pixels of the holes differ.
    """
    results = list(pictures) if in_place else [picture.copy() for picture in pictures]
    done, total = 0, sum(int(np.count_nonzero(hole)) for hole in holes)

    def tell(pixels: int) -> None:
        nonlocal done
        done = min(total, done + pixels)
        if progress is not None:
            progress(done, total)

    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, (picture, hole) in enumerate(zip(results, holes, strict=True)):
        if np.issubdtype(picture.dtype, np.floating):
            np.copyto(picture, 0, where=hole[..., None])  # what lies in a hole may be no number at all
        if max(picture.shape[:2]) <= scheme.whole and _depth(hole) <= 1.25 * scheme.reach:
            alike.setdefault((picture.shape, picture.dtype), []).append(index)
        else:
            fill(picture, hole, backend, scheme, tell)
    for (shape, dtype), indices in alike.items():
        each = max(1, scheme.batch // max(1, shape[0] * shape[1]))
        for start in range(0, len(indices), each):
            part = indices[start : start + each]
            outputs = look([results[i] for i in part], [holes[i] for i in part], backend, scheme.seam)
            for index, output in zip(part, outputs, strict=True):
                hole = holes[index]
                np.copyto(results[index], to_dtype(output, dtype, value_range(dtype)), where=hole[..., None])
                tell(int(np.count_nonzero(hole)))
    tell(total)
    return results


def fill(
    pixels: NDArray[Any], hole: NDArray[np.bool_], backend: Backend, scheme: Scheme, tell: Callable[[int], None]
) -> None:
    """Fills the hole of one picture in place, tile by tile.

    Args:
        pixels: `(H, W, C)` as for :func:`fill_all`.
        hole: `(H, W)`.
        backend: the model.
        scheme: the sizes.
        tell: told how many more pixels of the hole are done.
    """
    scale = value_range(pixels.dtype)
    groups = clusters(hole, scheme.margin)
    rim = np.zeros_like(hole)
    deep, coarse = [], []
    for group in groups:
        depth = _add_rim(rim, hole, group, scheme.reach)
        deep.append(depth > scheme.reach)
        if depth > scheme.reach:
            levels = int(np.ceil(np.log2(depth / scheme.reach)))
            coarse.append(group.grown(scheme.margin * 2**levels, hole.shape))
    for box in merged(coarse):
        small, small_hole = halve(pixels[box.slices], hole[box.slices], scale)
        fill(small, small_hole, backend, scheme, lambda _: tell(0))
        lay(small, pixels[box.slices], hole[box.slices], scale)
    for group, is_deep in zip(groups, deep, strict=True):
        work = tiles(rim, group, scheme.tile, scheme.margin, scheme.soft)
        for batch in _batches(work, scheme.batch):
            _fill_tiles(batch, pixels, hole, rim, backend, scheme, is_deep)
            tell(sum(int(np.count_nonzero(rim[tile.support.slices])) for tile in batch))


def _depth(hole: NDArray[np.bool_]) -> float:
    return float(_distance(hole).max())


def _distance(hole: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How far each pixel of a hole is from known ones, `(H, W)`; endless where there are none."""
    if hole.all():
        return np.full(hole.shape, np.float32(max(hole.shape)))
    distance: NDArray[Any] = cv2.distanceTransform(hole.view(np.uint8), cv2.DIST_L2, 3)
    return distance


def _add_rim(rim: NDArray[np.bool_], hole: NDArray[np.bool_], group: Box, reach: float) -> float:
    """Marks the part of the holes in a box that one look fills; returns about how far the middle is from known pixels.

    In strips, since the distances of a whole large picture would take more memory than the picture.
    """
    deepest = 0.0
    for top in range(group.top, group.bottom, STRIP):
        strip = Box(top, group.left, min(top + STRIP, group.bottom), group.right)
        around = strip.grown(int(reach) + 2, hole.shape)
        distance = _distance(np.ascontiguousarray(hole[around.slices]))
        distance = distance[top - around.top :, group.left - around.left :][: strip.height, : strip.width]
        rim[strip.slices] |= hole[strip.slices] & (distance <= reach)
        deepest = max(deepest, float(distance.max()))
    if deepest > reach:
        # Every eighth pixel will do for the number of halvings.
        box = group.grown(8, hole.shape)
        sample = hole[box.top : box.bottom : 8, box.left : box.right : 8]
        deepest = max(np.nextafter(reach, np.inf), 8 * _depth(np.ascontiguousarray(sample)))
    return float(deepest)


def _batches(work: Iterator[Tile], pixels: int) -> Iterator[list[Tile]]:
    """Neighbours in the list whose windows are of one size, as many as may go through the network at once."""
    batch: list[Tile] = []
    for tile in work:
        window = tile.window
        if batch:
            first = batch[0].window
            same = (first.height, first.width) == (window.height, window.width)
            if not same or (len(batch) + 1) * window.height * window.width > pixels:
                yield batch
                batch = []
        batch.append(tile)
    if batch:
        yield batch


def _fill_tiles(
    batch: list[Tile],
    pixels: NDArray[Any],
    hole: NDArray[np.bool_],
    rim: NDArray[np.bool_],
    backend: Backend,
    scheme: Scheme,
    deep: bool,
) -> None:
    scale = value_range(pixels.dtype)
    windows = [tile.window.slices for tile in batch]
    outputs = look([pixels[window] for window in windows], [rim[window] for window in windows], backend, scheme.seam)
    for tile, output in zip(batch, outputs, strict=True):
        support = tile.support
        share = tile.share(scheme.soft)
        if deep:
            share = share * _rim_share(hole, support, scheme.reach)
        first, left = support.top - tile.window.top, support.left - tile.window.left
        seen = output[first : first + support.height, left : left + support.width]
        under = pixels[support.slices]
        below = under.astype(np.float32) / np.float32(scale)
        value = below + share[..., None] * (seen - below)
        np.copyto(under, to_dtype(value, pixels.dtype, scale), where=rim[support.slices][..., None])


def _rim_share(hole: NDArray[np.bool_], box: Box, reach: float) -> NDArray[np.float32]:
    """1 in the outer half of the rim of a deep hole, then falling to 0 where its coarse middle begins."""
    around = box.grown(int(reach) + 2, hole.shape)
    distance = _distance(np.ascontiguousarray(hole[around.slices]))
    distance = distance[box.top - around.top :, box.left - around.left :][: box.height, : box.width]
    return ease(2 - 2 * distance / np.float32(reach))


def look(
    pictures: Sequence[NDArray[Any]], holes: Sequence[NDArray[np.bool_]], backend: Backend, seam: float
) -> NDArray[np.float32]:
    """The network's output for pictures of one size, `(B, H, W, C)` in [0, 1], mended over `seam` pixels."""
    height, width, channels = pictures[0].shape
    scale = np.float32(value_range(pictures[0].dtype))
    images = np.zeros((len(pictures), 3, height, width), np.float32)
    masks = np.empty((len(pictures), 1, height, width), np.float32)
    for image, mask, picture, hole in zip(images, masks, pictures, holes, strict=True):
        mask[0] = hole
        for plane in range(3):
            np.divide(picture[..., min(plane, channels - 1)], scale, out=image[plane], where=~hole)
    output = crop_to(backend(pad_to_multiple(images), pad_to_multiple(masks)), height, width)
    if channels == 1:
        output = output.mean(axis=1, keepdims=True)
    if seam > 0:
        each = zip(output, images[:, :channels], masks[:, 0], strict=True)
        output = np.stack([mend(*planes, seam) for planes in each])
    return output.transpose(0, 2, 3, 1)


def value_range(dtype: np.dtype) -> float:
    """The value that counts as 1: 255, 65535, or 1 of floats."""
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0
