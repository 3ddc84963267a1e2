"""One portrait: shoulders, head and face, drawn from the back to the front.

The head's frame has its origin between the eyes; half the head's width is 1 and the chin lies at 1.3 below.
"""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops

from wssl_pl.data.sample.hair import draw_back_hair, draw_front_hair
from wssl_pl.data.sample.look import Look
from wssl_pl.data.sample.pen import Colour, Frame, Pen, arc, arcs, curve, hsv, mirror, mix, tint, tints


def draw_portrait(image: Image.Image, rng: Generator) -> None:
    """Draw a random person into a square RGB image."""
    look = Look.choose(rng)
    unit = rng.uniform(0.2, 0.245)
    x, y, tilt = 0.5 + rng.uniform(-0.05, 0.05), 0.47 + rng.uniform(-0.03, 0.03), rng.uniform(-0.1, 0.1)
    head, body = Pen(image, Frame(x, y, unit, tilt)), Pen(image, Frame(x - 0.6 * tilt * unit, y, unit))
    body.soft(arc(-0.25 * look.light, 0.4, 1.5, 1.9), tint(look.cloth, 0.15), 0.45, 0.35)
    draw_back_hair(head, look, rng)
    draw_body(body, head, look, rng)
    skull = draw_head(head, look, rng)
    face = head.at(look.turn, 0)
    if look.beard:
        draw_beard(face, skull, look, rng)
    draw_nose(face, look)
    draw_mouth(face, look)
    for side in (-1, 1):
        draw_eye(face.at(0.43 * side, 0), look, side)
        draw_brow(face, look, side, rng)
    draw_front_hair(head, look, rng)
    if look.glasses:
        draw_glasses(face, look, rng)


def draw_body(pen: Pen, head: Pen, look: Look, rng: Generator) -> None:
    """Shoulders in patterned cloth, and the neck with the shadow of the chin."""
    slope, wide = rng.uniform(0, 0.15), rng.uniform(1.75, 2.15)
    shoulder = curve((0.52, 1.52), (wide, 1.75 + slope), (wide + 0.25, 4), count=14)
    garment = pen.mask(np.concatenate([shoulder, mirror(shoulder)]))
    cloth = Image.new("RGB", pen.image.size, look.cloth)
    draw_fabric(pen.on(cloth), look.cloth, rng)
    dark_side = [(-0.6 * look.light, 1.5), (-3 * look.light, 1.5), (-3 * look.light, 4)]
    pen.on(cloth).soft(dark_side, (20, 10, 40), 0.3, 0.4)
    neckline = curve((-0.62, 1.45), (-0.45, 1.98), (0.45, 1.98), (0.62, 1.45))
    if rng.random() < 0.4:
        neckline = np.array([(-0.62, 1.45), (0, rng.uniform(2.1, 2.5)), (0.62, 1.45)])
    for colour, width in ((tint(look.cloth, 0.7), 0.18), (tint(look.cloth, 1.25), 0.1), (look.skin, 0.07)):
        pen.on(cloth).line(neckline, colour, width)
    pen.on(cloth).fill(neckline, look.skin)
    pen.stamp(cloth, garment)
    neck = curve((0.52, 0.8), (0.5, 1.45), (0.62, 1.62), count=8)
    neck = np.concatenate([neck, mirror(neck)])
    pen.fill(neck, look.skin)
    head.soft(arc(-0.05 * look.light, 1.15, 0.75, 0.38), tint(look.skin, 0.45), 0.75, 0.1, pen.mask(neck, neckline))


