"""Hair of the sample's portraits, strand by strand, in the head's frame."""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops

from wssl_pl.data.sample.look import Look
from wssl_pl.data.sample.pen import Colour, Pen, arc, arcs, bezier, curve, mirror, tint, tints

HAIRLINES = {
    "swept": curve((-0.92, -0.3), (-0.9, -1.25), (0.2, -0.95), (0.92, -0.75), (0.94, -0.2), count=24),
    "high": curve((-0.94, -0.35), (-0.9, -0.95), (0, -0.98), (0.9, -0.95), (0.94, -0.35), count=24),
    "fringe": curve((-0.93, -0.2), (-0.9, -0.55), (0, -0.5), (0.9, -0.55), (0.93, -0.2), count=24),
}


def draw_back_hair(pen: Pen, look: Look, rng: Generator) -> None:
    """What is seen of the hair behind the head and the shoulders; ``e`` spreads its strands from -1 to 1."""
    style, top = look.style, 1.35 + look.style.volume
    colour, e = tint(look.hair, 0.72), rng.uniform(-1, 1, 140)
    if style.extra == "bun":
        coil = strands((-0.55, -1.5), (0, e - 1.6), (0.55, -1.5))
        comb(pen, arc(0, -1.6, 0.52, 0.45), look.hair, rng, coil, 0.02)
    if style.extra == "bunches":
        for side in (-1, 1):
            tail = strands((0.9 * side, -0.4), (1.4 * side + 0.7 * e, 0.1), (1.4 * side + 0.2 * e, 0.95))
            comb(pen, arc(1.32 * side, 0.2, 0.36, 0.62), colour, rng, tail, 0.06)
            pen.fill(arc(1.08 * side, -0.3, 0.14, 0.14), look.cloth)
    if style.extra == "scarf":
        pen.fill(np.concatenate([arc(0, 0.1, 1.2, 1.6, 0.5, 1), [(1.15, 1.9), (-1.15, 1.9)]]), tint(look.hat, 0.7))
    elif style.extra == "curls":
        draw_curls(pen, look, rng, count=200)
    elif style.length > 0.5:
        edge = curve((1 + style.volume, 0), (1.1 + style.volume, 0.6), (style.spread, style.length), count=12)
        half = np.concatenate([arc(0, 0, 1 + style.volume, top, 0.75, 1), edge, [(0, style.length + 0.1)]])
        fall = strands((0.1 * e, -top), (1.35 * e, -1.2), (style.spread * 1.05 * e, style.length + 0.1))
        comb(pen, np.concatenate([half, mirror(half)]), colour, rng, fall, style.wave)


def draw_front_hair(pen: Pen, look: Look, rng: Generator) -> None:
    """The hair over the skull down to the hairline, and the locks in front of the ears."""
    if look.style.extra == "scarf":
        draw_scarf(pen, look, rng)
        return
    style, inner = look.style, hairline(look)
    # Curls stand off the skull by themselves; under them lies a flat cap.
    volume = min(style.volume, 0.12) if style.extra == "curls" else style.volume
    top, wide = 1.35 + volume, 1 + volume
    outer = arc(0, 0, wide, top, 0.5, 1)
    right = [(wide + 0.02, 0.6 * style.curtain), (0.98, style.curtain), (0.9, 0.3 * style.curtain)]
    outline = np.concatenate([outer, right, inner[::-1], mirror(right)])
    e, crown = rng.uniform(-1, 1, 210), 0.75 * look.part
    # Strands end at the hairline; towards the temples they run on into the locks.
    temple, overrun = np.abs(e) ** 3, rng.uniform(0, 1.2, 210)
    end_x, end_y = inner[np.round((e + 1) / 2 * (len(inner) - 1)).astype(int)].T
    end = (end_x + 0.16 * np.sign(e) * temple * overrun, end_y + (style.curtain + 0.3) * temple * overrun)
    middle = (np.clip(1.25 * e + 0.2 * crown, -wide, wide), 0.3 * temple - 1.25)
    comb(pen, outline, look.hair, rng, strands((crown + 0.12 * e, -top), middle, end), style.wave)
    if style.extra == "curls":
        draw_curls(pen, look, rng, count=90, front=True)
    if style.extra == "hat":
        draw_hat(pen, look)
    if style.extra == "quiff":
        side = -1 if look.part < 0 else 1
        tuft = curve((-0.95, -0.9), (-1.1, -1.75), (0.6, -2.1), (1.0, -1.35), (0.8, -0.9), (-0.2, -0.75)) * (side, 1)
        sweep = strands((0.3 * e - 0.9, -0.85), (0.4 * e - 0.5, -1.7), (0.9 + 0.1 * e, 0.4 * e - 1.4)) * (side, 1)
        comb(pen, tuft, tint(look.hair, 1.05), rng, sweep, 0.03)


def hairline(look: Look) -> np.ndarray:
    """Where the hair meets the face, from the left temple to the right: (N, 2)."""
    if look.style.line == "parted":
        middle = (0.75 * look.part, -1.12)
        left = curve((-0.92, -0.1), (-0.95, -0.7), (-0.4 + 0.5 * look.part, -0.8), middle, count=12)
        right = curve(middle, (0.4 + 0.5 * look.part, -0.8), (0.95, -0.7), (0.92, -0.1), count=12)
        return np.concatenate([left, right])
    line = HAIRLINES[look.style.line].copy()
    if look.style.line == "fringe":
        line[1:-1:2, 1] += 0.07
    return line if look.part < 0 else mirror(line)


