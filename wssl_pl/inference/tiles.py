"""Windows around the holes of a large image, on which the network runs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

CELL = 32  # side of the cells in which holes are searched; the networks halve their input five times
MAX_FRACTION = 0.8  # a window is cut in two where the windows of the halves have at most this fraction of its pixels


@dataclass(frozen=True)
class Box:
    """Rows `top` to `bottom` and columns `left` to `right`, the ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def area(self) -> int:
        """Pixels."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """For indexing an array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, pixels: int, shape: tuple[int, ...]) -> "Box":
        """Return the box wider on all sides, within an array of this shape."""
        top, left = max(0, self.top - pixels), max(0, self.left - pixels)
        return Box(top, left, min(shape[0], self.bottom + pixels), min(shape[1], self.right + pixels))

    def moved(self, down: int, right: int) -> "Box":
        """Return the box moved by pixels down and to the right."""
        return Box(self.top + down, self.left + right, self.bottom + down, self.right + right)

    def around(self, other: "Box") -> "Box":
        """Return the smallest box that holds both."""
        top, left = min(self.top, other.top), min(self.left, other.left)
        return Box(top, left, max(self.bottom, other.bottom), max(self.right, other.right))

    def meets(self, other: "Box") -> bool:
        """Return whether they share a pixel."""
        rows = self.top < other.bottom and other.top < self.bottom
        return rows and self.left < other.right and other.left < self.right


@dataclass(frozen=True)
class Tile:
    """One prediction.

    Attributes:
        window: what the network sees.
        support: what is filled, inside the window.
        fade_top: the row from which on it fades in over the tile above; None at the top of a cluster.
        fade_left: the column, likewise, over the tile to its left.
    """

    window: Box
    support: Box
    fade_top: int | None
    fade_left: int | None

    def weight(self, soft: int) -> NDArray[np.float32]:
        """Return its weight, in [0, 1], at each pixel of its support; it fades in over `soft` pixels."""
        rows = _ramp(self.support.top, self.support.bottom, self.fade_top, soft)
        return rows[:, None] * _ramp(self.support.left, self.support.right, self.fade_left, soft)


def tight_box(mask: NDArray[np.bool_], box: Box) -> Box | None:
    """Return the smallest box around the holes in `box`, or None without one."""
    inside = mask[box.slices]
    rows = np.flatnonzero(inside.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(inside[rows[0] : rows[-1] + 1].any(axis=0))
    top, left = box.top + int(rows[0]), box.left + int(columns[0])
    return Box(top, left, box.top + int(rows[-1]) + 1, box.left + int(columns[-1]) + 1)


def clusters(mask: NDArray[np.bool_], margin: int) -> list[Box]:
    """Return boxes around the groups of holes that are nearer to each other than about `margin` pixels, top to bottom.

    Args:
        mask: `(H, W)`.
        margin: holes within it share a window.
    """
    height, width = mask.shape
    rows, columns = -(-height // CELL), -(-width // CELL)
    cells = np.zeros((rows, columns), np.uint8)
    starts = np.arange(columns) * CELL
    for row in range(rows):
        cells[row] = np.logical_or.reduceat(mask[row * CELL : (row + 1) * CELL].any(axis=0), starts)
    radius = max(1, margin // CELL)
    near = cv2.dilate(cells, np.ones((radius + 1, radius + 1), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    boxes = []
    for label in range(1, count):
        left, top, columns, rows = (int(value) for value in stats[label, :4])
        around = Box(top * CELL, left * CELL, min(height, (top + rows) * CELL), min(width, (left + columns) * CELL))
        box = tight_box(mask, around)
        if box is not None:
            boxes.append(box)
    return boxes


def merged(boxes: list[Box]) -> list[Box]:
    """Return boxes that do not meet and cover all of `boxes`."""
    result: list[Box] = []
    for box in boxes:
        while meeting := [other for other in result if other.meets(box)]:
            for other in meeting:
                result.remove(other)
                box = box.around(other)
        result.append(box)
    return result


def tiles(
    mask: NDArray[np.bool_], box: Box, side: int, margin: int, soft: int,
    fade_top: int | None = None, fade_left: int | None = None,
) -> Iterator[Tile]:  # fmt: skip
    """Yield tiles that together fill all holes in a box, which is cut in two while it is too large, or while it pays.

    Args:
        mask: `(H, W)`.
        box: a box around holes.
        side: the longest side of a window.
        margin: pixels around what is filled that the network sees.
        soft: pixels over which neighbours fade into each other.
        fade_top: the row from which on the tiles fade in over those above.
        fade_left: the column, likewise, over those to the left.
    """
    support = tight_box(mask, box)
    if support is None:
        return
    window = _whole_cells(support.grown(margin, mask.shape), mask.shape)
    # Along the longer side. The second half fades in over the first, which therefore reaches into it.
    down = support.height >= support.width
    if down:
        middle = (support.top + support.bottom) // 2
        first = Box(support.top, support.left, min(middle + soft, support.bottom), support.right)
        second = Box(middle, support.left, support.bottom, support.right)
    else:
        middle = (support.left + support.right) // 2
        first = Box(support.top, support.left, support.bottom, min(middle + soft, support.right))
        second = Box(support.top, middle, support.bottom, support.right)
    longest = max(window.height, window.width)
    pays = longest > 4 * margin and _window_pixels(mask, (first, second), margin) < MAX_FRACTION * window.area
    if longest > side or pays:
        yield from tiles(mask, first, side, margin, soft, fade_top, fade_left)
        fades = (middle, fade_left) if down else (fade_top, middle)
        yield from tiles(mask, second, side, margin, soft, *fades)
    else:
        yield Tile(window, support, fade_top, fade_left)


def _window_pixels(mask: NDArray[np.bool_], boxes: Iterable[Box], margin: int) -> int:
    """Return the pixels of the windows that the holes in each of the boxes need."""
    filled = (tight_box(mask, box) for box in boxes)
    return sum(_whole_cells(box.grown(margin, mask.shape), mask.shape).area for box in filled if box is not None)


def ease(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values clipped to [0, 1] and eased at both ends."""
    values = values.clip(0, 1)
    return values * values * (3 - 2 * values)


def _ramp(start: int, stop: int, fade: int | None, soft: int) -> NDArray[np.float32]:
    if fade is None:
        return np.ones(stop - start, np.float32)
    return ease((np.arange(start, stop, dtype=np.float32) - np.float32(fade - 0.5)) / np.float32(soft))


def _whole_cells(box: Box, shape: tuple[int, ...]) -> Box:
    """Return the box with sides that 32 divides, as far as the image allows: real pixels instead of padding."""
    top, bottom = _stretched(box.top, box.bottom, shape[0])
    left, right = _stretched(box.left, box.right, shape[1])
    return Box(top, left, bottom, right)


def _stretched(start: int, stop: int, end: int) -> tuple[int, int]:
    missing = -(stop - start) % CELL
    stop = min(end, stop + missing)
    missing = -(stop - start) % CELL
    return max(0, start - missing), stop
