"""A canvas to draw on in relative coordinates, so that an image looks the same at every size."""

import colorsys
import math
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Point = tuple[ArrayLike, ArrayLike]  # the coordinates of a point, or of many
SHIFT = 4  # binary digits of a pixel's fraction in OpenCV's coordinates


class Canvas:
    """A square image `(side, side, 3)` of uint8 with a frame, in whose coordinates outlines and lines are given.

    The frame's origin `(x, y)` and `unit` are fractions of the side; `tilt` is in radians, clockwise. Outlines and
    lines are `(N, 2)`, or `(M, N, 2)` for M of them. Colors are RGB from 0 to 255, `(3,)` or `(M, 3)`.
    """

    def __init__(self, pixels: NDArray[np.uint8], x: float = 0, y: float = 0, unit: float = 1, tilt: float = 0) -> None:
        self.pixels, self.frame = pixels, (x, y, unit, tilt)
        cos, sin = unit * math.cos(tilt), unit * math.sin(tilt)
        self.axes = np.array([[cos, sin], [-sin, cos]])

    def fill(self, outlines: ArrayLike, color: ArrayLike) -> None:
        """Fill polygons."""
        for outline, ink in self._shapes(outlines, color):
            cv2.fillPoly(self.pixels, [outline], ink, cv2.LINE_AA, SHIFT)

    def line(self, lines: ArrayLike, color: ArrayLike, width: float) -> None:
        """Draw lines, at least one pixel wide."""
        thickness = max(1, round(width * self.frame[2] * len(self.pixels)))
        for line, ink in self._shapes(lines, color):
            cv2.polylines(self.pixels, [line], False, ink, thickness, cv2.LINE_AA, SHIFT)

    def glow(self, x: float, y: float, width: float, height: float, color: ArrayLike, opacity: float) -> None:
        """Blend a color into an ellipse with half axes `width` and `height`; it fades out towards the rim."""
        side, unit = len(self.pixels), self.frame[2]
        center, radius = self._place((x, y)), max(width, height) * unit * side
        (left, top), (right, bottom) = (np.clip(center + r, 0, side).astype(int).tolist() for r in (-radius, radius))
        across = np.arange(left, right, dtype=np.float32) - np.float32(center[0])
        down = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(center[1])
        (a, b), (c, d) = (self.axes / (unit * unit * side * np.array([[width], [height]]))).astype(np.float32)
        alpha = 1 - np.square(a * across + b * down) - np.square(c * across + d * down)
        alpha = np.float32(opacity) * np.square(np.maximum(alpha, 0))
        inks = np.minimum(color, 255).astype(np.float32)
        for channel, ink in zip(np.moveaxis(self.pixels[top:bottom, left:right], 2, 0), inks, strict=True):
            channel[:] = channel + (ink - channel) * alpha

    @contextmanager
    def inside(self, outline: ArrayLike, color: ArrayLike) -> Iterator["Canvas"]:
        """Fill a polygon, and return a canvas to draw on; only the part inside the polygon is kept."""
        layer = Canvas(self.pixels.copy(), *self.frame)
        layer.fill(outline, color)
        yield layer
        mask = Canvas(np.zeros((*self.pixels.shape[:2], 1), np.uint8), *self.frame)
        mask.fill(outline, 255)
        x, y, width, height = cv2.boundingRect(mask.pixels)
        box = np.s_[y : y + height, x : x + width]
        alpha = np.add(mask.pixels[box], mask.pixels[box] > 127, dtype=np.uint16)  # 0 to 256
        self.pixels[box] = (self.pixels[box] * (256 - alpha) + layer.pixels[box] * alpha) >> 8

    def _place(self, points: ArrayLike) -> Array:
        return np.asarray((np.asarray(points) @ self.axes + self.frame[:2]) * len(self.pixels) - 0.5)

    def _shapes(self, points: ArrayLike, color: ArrayLike) -> Iterator[tuple[NDArray[np.int32], list[float]]]:
        shapes = np.round(self._place(points) * 2**SHIFT).astype(np.int32)
        shapes = shapes.reshape(-1, *shapes.shape[-2:])
        yield from zip(shapes, np.broadcast_to(color, (len(shapes), 3)).astype(float).tolist(), strict=True)


def curve(*points: Point, count: int = 16) -> Array:
    """Return Bézier curves `(..., count, 2)` with the given control points."""
    t, degree = np.linspace(0, 1, count), len(points) - 1
    weights = [math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]
    x, y = (np.stack(np.broadcast_arrays(*part), axis=-1) @ np.array(weights) for part in zip(*points, strict=True))
    return np.stack(np.broadcast_arrays(x, y), axis=-1)


def ellipse(center: Point, radii: Point, start: float = 0, end: float = 1, count: int = 28) -> Array:
    """Return elliptic arcs `(..., count, 2)`, clockwise from the right; a whole turn is 1."""
    angle = 2 * np.pi * np.linspace(start, end, count)
    x, y, width, height = (np.asarray(part)[..., None] for part in (*center, *radii))
    return np.stack(np.broadcast_arrays(x + width * np.cos(angle), y + height * np.sin(angle)), axis=-1)


def hsv(hue: float, saturation: float, value: float) -> Array:
    """Return the RGB color of a hue in turns (any real number), a saturation and a value from 0 to 1."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))
