"""Backgrounds of the sample's portraits: coloured, and rich in crisp edges."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image

from wssl_pl.data.sample.pen import Colour, Frame, Pen, arc, arcs, bezier, curve, hsv, mix, tint, tints

LEAVES = 220
LAYER = 20


def draw_background(image: Image.Image, rng: Generator) -> None:
    """Cover a square RGB image with a randomly chosen scene."""
    scene = SCENES[rng.integers(len(SCENES))]
    scene(Pen(image, Frame()), rng, rng.random())


def gradient(pen: Pen, top: Colour, bottom: Colour) -> None:
    """Fade from the top of the image to its bottom."""
    side = pen.image.width
    ramp = np.linspace(0, 1, side)[:, None, None]
    rows = np.round(np.array(top) * (1 - ramp) + np.array(bottom) * ramp).astype(np.uint8)
    pen.image.paste(Image.fromarray(np.repeat(rows, side, axis=1)))


def lights(pen: Pen, rng: Generator, hue: float) -> None:
    """Bokeh: discs of light with a bright rim, before dusk."""
    gradient(pen, hsv(hue, 0.75, 0.30), hsv(hue + 0.08, 0.65, 0.6))
    for _ in range(26):
        x, y, radius = rng.uniform(0, 1), rng.beta(1.2, 1.6), rng.uniform(0.02, 0.08)
        colour = hsv(hue + rng.normal(0.06, 0.09), rng.uniform(0.45, 0.8), 1.0)
        pen.soft(arc(x, y, radius, radius), colour, rng.uniform(0.2, 0.5), 0.0)
        pen.line(arc(x, y, radius, radius), mix(colour, hsv(hue, 0.7, 0.5), 0.4), 0.003)


def wallpaper(pen: Pen, rng: Generator, hue: float) -> None:
    """Vertical stripes with a thin thread between them, and a motif in every second one."""
    light, dark = hsv(hue, 0.38, 0.92), hsv(hue + rng.uniform(-0.04, 0.04), 0.55, 0.78)
    gradient(pen, light, tint(light, 0.9))
    count = int(rng.integers(7, 13))
    motif = hsv(hue + 0.5, 0.5, 0.85)
    for k in range(count):
        x, width = (k + 0.25) / count, 0.5 / count
        pen.fill([(x, 0), (x + width, 0), (x + width, 1), (x, 1)], dark)
        pen.line([[(edge, 0), (edge, 1)] for edge in (x - 0.1 / count, x + 0.6 / count)], tint(dark, 0.85), 0.004)
        buds = np.array([(x + width / 2, (row + 0.5 * (k % 2)) / count) for row in range(count + 1)])
        pen.fill(arcs(buds, (0.1 / count, 0.2 / count)), motif)
        pen.fill(arcs(np.add(buds, (0, 0.24 / count)), (0.16 / count, 0.07 / count)), tint(light, 1.05))


def bricks(pen: Pen, rng: Generator, hue: float) -> None:
    """A wall whose stones are lit from above, painted in any colour or plain brick."""
    hue = 0.03 if hue < 0.5 else hue
    gradient(pen, hsv(hue, 0.25, 0.72), hsv(hue, 0.3, 0.55))
    row, column = (index.ravel() for index in np.mgrid[:15, -1:8])
    left, top = (column + 0.5 * (row % 2)) / 6.5 + 0.008, row / 15 + 0.008
    right, bottom = left + 0.142, top + 0.055
    hues, saturations, values = rng.normal(hue, 0.012, 135), rng.uniform(0.5, 0.68, 135), rng.uniform(0.5, 0.75, 135)
    colours = [hsv(*colour) for colour in zip(hues, saturations, values, strict=True)]
    stones = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1).reshape(-1, 4, 2)
    pen.fill(stones, colours)
    pen.line(stones[:, :2], [tint(colour, 1.3) for colour in colours], 0.004)
    pen.line(stones[:, 2:], [tint(colour, 0.7) for colour in colours], 0.004)


def foliage(pen: Pen, rng: Generator, hue: float) -> None:
    """Leaves one over the other, darker ones behind, a few blossoms among them."""
    hue = 0.22 + 0.22 * hue
    gradient(pen, hsv(hue, 0.6, 0.35), hsv(hue, 0.75, 0.2))
    leaf = np.concatenate([curve((0, 0), (0.4, -0.42), (1, 0), count=6), curve((1, 0), (0.4, 0.42), (0, 0), count=6)])
    depth = np.linspace(0, 1, LEAVES)
    place = rng.uniform(-0.05, 1, (LEAVES, 1, 2))
    size, turn = rng.uniform(0.06, 0.13, LEAVES), rng.uniform(-0.9, 2.6, LEAVES)
    cos, sin = size * np.cos(turn), size * np.sin(turn)
    rotate = np.stack([cos, sin, -sin, cos], 1).reshape(-1, 2, 2)
    values = 0.28 + 0.45 * depth + rng.uniform(-0.07, 0.07, LEAVES)
    hues, saturations = rng.normal(hue, 0.02, LEAVES), rng.uniform(0.55, 0.8, LEAVES)
    colours = [hsv(*colour) for colour in zip(hues, saturations, values, strict=True)]
    veins = np.array([(0, 0), (0.95, 0)]) @ rotate + place
    for start in range(0, LEAVES, LAYER):
        layer = slice(start, start + LAYER)
        pen.fill((leaf @ rotate + place)[layer], colours[layer])
        pen.line(veins[layer], [tint(colour, 1.3) for colour in colours[layer]], 0.002)
    petal = hsv(rng.choice([0.93, 0.13, 0.0, 0.78]), 0.55, 1.0)
    blossoms = rng.uniform(0, 1, (9, 2))
    for x, y in arc(0, 0, 0.016, 0.016, count=6):
        pen.fill(arcs(np.add(blossoms, (x, y)), (0.012, 0.012)), petal)
    pen.fill(arcs(blossoms, (0.008, 0.008)), hsv(0.13, 0.8, 1.0))


def tiles(pen: Pen, rng: Generator, hue: float) -> None:
    """Triangles in neighbouring hues."""
    count = int(rng.integers(6, 10))
    grid = np.stack(np.meshgrid(np.arange(-1, count + 2), np.arange(-1, count + 2)), -1) / count
    grid = grid + rng.uniform(-0.3, 0.3, grid.shape) / count
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
    triangles = np.stack([a, b, c, a, c, d], axis=2).reshape(-1, 3, 2)
    number = len(triangles)
    values = 0.9 - 0.35 * triangles[:, 0, 1] + rng.uniform(-0.08, 0.08, number)
    hues, saturations = rng.normal(hue, 0.03, number), rng.uniform(0.4, 0.7, number)
    pen.fill(triangles, [hsv(*colour) for colour in zip(hues, saturations, np.clip(values, 0, 1), strict=True)])


def meadow(pen: Pen, rng: Generator, hue: float) -> None:
    """Sky and clouds over hills, with blades of grass below."""
    gradient(pen, hsv(0.58 - 0.06 * hue, 0.68, 0.85), hsv(0.53 - 0.4 * (hue > 0.7), 0.3, 1.0))
    for x, y in rng.uniform((0, 0.03), (1, 0.35), (4, 2)):
        for dx, dy in rng.normal(0, (0.06, 0.012), (4, 2)):
            pen.soft(arc(x + dx, y + dy, 0.06, 0.03), (255, 250, 244), 0.6, 0.012)
    for k in range(3):
        y, colour = 0.52 + 0.1 * k, hsv(0.36 - 0.05 * k, 0.45 + 0.1 * k, 0.6 - 0.02 * k)
        ridge = curve((-0.1, y), *((x, y + rng.uniform(-0.14, 0.1)) for x in (0.2, 0.5, 0.8)), (1.1, y))
        pen.fill(np.concatenate([ridge, [(1.1, 1.1), (-0.1, 1.1)]]), colour)
        x, tall, deep, lean = rng.uniform((0, 0.03, 0.02, -0.03), (1, 0.09, 0.16, 0.03), (90, 4)).T
        root = np.interp(x, ridge[:, 0], ridge[:, 1]) + deep
        blades = np.stack([x, root, x, root - tall, x + lean, root - tall], axis=1).reshape(-1, 3, 2)
        pen.line(bezier(blades, 5), tints(colour, rng.uniform(0.7, 1.3, 90)), 0.003)


SCENES: list[Callable[[Pen, Generator, float], None]] = [lights, wallpaper, bricks, foliage, tiles, meadow]
