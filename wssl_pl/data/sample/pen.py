"""Drawing in relative coordinates, so that a picture is the same at every size."""

import colorsys
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]


class Frame(NamedTuple):
    """Where a drawing's own coordinates lie in the picture: its origin and unit in fractions of the picture's side."""

    x: float = 0.0
    y: float = 0.0
    unit: float = 1.0
    tilt: float = 0.0

    def place(self, points: ArrayLike) -> np.ndarray:
        """Map (..., 2) points of this frame to fractions of the picture's side."""
        cos, sin = math.cos(self.tilt) * self.unit, math.sin(self.tilt) * self.unit
        return np.asarray(points) @ np.array([[cos, sin], [-sin, cos]]) + (self.x, self.y)


class Pen:
    """Draws on a square image in a frame's coordinates.

    An outline or a line is (N, 2), or (M, N, 2) for M of them in one colour or in M colours.
    """

    def __init__(self, image: Image.Image, frame: Frame) -> None:
        self.image, self.frame, self.draw = image, frame, ImageDraw.Draw(image)

    def on(self, image: Image.Image) -> "Pen":
        """The same frame on another image."""
        return Pen(image, self.frame)

    def at(self, x: float, y: float) -> "Pen":
        """The frame moved to a point of its own."""
        left, top = self.frame.place((x, y)).tolist()
        return Pen(self.image, self.frame._replace(x=left, y=top))

    def mask(self, *outlines: ArrayLike) -> Image.Image:
        """An "L" image, 255 inside the outlines."""
        pen = self.on(Image.new("L", self.image.size))
        for outline in outlines:
            pen.draw.polygon(self._pixels(outline)[0], fill=255)
        return pen.image

    def fill(self, outline: ArrayLike, colour: Colour | Sequence[Colour]) -> None:
        """Fill polygons."""
        shapes = self._pixels(outline)
        for shape, ink in zip(shapes, [colour] * len(shapes) if isinstance(colour, tuple) else colour, strict=True):
            self.draw.polygon(shape, fill=ink)

    def line(self, points: ArrayLike, colour: Colour | Sequence[Colour], width: float) -> None:
        """Draw lines, at least one pixel wide."""
        pixels = max(1, round(width * self.frame.unit * self.image.width))
        joint = "curve" if pixels > 3 else None
        lines = self._pixels(points)
        for line, ink in zip(lines, [colour] * len(lines) if isinstance(colour, tuple) else colour, strict=True):
            self.draw.line(line, ink, pixels, joint)

    def soft(
        self, outline: ArrayLike, colour: Colour, opacity: float, blur: float, within: Image.Image | None = None
    ) -> None:
        """Fill one polygon with a blurred edge, for shadows, light and blush; ``within`` is an "L" mask to clip it."""
        points, side = self.frame.place(outline) * self.image.width, self.image.width
        radius = blur * self.frame.unit * side
        left, top = (max(0, math.floor(low - 2 * radius)) for low in points.min(axis=0).tolist())
        right, bottom = (min(side, math.ceil(high + 2 * radius) + 1) for high in points.max(axis=0).tolist())
        if right <= left or bottom <= top:
            return
        # A wide blur has no detail to lose at a fraction of the resolution, and takes a fraction of the time.
        step = 8 if radius >= 10 else 4 if radius >= 3 else 1
        mask = Image.new("L", (-(-(right - left) // step), -(-(bottom - top) // step)))
        shape = ((points - (left, top)) / step).ravel().tolist()
        ImageDraw.Draw(mask).polygon(shape, fill=round(255 * opacity))
        if radius:
            mask = mask.filter(ImageFilter.GaussianBlur(radius / step))
        if step > 1:
            mask = mask.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        box = (left, top, right, bottom)
        self.image.paste(colour, box, mask if within is None else ImageChops.multiply(mask, within.crop(box)))

    def stamp(self, layer: Image.Image, mask: Image.Image) -> None:
        """Copy from a layer of the image's size what lies inside the mask."""
        box = mask.getbbox()
        if box is not None:
            self.image.paste(layer.crop(box), box, mask.crop(box))

    def _pixels(self, points: ArrayLike) -> list[list[float]]:
        pixels = self.frame.place(points) * self.image.width
        return pixels.reshape(-1, 2 * pixels.shape[-2]).tolist()


def bezier(points: ArrayLike, count: int = 16) -> np.ndarray:
    """Bézier curves (..., count, 2) with the control points (..., D, 2)."""
    points = np.asarray(points, float)
    return bernstein(points.shape[-2] - 1, count) @ points


@lru_cache
def bernstein(degree: int, count: int) -> np.ndarray:
    """The weights (count, degree + 1) of the control points along a Bézier curve."""
    t = np.linspace(0, 1, count)
    return np.stack([math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)], axis=1)


def curve(*points: tuple[float, float], count: int = 16) -> np.ndarray:
    """A Bézier curve with the given control points: (count, 2)."""
    return bezier(points, count)


def arc(
    x: float, y: float, width: float, height: float, start: float = 0, end: float = 1, count: int = 28
) -> np.ndarray:
    """An elliptic arc (count, 2) about (x, y) with half axes; turns from the right (0) downwards and round (1)."""
    return unit_arc(start, end, count) * (width, height) + (x, y)


def arcs(centres: ArrayLike, radii: ArrayLike, start: float = 0, end: float = 1, count: int = 12) -> np.ndarray:
    """Many arcs (M, count, 2): centres (M, 2) and half axes that broadcast to (M, 2)."""
    return np.expand_dims(centres, -2) + np.expand_dims(radii, -2) * unit_arc(start, end, count)


@lru_cache
def unit_arc(start: float, end: float, count: int) -> np.ndarray:
    """An arc (count, 2) of the unit circle."""
    angle = 2 * np.pi * np.linspace(start, end, count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def mirror(points: ArrayLike) -> np.ndarray:
    """The points (N, 2) reflected left to right and in reverse, so that they continue an outline."""
    return np.asarray(points)[::-1] * (-1, 1)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour that lies ``share`` of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def tint(colour: Colour, factor: float) -> Colour:
    """A brighter (factor > 1) or a darker colour."""
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


def tints(colour: Colour, factors: np.ndarray) -> list[Colour]:
    """One colour in as many brightnesses as there are factors (N,)."""
    return list(map(tuple, np.minimum(np.outer(factors, colour), 255).astype(int).tolist()))


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour from its hue (turns, any real number), saturation and value (0 to 1)."""
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return red, green, blue