def draw_fabric(pen: Pen, colour: Colour, rng: Generator) -> None:
    """A weave of fine threads, with stripes, checks or dots over it."""
    pattern, other = rng.integers(4), hsv(rng.random(), 0.6, 0.9)
    if pattern in (0, 1):
        pen.line([[(-3, y), (3, y)] for y in np.arange(1.5, 4, 0.3)], other, 0.12)
    if pattern == 1:
        pen.line([[(x, 1.5), (x, 4)] for x in np.arange(-3, 3, 0.3)], mix(colour, other, 0.5), 0.06)
    if pattern == 2:
        x, y = np.meshgrid(np.arange(-2.6, 2.6, 0.3), np.arange(1.6, 4, 0.22))
        x[::2] += 0.15
        pen.fill(arcs(np.stack([x, y], axis=-1), (0.06, 0.06)), other)
    threads = np.arange(-2.6, 2.6, 0.036)
    pen.line([[(x, 1.5), (x + 0.1, 4)] for x in threads], tints(colour, np.resize([0.8, 1.15], len(threads))), 0.004)


def draw_head(pen: Pen, look: Look, rng: Generator) -> Image.Image:
    """Ears, skull and jaw with the light on them; returns the mask of the skull."""
    shade, glow = tint(look.skin, 0.62), sheen(look.skin)
    for side in (-1, 1):
        pen.fill(arc(side, 0.18, 0.17, 0.32), tint(look.skin, 0.93))
        pen.line(arc(1.03 * side, 0.16, 0.09, 0.2, 0.3, 1.1), tint(look.skin, 0.68), 0.03)
        if look.earrings:
            pen.fill(arc(1.05 * side, 0.56, 0.07, 0.07), look.hat)
            pen.fill(arc(1.05 * side - 0.02, 0.54, 0.02, 0.02), (255, 255, 245))
    cheeks = arc(0, 0, 1, 1.3, 0, 0.5)
    cheeks[:, 0] *= 1 - (0.08 + 0.26 * look.jaw) * (cheeks[:, 1] / 1.3) ** 2.5
    cheeks[:, 0] = np.sign(cheeks[:, 0]) * np.abs(cheeks[:, 0]) ** (0.72 + 0.25 * look.jaw)
    outline = np.concatenate([cheeks, arc(0, 0, 1, 1.35, 0.5, 1)])
    pen.fill(outline, look.skin)
    skull = pen.mask(outline)
    pen.soft(arc(-0.95 * look.light, 0.3, 0.5, 1.5), shade, 0.6, 0.3, skull)
    pen.soft(arc(0, 1.38, 0.9, 0.25), shade, 0.5, 0.15, skull)
    pen.soft(arc(0.3 * look.light, -0.55, 0.45, 0.3), glow, 0.5, 0.2, skull)
    for side in (-1, 1):
        x = 0.55 * side + look.turn
        pen.soft(arc(x, 0.5, 0.25, 0.18), mix(look.skin, (235, 70, 80), 0.45), 0.55, 0.13, skull)
        pen.soft(arc(x + 0.05 * look.light, 0.32, 0.16, 0.08), glow, 0.4, 0.08, skull)
    if look.freckles:
        spots = np.clip(rng.normal((look.turn, 0.4), (0.3, 0.09), (40, 2)), -0.75, 0.75)
        pen.fill(arcs(spots, (0.016, 0.016), count=8), tint(look.skin, 0.78))
    return skull


def sheen(skin: Colour) -> Colour:
    """Skin where the light falls on it."""
    return mix(tint(skin, 1.25), (255, 240, 214), 0.25)


def draw_nose(pen: Pen, look: Look) -> None:
    """A bridge in the light, a tip, two nostrils."""
    shade, line = tint(look.skin, 0.6), tint(look.skin, 0.62)
    x, wide = 0.35 * look.turn, look.nose
    pen.soft([(0, -0.1), (-0.16 * look.light, 0.45), (0, 0.5)], shade, 0.5, 0.05)
    pen.soft(arc(x, 0.54, 0.19 * wide, 0.05), shade, 0.7, 0.04)
    bridge = [(x - 0.02, -0.1), (x + 0.02, -0.1), (x + 0.06, 0.4), (x - 0.06, 0.4)]
    pen.soft(bridge, sheen(look.skin), 0.6, 0.05)
    pen.soft(arc(x + 0.03 * look.light, 0.42, 0.05, 0.04), (255, 246, 232), 0.4, 0.03)
    for side in (-1, 1):
        pen.fill(arc(x + 0.09 * side * wide, 0.52, 0.045, 0.026), tint(look.skin, 0.42))
        wing = curve((0.17 * side, 0.42), (0.23 * side, 0.52), (0.14 * side, 0.54), count=8)
        pen.line(wing * (wide, 1) + (x, 0), line, 0.025)


