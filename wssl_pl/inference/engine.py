"""Fill the holes of images of any size with a network that was trained on small ones.

An image of about the training size is predicted as a whole. Of a larger one the network sees tiles around the holes.
Where the middle of a hole is further from known pixels than in training, the hole is first filled at half the size (and
there perhaps at half that size); the tiles then fill only a rim of it, with the coarse middle as context.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wssl_pl.inference.feather import Ring
from wssl_pl.inference.pyramid import STRIP, halve, paste, to_dtype, value_range
from wssl_pl.inference.seams import correct_seam
from wssl_pl.inference.tiles import CELL, Box, Tile, clusters, ease, merged, tiles
from wssl_pl.models import ModelInfo, Predictor

Mask = NDArray[np.bool_]
Progress = Callable[[int, int], None]
"""Called with (pixels of holes that are done, of how many) after each tile; what it raises ends the work."""


@dataclass(frozen=True)
class Tiling:
    """Sizes in pixels that follow from the side of the training images.

    Attributes:
        whole: images with no longer side are predicted as a whole, unless a hole is deeper than in training.
        radius: how far from known pixels one prediction fills a hole; deeper parts are filled at half the size first.
            Infinite: each group of holes is filled as a whole.
        tile: the longest side of a window.
        margin: what a window shows around the hole.
        soft: over how many pixels tiles fade into each other.
        seam: over how many pixels the network's error at the border of a hole is averaged, to be subtracted inside it;
            0 leaves the output as it is.
        batch: pixels that go through the network at once.
    """

    whole: int
    radius: float
    tile: int
    margin: int
    soft: int = 16
    seam: float = 2.0
    batch: int = 512 * 512

    @classmethod
    def of(cls, info: ModelInfo) -> "Tiling":
        """Return the sizes for a model.

        Half of the holes of 30 to 50 % that QD-IMD's strokes make are no deeper than a tenth of the side, nine of ten
        no deeper than an eighth. With models that were trained on these a radius of a tenth was the best of 1/16 to 3/8
        of the side, on faces of 128 to 512 px; a file says it of a model that was trained on deeper ones. A margin of
        a quarter was as good as a half, and wide networks see smaller windows for the sake of memory.
        """
        side = max(info.side, 64)
        margin = CELL * max(1, round(side / 4 / CELL))
        narrow = info.width is not None and info.width <= 16
        # What is filled in a window has to be larger than the overlap of two tiles.
        tile = max(side, 4 * margin) if info.foreign else max(512 if narrow else 384, 3 * margin)
        return cls(whole=side, radius=side * info.hole_depth, tile=tile, margin=margin)

    @classmethod
    def of_classical(cls) -> "Tiling":
        """Return the sizes for a classical method, which fills each hole at once.

        Telea's looks at 3 pixels around a point, FSR at less than the margin.
        """
        return cls(whole=0, radius=np.inf, tile=0, margin=2 * CELL, seam=0)


def fill_images(
    images: Sequence[NDArray[Any]], masks: Sequence[Mask], predictor: Predictor, tiling: Tiling,
    progress: Progress | None = None, in_place: bool = False, feather: int = 0,
    invisible: Sequence[Mask | None] | None = None,
) -> list[NDArray[Any]]:  # fmt: skip
    """Fill the holes of several images; those of one size that are predicted as a whole share a batch.

    Args:
        images: each `(H, W, C)`, `C` 1 or 3, uint8, uint16 or float32 in [0, 1].
        masks: each `(H, W)`, True in the hole.
        predictor: the model.
        tiling: the sizes.
        progress: called after each tile.
        in_place: write into the arrays themselves.
        feather: pixels around the holes that are filled too and blended with what was there, see `Ring`.
        invisible: each `(H, W)`, True where a pixel is wholly transparent, or None: their colours mean nothing, so that
            the model does not see them. They stay as they are.

    Returns:
        arrays of the same shapes and types, in which only the pixels of the holes differ, and those that are blended.

    Raises:
        WSSLError: `feather` leaves no known pixel.
    """
    if feather:
        rings = [Ring.around(image, mask, feather) for image, mask in zip(images, masks, strict=True)]
        masks = [ring.filled for ring in rings]
        results = fill_images(images, masks, predictor, tiling, progress, in_place, invisible=invisible)
        for ring, result in zip(rings, results, strict=True):
            ring.blend(result)
        return results
    results = list(images) if in_place else [image.copy() for image in images]
    views: list[NDArray[Any]] = []
    holes: list[Mask] = []
    kept: list[tuple[NDArray[Any], Mask, NDArray[Any]]] = []
    for image, mask, unseen in zip(results, masks, invisible or repeat(None), strict=invisible is not None):
        for box, hole in parts(mask, unseen, tiling):
            view = image[box.slices]
            views.append(view)
            holes.append(hole)
            if hole is not mask:  # of a large photo even masks need memory
                others = hole & ~mask[box.slices]
                kept.append((view, others, view[others]))
    total, of = (sum(int(np.count_nonzero(mask)) for mask in each) for each in (masks, holes))

    def report(done: int) -> None:
        if progress is not None:
            progress(done if total == of else done * total // of, total)

    _fill_views(views, holes, predictor, tiling, report)
    for view, others, before in kept:
        view[others] = before
    return results


def parts(mask: Mask, invisible: Mask | None, tiling: Tiling) -> list[tuple[Box, Mask]]:
    """Return the boxes of an image that are filled each on its own, with their holes.

    Without invisible pixels that is all of the image. Else it is the surroundings of the holes, whose invisible pixels
    are filled too: all of a large cut-out's would take too long.

    Args:
        mask: `(H, W)`, True in the hole.
        invisible: as of `fill_images`.
        tiling: the sizes.
    """
    everything = Box(0, 0, *mask.shape)
    unknown = mask if invisible is None else mask | invisible
    if invisible is None or unknown.all() or not (invisible & ~mask).any():
        return [(everything, mask)]  # where nothing is visible, the invisible colours are all that is known
    boxes = []
    for group in merged(clusters(mask, tiling.margin)):
        reach = max(tiling.margin, group.height, group.width)
        while unknown[(box := group.grown(reach, mask.shape)).slices].all():
            reach *= 2
        boxes.append(box)
    return [(box, unknown[box.slices]) for box in merged(boxes)]


def _fill_views(
    images: Sequence[NDArray[Any]], masks: Sequence[Mask], predictor: Predictor, tiling: Tiling,
    report: Callable[[int], None],
) -> None:  # fmt: skip
    """Fill the holes of several images in place; `report` is called with the pixels that are done."""
    done, total = 0, sum(int(np.count_nonzero(mask)) for mask in masks)

    def advance(pixels: int) -> None:
        nonlocal done
        done = min(total, done + pixels)
        report(done)

    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if np.issubdtype(image.dtype, np.floating):
            np.copyto(image, 0, where=mask[..., None])  # a hole may hold NaN
        if tiling.radius == np.inf:
            _fill_around(image, mask, predictor, tiling, advance)
        elif _fits_whole(mask, tiling):
            alike.setdefault((image.shape, image.dtype), []).append(index)
        else:
            _fill_in_tiles(image, mask, predictor, tiling, advance)
    for (shape, dtype), indices in alike.items():
        step = max(1, tiling.batch // max(1, shape[0] * shape[1]))
        for start in range(0, len(indices), step):
            part = indices[start : start + step]
            outputs = predict([images[i] for i in part], [masks[i] for i in part], predictor, tiling.seam)
            for index, output in zip(part, outputs, strict=True):
                np.copyto(images[index], to_dtype(output, dtype), where=masks[index][..., None])
                advance(int(np.count_nonzero(masks[index])))
    for image, mask in zip(images, masks, strict=True):
        if np.issubdtype(image.dtype, np.floating):  # integers are clipped; a corrected seam may overshoot
            np.clip(image, 0, 1, out=image, where=mask[..., None])
    advance(total)


def _fill_around(
    image: NDArray[Any], mask: Mask, predictor: Predictor, tiling: Tiling, advance: Callable[[int], None]
) -> None:
    """Fill the hole of one image in place, each group of holes at once, as a whole."""
    for box in merged(clusters(mask, tiling.margin)):
        window = box.grown(tiling.margin, mask.shape)
        (output,) = predict([image[window.slices]], [mask[window.slices]], predictor, tiling.seam)
        top, left = box.top - window.top, box.left - window.left
        filled = to_dtype(output[top : top + box.height, left : left + box.width], image.dtype)
        np.copyto(image[box.slices], filled, where=mask[box.slices][..., None])
        advance(int(np.count_nonzero(mask[box.slices])))


def _fill_in_tiles(
    image: NDArray[Any], mask: Mask, predictor: Predictor, tiling: Tiling, advance: Callable[[int], None]
) -> None:
    """Fill the hole of one image in place, tile by tile; `advance` is called with the pixels of each."""
    rim, groups, coarse = _plan(mask, tiling)
    for box in coarse:
        small, small_mask = halve(image[box.slices], mask[box.slices])
        _fill_in_tiles(small, small_mask, predictor, tiling, lambda _: advance(0))
        paste(small, image[box.slices], mask[box.slices])
    for group, is_deep in groups:
        work = tiles(rim, group, tiling.tile, tiling.margin, tiling.soft)
        for batch in _batches(work, tiling.batch):
            windows = [tile.window.slices for tile in batch]
            outputs = predict([image[w] for w in windows], [rim[w] for w in windows], predictor, tiling.seam)
            for tile, output in zip(batch, outputs, strict=True):
                weight = tile.weight(tiling.soft)
                if is_deep:
                    # 1 in the outer half of the rim, then falling to 0 where the coarse middle begins.
                    distance = _distance_within(mask, tile.support, tiling.radius)
                    weight = weight * ease(2 - 2 * distance / np.float32(tiling.radius))
                _blend(tile, output, weight, image, rim)
            advance(sum(int(np.count_nonzero(rim[tile.support.slices])) for tile in batch))


def _fits_whole(mask: Mask, tiling: Tiling) -> bool:
    return max(mask.shape) <= tiling.whole and float(_distance(mask).max()) <= 1.25 * tiling.radius


def _plan(mask: Mask, tiling: Tiling) -> tuple[Mask, list[tuple[Box, bool]], list[Box]]:
    """Return the rim of the holes that tiles fill, the groups of holes with whether each is deep, and what is reduced.

    A hole is deep whose middle is filled at half the size first, from what is in the last list's boxes.
    """
    rim, groups, coarse = np.zeros_like(mask), [], []
    for group in clusters(mask, tiling.margin):
        depth = _add_rim(rim, mask, group, tiling.radius)
        groups.append((group, depth > tiling.radius))
        if depth > tiling.radius:
            levels = int(np.ceil(np.log2(depth / tiling.radius)))
            coarse.append(group.grown(tiling.margin * 2**levels, mask.shape))
    return rim, groups, merged(coarse)


def windows(mask: Mask, tiling: Tiling, invisible: Mask | None = None) -> tuple[list[Box], list[Box]]:
    """Return the parts of an image that a model looks at to fill its holes: at full size, and reduced."""
    full: list[Box] = []
    reduced: list[Box] = []
    for box, hole in parts(mask, invisible, tiling):
        for found, inside in zip((full, reduced), _windows_of_view(hole, tiling), strict=True):
            found += [each.moved(box.top, box.left) for each in inside]
    return full, reduced


def _windows_of_view(mask: Mask, tiling: Tiling) -> tuple[list[Box], list[Box]]:
    if tiling.radius == np.inf:
        return [box.grown(tiling.margin, mask.shape) for box in merged(clusters(mask, tiling.margin))], []
    if _fits_whole(mask, tiling):
        return [Box(0, 0, *mask.shape)], []
    rim, groups, coarse = _plan(mask, tiling)
    work = (tiles(rim, group, tiling.tile, tiling.margin, tiling.soft) for group, _ in groups)
    return [tile.window for part in work for tile in part], coarse


def _blend(tile: Tile, output: NDArray[Any], weight: NDArray[Any], image: NDArray[Any], rim: Mask) -> None:
    """Mix the prediction for a tile with what is there, in place."""
    support, top, left = tile.support, tile.support.top - tile.window.top, tile.support.left - tile.window.left
    predicted = output[top : top + support.height, left : left + support.width]
    target = image[support.slices]
    present = target.astype(np.float32) / np.float32(value_range(target.dtype))
    mixed = present + weight[..., None] * (predicted - present)
    np.copyto(target, to_dtype(mixed, target.dtype), where=rim[support.slices][..., None])


def _distance(mask: Mask) -> NDArray[np.float32]:
    """Return how far each pixel of a hole is from known ones, `(H, W)`; the longer side where there are none."""
    if mask.all():
        return np.full(mask.shape, np.float32(max(mask.shape)))
    distance: NDArray[Any] = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, 3)
    return distance


def _distance_within(mask: Mask, box: Box, radius: float) -> NDArray[np.float32]:
    """Return the distances in a box, which are right up to the radius."""
    around = box.grown(int(radius) + 2, mask.shape)
    distance = _distance(np.ascontiguousarray(mask[around.slices]))
    return distance[box.top - around.top :, box.left - around.left :][: box.height, : box.width]


def _add_rim(rim: Mask, mask: Mask, group: Box, radius: float) -> float:
    """Mark the part of the holes in a box that one prediction fills; return about how deep they are.

    In strips, since the distances of a whole large image would take more memory than the image.
    """
    deepest = 0.0
    for top in range(group.top, group.bottom, STRIP):
        strip = Box(top, group.left, min(top + STRIP, group.bottom), group.right)
        distance = _distance_within(mask, strip, radius)
        rim[strip.slices] |= mask[strip.slices] & (distance <= radius)
        deepest = max(deepest, float(distance.max()))
    if deepest > radius:
        # Every eighth pixel is enough for the number of halvings.
        box = group.grown(8, mask.shape)
        sample = np.ascontiguousarray(mask[box.top : box.bottom : 8, box.left : box.right : 8])
        deepest = max(np.nextafter(radius, np.inf), 8 * float(_distance(sample).max()))
    return float(deepest)


def _batches(work: Iterator[Tile], pixels: int) -> Iterator[list[Tile]]:
    """Yield consecutive tiles whose windows are of one size, as many as may go through the network at once."""
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


def predict(
    images: Sequence[NDArray[Any]], masks: Sequence[Mask], predictor: Predictor, seam: float
) -> NDArray[np.float32]:
    """Return the predictions for images of one size, `(B, H, W, C)` in [0, 1], with the seams corrected."""
    height, width, channels = images[0].shape
    scale = np.float32(value_range(images[0].dtype))
    planes = np.zeros((len(images), 3, height, width), np.float32)
    holes = np.empty((len(images), 1, height, width), np.float32)
    for out, hole, image, mask in zip(planes, holes, images, masks, strict=True):
        hole[0] = mask
        for plane in range(3):
            np.divide(image[..., min(plane, channels - 1)], scale, out=out[plane], where=~mask)
    output = predictor(planes, holes)
    if channels == 1:
        output = output.mean(axis=1, keepdims=True)
    if seam > 0:
        each = zip(output, planes[:, :channels], holes[:, 0], strict=True)
        output = np.stack([correct_seam(*parts, seam) for parts in each])
    return output.transpose(0, 2, 3, 1)