def strands(start: tuple, middle: tuple, end: tuple) -> np.ndarray:
    """Control points (N, 3, 2) from three points whose coordinates are numbers or arrays (N,)."""
    return np.stack(np.broadcast_arrays(*start, *middle, *end), axis=1).reshape(-1, 3, 2)


def draw_hat(pen: Pen, look: Look) -> None:
    """A knitted hat with a folded brim and a bobble."""
    pen.fill(arc(0, -1.75, 0.3, 0.28), tint(look.hat, 1.2))
    pen.line(arcs([(0, -1.75)] * 6, [(wide, 0.28) for wide in np.linspace(0.05, 0.3, 6)]), tint(look.hat, 0.75), 0.012)
    pen.fill(np.concatenate([arc(0, -0.6, 1.16, 1.1, 0.5, 1), [(1.16, -0.5), (-1.16, -0.5)]]), look.hat)
    e = np.linspace(-1, 1, 35)
    pen.line(bezier(strands((0.1 * e, -1.68), (1.1 * e, -1.65), (1.14 * e, -0.6)), 9), ribbed(look.hat), 0.022)
    low, high = (curve((-1.2, y), (0, y - 0.15), (1.2, y), count=35) for y in (-0.42, -0.75))
    pen.fill(np.concatenate([low, high[::-1]]), look.cloth)
    pen.line(np.stack([low, high], axis=1), ribbed(look.cloth), 0.022)


def ribbed(colour: Colour) -> list[Colour]:
    """The light and dark of the ribs of knitwear."""
    return tints(colour, np.resize([0.72, 1.2], 35))


def draw_scarf(pen: Pen, look: Look, rng: Generator) -> None:
    """A cloth around the face that falls in folds under the chin."""
    face = np.concatenate([arc(0, 0.02, 0.9, 1.0, 0.5, 1), curve((0.9, 0.1), (0.95, 1.45), (-0.95, 1.45), (-0.9, 0.1))])
    side, hem = curve((1.22, 0), (1.25, 1.2), (1.5, 2.1)), curve((1.5, 2.1), (0, 2.6), (-1.5, 2.1))
    outline = np.concatenate([arc(0, 0, 1.22, 1.55, 0.5, 1), side, hem, mirror(side)])
    e, deep = rng.uniform(-1, 1, 60), rng.uniform(0.5, 2.4, 40)
    spread = np.sign(e) * np.abs(e) ** 0.3
    falls = strands((0.5 * e, -1.5), (1.45 * spread, 0.1), (1.5 * spread, 2.3))
    drapes = strands((-1.35, 0.4 * deep), (rng.uniform(-0.3, 0.3, 40), 1.6 * deep), (1.35, 0.4 * deep))
    layer = pen.on(Image.new("RGB", pen.image.size, look.hat))
    layer.line(bezier(np.concatenate([falls, drapes])), tints(look.hat, rng.uniform(0.78, 1.2, 100)), 0.03)
    layer.soft(curve((-0.9, 1.1), (0, 2.0), (0.9, 1.1)), tint(look.hat, 0.4), 0.5, 0.12)
    pen.stamp(layer.image, ImageChops.subtract(pen.mask(outline), pen.mask(face)))
    pen.line(face, tint(look.hat, 0.6), 0.03)


def comb(pen: Pen, outline: np.ndarray, colour: Colour, rng: Generator, paths: np.ndarray, wave: float) -> None:
    """Fill the outline with strands along quadratic Bézier paths (N, 3, 2); the light falls on their upper part."""
    layer = pen.on(Image.new("RGB", pen.image.size, tint(colour, 0.8)))
    t = np.linspace(0, 1, 8)
    points = bezier(paths + rng.normal(0, 0.02, (len(paths), 1, 2)), len(t))
    points[..., 0] += wave * np.sin(14 * t + 4 * paths[:, -1:, 0]) * t
    layer.line(points, tints(colour, rng.uniform(0.62, 1.35, len(paths))), 0.012)
    pen.stamp(layer.image, pen.mask(outline))


def draw_curls(pen: Pen, look: Look, rng: Generator, count: int, front: bool = False) -> None:
    """Ringlets around the head, or over the hairline."""
    wide, tall = 1 + look.style.volume, 1.2 + look.style.volume
    if front:
        places = arc(0, 0, 1.05, 1.2, 0.48, 1.02)[rng.integers(0, 28, count)] + rng.normal(0, 0.06, (count, 2))
    else:
        pen.fill(arc(0, -0.25, 0.9 * wide, 0.9 * tall), tint(look.hair, 0.6))
        rim = rng.uniform(0, 2 * np.pi, count)
        reach = np.sqrt(rng.uniform(0.4, 1, (count, 1)))
        places = reach * np.stack([wide * np.cos(rim), tall * np.sin(rim)], axis=1) + (0, -0.25)
    radii = rng.uniform(0.08, 0.15, (count, 1)) * (1, 1)
    dark, light = tints(look.hair, rng.uniform(0.55, 0.85, count)), tints(look.hair, rng.uniform(0.9, 1.4, count))
    for start in range(0, count, 10):
        layer = slice(start, start + 10)
        pen.fill(arcs(places[layer], radii[layer]), dark[layer])
        for ring, turn in zip((0.9, 0.5), rng.integers(0, 8, 2) / 8, strict=True):
            pen.line(arcs(places[layer], ring * radii[layer], turn, turn + 0.6, count=8), light[layer], 0.016)