def draw_mouth(pen: Pen, look: Look) -> None:
    """Lips closed or parted over teeth, smiling more or less."""
    half, rise, gap = 0.28 + 0.11 * look.smile, 0.11 * look.smile, 0.24 * look.open
    bow, dip = 0.84, 0.84 + 0.08 * look.smile
    corner, low = (half, bow - rise), dip + gap
    left = (-half, bow - rise)
    upper = curve(left, (-0.12, dip - 0.04), (0, dip + 0.02), (0.12, dip - 0.04), corner)
    lower = curve(left, (-0.16, low), (0.16, low), corner)
    top = curve(left, (-0.14, 0.68), (-0.04, 0.74), (0, 0.78), (0.04, 0.74), (0.14, 0.68), corner)
    bottom = curve(left, (-0.22, low + 0.2), (0.22, low + 0.2), corner)
    pen.soft(arc(0, low + 0.2, 0.2, 0.05), tint(look.skin, 0.6), 0.6, 0.05)
    pen.fill(np.concatenate([top, upper[::-1]]), tint(look.lips, 0.88))
    pen.fill(np.concatenate([lower, bottom[::-1]]), look.lips)
    if gap > 0.04:
        inside, layer = np.concatenate([upper, lower[::-1]]), pen.on(pen.image.copy())
        layer.fill(inside, (92, 24, 32))
        layer.fill(arc(0, low + 0.02, 0.18, 0.1), (214, 92, 96))
        layer.fill(arc(0, bow - 0.06, half * 0.9, 0.07 + 0.35 * gap), (255, 250, 240))
        pen.stamp(layer.image, pen.mask(inside))
    pen.line(upper, tint(look.lips, 0.5), 0.022)
    pen.soft(arc(0.06 * look.light, dip + 0.78 * gap + 0.085, 0.09, 0.018), (255, 240, 235), 0.5, 0.02)
    for side in (-1, 1):
        pen.soft(arc(side * (half + 0.03), bow - rise, 0.03, 0.03), tint(look.skin, 0.5), 0.6, 0.02)


def draw_eye(pen: Pen, look: Look, side: int) -> None:
    """White, iris, pupil, highlights, lids and lashes in the eye's own frame; ``side`` is -1 or 1."""
    squint, size = 0.05 * look.smile, np.array((side, 1)) * look.eyes
    inner, outer = (-0.24, 0.03), (0.25, -0.02)
    upper = curve(inner, (-0.12, -0.23), (0.16, -0.23), outer) * size
    lower = curve(inner, (-0.1, 0.17 - squint), (0.14, 0.17 - squint), outer) * size
    lid = curve(inner, (-0.1, -0.33), (0.18, -0.31), outer) * size
    opening = np.concatenate([upper, lower[::-1]])
    pen.soft(arc(0, -0.08, 0.3, 0.2), tint(look.skin, 0.6), 0.5, 0.07)
    x, y, ball = 0.06 * look.gaze, -0.035, pen.on(pen.image.copy())
    ball.fill(opening, (250, 246, 240))
    ball.fill(arc(x, y, 0.135, 0.135), tint(look.iris, 0.5))
    ball.fill(arc(x, y, 0.118, 0.118), look.iris)
    ball.soft(arc(x, y + 0.06, 0.07, 0.05), tint(look.iris, 1.9), 0.8, 0.015)
    ball.fill(arc(x, y, 0.06, 0.06), (14, 10, 14))
    ball.soft(np.add(upper, (0, 0.03)), (60, 40, 50), 0.5, 0.03)
    pen.stamp(ball.image, pen.mask(opening))
    pen.fill(arc(x + 0.05 * look.light, y - 0.05, 0.034, 0.034), (255, 255, 255))
    pen.fill(arc(x - 0.05 * look.light, y + 0.05, 0.014, 0.014), (255, 255, 255))
    pen.line(lower[2:-1], tint(look.skin, 0.6), 0.014)
    thick, wing = (0.02, []) if look.beard else (0.035, [(0.31 * side, -0.08)])
    lash = np.concatenate([upper, np.reshape(wing, (-1, 2)), upper[:0:-1] - (0, thick)])
    pen.fill(lash, mix(tint(look.skin, 0.2), (20, 14, 18), 0.6))
    pen.line(lid[2:-2], tint(look.skin, 0.62), 0.018)


