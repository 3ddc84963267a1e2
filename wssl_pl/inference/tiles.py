"""Where the network has to look: windows around the holes of a large picture."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

CELL = 32  # holes are looked for in cells of so many pixels
WORTH = 0.8  # a window is cut in two where the halves show no more than this share of its pixels


@dataclass(frozen=True)
class Box:
    """Rows `top` to `bottom`, columns `left` to `right`, the ends excluded."""

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
        """Wider on all sides, within an array of this shape."""
        return Box(
            max(0, self.top - pixels),
            max(0, self.left - pixels),
            min(shape[0], self.bottom + pixels),
            min(shape[1], self.right + pixels),
        )

    def around(self, other: "Box") -> "Box":
        """The smallest box that holds both."""
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def meets(self, other: "Box") -> bool:
        """Whether they share a pixel."""
        return (
            self.top < other.bottom
            and other.top < self.bottom
            and self.left < other.right
            and other.left < self.right
        )  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """One look of the network.

    Attributes:
        window: what it sees.
        support: what it fills, inside the window.
        fade_top: the row from which on it fades in over the tile above; None at the top of a cluster.
        fade_left: the column, likewise, over the tile to its left.
    """

    window: Box
    support: Box
    fade_top: int | None
    fade_left: int | None

    def share(self, soft: int) -> NDArray[np.float32]:
        """Its share, in [0, 1], of each pixel of its support over what lies there; it fades in over `soft` pixels."""
        rows = _ramp(self.support.top, self.support.bottom, self.fade_top, soft)
        return rows[:, None] * _ramp(self.support.left, self.support.right, self.fade_left, soft)


def tight(hole: NDArray[np.bool_], box: Box) -> Box | None:
    """The smallest box around the holes in `box`, or None without one."""
    inside = hole[box.slices]
    rows = np.flatnonzero(inside.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(inside[rows[0] : rows[-1] + 1].any(axis=0))
    return Box(
        box.top + int(rows[0]),
        box.left + int(columns[0]),
        box.top + int(rows[-1]) + 1,
        box.left + int(columns[-1]) + 1,
    )


def clusters(hole: NDArray[np.bool_], margin: int) -> list[Box]:
    """Boxes around the groups of holes that are nearer to each other than about `margin` pixels, from top to bottom.

    Args:
        hole: `(H, W)`.
        margin: holes within it see each other through one window.
    """
    height, width = hole.shape
    whole = height // CELL * CELL, width // CELL * CELL
    cells = np.zeros((-(-height // CELL), -(-width // CELL)), np.uint8)
    cells[: whole[0] // CELL, : whole[1] // CELL] = (
        hole[: whole[0], : whole[1]].reshape(whole[0] // CELL, CELL, whole[1] // CELL, CELL).any(axis=(1, 3))
    )
    if whole[1] < width:
        strip = hole[: whole[0], whole[1] :].any(axis=1)
        cells[: whole[0] // CELL, -1] = strip.reshape(-1, CELL).any(axis=1)
    if whole[0] < height:
        strip = np.zeros(cells.shape[1] * CELL, bool)
        strip[:width] = hole[whole[0] :].any(axis=0)
        cells[-1] = strip.reshape(-1, CELL).any(axis=1)
    reach = max(1, margin // CELL)
    near = cv2.dilate(cells, np.ones((reach + 1, reach + 1), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    boxes = []
    for label in range(1, count):
        left, top, columns, rows = (int(value) for value in stats[label, :4])
        around = Box(top * CELL, left * CELL, min(height, (top + rows) * CELL), min(width, (left + columns) * CELL))
        box = tight(hole, around)
        if box is not None:
            boxes.append(box)
    return boxes


def merged(boxes: list[Box]) -> list[Box]:
    """Boxes that do not meet and cover all of `boxes`."""
    result: list[Box] = []
    for box in boxes:
        while meeting := [other for other in result if other.meets(box)]:
            for other in meeting:
                result.remove(other)
                box = box.around(other)
        result.append(box)
    return result


def tiles(hole: NDArray[np.bool_], cluster: Box, side: int, margin: int, soft: int) -> Iterator[Tile]:
    """Tiles that together fill all holes of a cluster: boxes cut in two while they are too large, or while it pays.

    Args:
        hole: `(H, W)`.
        cluster: a box around holes.
        side: the longest side of a window.
        margin: pixels around what is filled that the network sees.
        soft: pixels over which neighbours fade into each other.
    """
    yield from _cut(hole, cluster, None, None, side, margin, soft)


def _cut(
    hole: NDArray[np.bool_], box: Box, fade_top: int | None, fade_left: int | None, side: int, margin: int, soft: int
) -> Iterator[Tile]:
    support = tight(hole, box)
    if support is None:
        return
    window = _whole_cells(support.grown(margin, hole.shape), hole.shape)
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
    if longest > side or (longest > 4 * margin and _seen(hole, (first, second), margin) < WORTH * window.area):
        yield from _cut(hole, first, fade_top, fade_left, side, margin, soft)
        yield from _cut(hole, second, middle if down else fade_top, fade_left if down else middle, side, margin, soft)
    else:
        yield Tile(window, support, fade_top, fade_left)


def _seen(hole: NDArray[np.bool_], boxes: Iterable[Box], margin: int) -> int:
    """Pixels of the windows that the holes in each of the boxes need."""
    filled = (tight(hole, box) for box in boxes)
    return sum(_whole_cells(box.grown(margin, hole.shape), hole.shape).area for box in filled if box is not None)


def ease(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """From 0 to 1 without a kink; what is outside stays at the ends."""
    values = values.clip(0, 1)
    return values * values * (3 - 2 * values)


def _ramp(start: int, stop: int, fade: int | None, soft: int) -> NDArray[np.float32]:
    if fade is None:
        return np.ones(stop - start, np.float32)
    return ease((np.arange(start, stop, dtype=np.float32) - np.float32(fade - 0.5)) / np.float32(soft))


def _whole_cells(box: Box, shape: tuple[int, ...]) -> Box:
    """The box with sides that divide by 32, as far as the picture has them: real pixels instead of padding."""
    top, bottom = _stretched(box.top, box.bottom, shape[0])
    left, right = _stretched(box.left, box.right, shape[1])
    return Box(top, left, bottom, right)


def _stretched(start: int, stop: int, end: int) -> tuple[int, int]:
    missing = -(stop - start) % CELL
    stop = min(end, stop + missing)
    missing = -(stop - start) % CELL
    return max(0, start - missing), stop