def draw_brow(pen: Pen, look: Look, side: int, rng: Generator) -> None:
    """A tapered arch of short hairs."""
    height, colour = -0.33 - 0.07 * look.lift, tint(mix(look.hair, (30, 20, 20), 0.35), 0.9)
    top = curve((0.17, height + 0.02 - 0.05 * look.lift), (0.4, height - 0.14), (0.72, height + 0.1), count=14)
    top *= (side, 1)
    thick = np.linspace(0.075 * look.brows, 0.012, 14)[:, None] * (0, 1)
    pen.fill(np.concatenate([top, (top + thick)[::-1]]), colour)
    roots = (top + thick * rng.uniform(0.5, 1.2, (14, 1)))[1:-1]
    tips = roots + np.stack([np.full(12, 0.06 * side), np.linspace(-0.064, 0, 12)], axis=1)
    pen.line(np.stack([roots, tips], axis=1), tints(colour, rng.uniform(0.7, 1.5, 12)), 0.008)


def draw_glasses(pen: Pen, look: Look, rng: Generator) -> None:
    """Round or broad rims with a gleam on the glass."""
    rim, height = hsv(rng.random(), rng.uniform(0.3, 0.85), rng.uniform(0.15, 0.7)), rng.uniform(0.24, 0.34)
    for side in (-1, 1):
        glass = arc(0.44 * side, 0.02, 0.34, height)
        within = pen.mask(glass)
        for x in (0.32 * side - 0.1, 0.32 * side + 0.1):
            pen.soft([(x, -0.4), (x + 0.09, -0.4), (x - 0.13, 0.4), (x - 0.22, 0.4)], (235, 245, 255), 0.2, 0, within)
        pen.line(glass, rim, 0.045)
        pen.line(arc(0.44 * side, 0.02, 0.34, height, 0.55, 0.9), tint(rim, 1.7), 0.014)
        pen.line([(0.78 * side, -0.03), (1.02 * side - look.turn, -0.08)], rim, 0.045)
    pen.line(curve((-0.11, -0.04), (0, -0.13), (0.11, -0.04), count=8), rim, 0.045)


def draw_beard(pen: Pen, skull: Image.Image, look: Look, rng: Generator) -> None:
    """A shadow of stubble under short hairs along the jaw and over the lip."""
    colour = tint(look.hair, 0.85)
    outer = curve((-1.25, 0.1), (-1.2, 1.7), (1.2, 1.7), (1.25, 0.1), count=24)
    inner = curve(
        (0.95, 0.1), (0.75, 0.62), (0.3, 0.64), (0, 0.63), (-0.3, 0.64), (-0.75, 0.62), (-0.95, 0.1), count=24
    )
    shape = np.concatenate([outer, inner])
    pen.soft(shape, colour, 0.72, 0.05, skull)
    layer = pen.on(pen.image.copy())
    x, y = rng.uniform((-1.1, 0.1), (1.1, 1.35), (440, 2)).T
    hairs = np.stack([x, y, 1.1 * x + rng.normal(0, 0.03, 440), y + 0.12], axis=1).reshape(-1, 2, 2)
    layer.line(hairs, tints(colour, rng.uniform(0.6, 1.7, 440)), 0.006)
    pen.stamp(layer.image, ImageChops.multiply(skull, pen.mask(shape)))
