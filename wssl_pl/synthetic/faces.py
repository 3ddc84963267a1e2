"""Faces of the synthetic dataset.

The head's frame has its origin between the eyes; half the head's width is 1 and the chin is 1.3 below the origin. The
light comes from the left, and half of the images are flipped.
"""

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray
from PIL import Image

from wssl_pl.errors import WSSLError
from wssl_pl.synthetic.canvas import Array, Canvas, curve, ellipse, hsv
from wssl_pl.synthetic.strokes import MIN_SIZE

MIN_CANVAS = 192  # pixels; smaller images are drawn at this size and reduced
SATURATION = 0.46  # mean of an image: the factors of the saturation task then give clearly different means
MAX_BOOST = 1.3  # of the saturation; more makes skin orange
GRAIN = 0.02

SKINS = np.array([(255, 219, 190), (240, 190, 150), (221, 158, 112), (180, 116, 74), (130, 78, 48), (104, 62, 40)])
HAIRS = np.array([(44, 32, 32), (76, 48, 32), (150, 88, 42), (228, 180, 98), (190, 74, 34), (160, 160, 182)])
IRISES = np.array([(80, 46, 25), (100, 66, 30), (62, 116, 180), (72, 142, 92), (92, 122, 148)])
WHITE, LIGHT, BLUSH = (250, 246, 240), np.array([153, 144, 128]), np.array([118, 35, 40])
SIDES, FLIP = np.array([-1, 1]), (-1, 1)  # left and right, left to right
STYLES = ["short", "beard", "curls", "bun", "bob", "bob", "long", "long"]
LENGTHS = {"bob": 1.2, "long": 2.5}  # the height at which the hair ends
HAIRLINES = [
    curve((-0.92, -0.3), (-0.9, -1.25), (0.2, -0.95), (0.92, -0.75), (0.94, -0.2), count=24),
    curve((-0.93, -0.2), (-0.9, -0.5), (0, -0.45), (0.9, -0.5), (0.93, -0.2), count=24),
    curve((-0.92, -0.1), (-1, -1), (0, -0.4), (0.2, -1.9), (0.4, -0.5), (1, -0.9), (0.92, -0.1), count=24),
]


def draw_face(seed: int, size: int = 256) -> NDArray[np.uint8]:
    """Return a face `(size, size, 3)`, RGB; a seed gives the same face at every size.

    Raises:
        WSSLError: The size is below 32.
    """
    if size < MIN_SIZE:
        raise WSSLError("size", size, f"must be at least {MIN_SIZE} pixels")
    rng = Generator(PCG64([seed, 1]))
    pixels = np.empty((max(MIN_CANVAS, size), max(MIN_CANVAS, size), 3), np.uint8)
    tone = rng.uniform(0, len(SKINS) - 1)
    skin = (1 - tone % 1) * SKINS[int(tone)] + tone % 1 * SKINS[int(tone) + 1]
    hair = HAIRS[rng.integers(2 if tone > 2.5 else len(HAIRS))] * rng.uniform(0.9, 1.1)
    style = STYLES[rng.integers(len(STYLES))]
    x, y, unit, tilt = rng.uniform((0.45, 0.46, 0.2, -0.1), (0.55, 0.52, 0.24, 0.1))
    head = Canvas(pixels, x, y, unit, tilt)
    draw_background(Canvas(pixels), rng)
    draw_back_hair(head, hair, style, rng)
    draw_shoulders(Canvas(pixels, x - 0.6 * tilt * unit, y, unit), skin, rng)
    draw_skin(head, skin, hair if style == "beard" else None, rng)
    draw_mouth(head, skin, rng)
    draw_eyes(head, skin, hair, rng)
    draw_hair(head, hair, style, rng)
    if rng.random() < 0.25:
        draw_glasses(head, rng)
    image = Image.fromarray(pixels if rng.random() < 0.5 else np.ascontiguousarray(pixels[:, ::-1]))
    return finish(image.resize((size, size), Image.Resampling.BOX), rng)


def draw_background(canvas: Canvas, rng: Generator) -> None:
    """Draw a sky over hills with grass, and confetti, so that there are edges everywhere up to the border."""
    hue, ground = rng.normal(rng.choice([0.55, 0.62, 0.7, 0.97, 1.07]), 0.02), rng.uniform(0.1, 0.42)
    canvas.pixels[:] = np.linspace(hsv(hue, 0.6, 0.95), hsv(hue, 0.15, 0.95), len(canvas.pixels))[:, None]
    for k, horizon in enumerate((0.5, 0.6, 0.7)):
        bends = ((x, horizon + rng.uniform(-0.14, 0.1)) for x in (0.2, 0.5, 0.8))
        ridge, color = curve((-0.1, horizon), *bends, (1.1, horizon)), hsv(ground - 0.05 * k, 0.45 + 0.1 * k, 0.6)
        canvas.fill([*ridge, (1.1, 1.1), (-0.1, 1.1)], color)
        x, height, depth, lean = rng.uniform((0, 0.03, 0.02, -0.03), (1, 0.09, 0.16, 0.03), (60, 4)).T
        root = np.interp(x, *ridge.T) + depth
        blades = curve((x, root), (x, root - height), (x + lean, root - height), count=5)
        canvas.line(blades, np.outer(rng.uniform(0.7, 1.3, 60), color), 0.003)
    x, y, radius = rng.uniform((0, 0, 0.005), (1, 1, 0.025), (100, 3)).T
    canvas.fill(ellipse((x, y), (radius, radius), count=12), np.array([hsv(hue, 0.5, 1) for hue in rng.random(100)]))


def draw_shoulders(body: Canvas, skin: Array, rng: Generator) -> None:
    """Draw the neck with the shadow of the chin, and knitted cloth."""
    neck = np.array([(0.52, 0.8), (0.52, 1.4), (0.7, 2)])
    with body.inside(np.concatenate([neck, neck[::-1] * FLIP]), skin) as throat:
        throat.glow(0.05, 1.15, 1, 0.6, skin * 0.4, 0.9)
    wide, color = rng.uniform(1.75, 2.15), hsv(rng.random(), rng.uniform(0.65, 0.85), rng.uniform(0.55, 0.9))
    shoulder = curve((0.58, 1.45), (wide, 1.82), (wide + 0.25, 4))
    neckline = curve((-0.58, 1.45), (-0.4, 2), (0.4, 2), (0.58, 1.45))
    with body.inside(np.concatenate([neckline, shoulder, shoulder[::-1] * FLIP]), color) as cloth:
        threads = [[(x, 1.4), (x + 0.1, 4)] for x in np.linspace(-2.6, 2.6, 110)]
        cloth.line(threads, np.outer(np.resize([0.8, 1.15], 110), color), 0.004)
        cloth.line(neckline, color * 1.25, 0.12)


def draw_skin(head: Canvas, skin: Array, beard: Array | None, rng: Generator) -> None:
    """Draw the ears, the skull and the nose with light and shade, and a beard of the given color."""
    head.fill(ellipse((SIDES, 0.18), (0.17, 0.32)), skin * 0.93)
    head.line(ellipse((1.03 * SIDES, 0.16), (0.09, 0.2)), skin * 0.68, 0.03)
    jaw = curve((1, 0), (1, rng.uniform(0.7, 1.1)), (rng.uniform(0.35, 0.6), 1.3), (0, 1.3))
    with head.inside([*jaw, *jaw[::-1] * FLIP, *ellipse((0, 0), (1, 1.35), 0.5, 1)], skin) as skull:
        skull.glow(1.1, 0.3, 0.9, 1.8, skin * 0.6, 0.7)
        skull.glow(0, 1.45, 1.3, 0.5, skin * 0.6, 0.7)
        skull.glow(-0.3, -0.5, 0.8, 0.6, 0.4 * skin + LIGHT, 0.5)
        for x in (-0.55, 0.55):
            skull.glow(x, 0.5, 0.45, 0.38, 0.5 * skin + BLUSH, 0.6)
    head.glow(0.08, 0.3, 0.14, 0.4, skin * 0.6, 0.6)
    head.glow(0, 0.54, 0.3, 0.12, skin * 0.6, 0.9)
    head.glow(-0.02, 0.24, 0.1, 0.45, 0.4 * skin + LIGHT, 0.7)
    head.fill(ellipse((0.09 * SIDES, 0.52), (0.045, 0.026)), skin * 0.42)
    head.line(curve((0.17 * SIDES, 0.42), (0.23 * SIDES, 0.52), (0.14 * SIDES, 0.54)), skin * 0.6, 0.025)
    if beard is not None:
        inner = curve((-0.95, 0.1), (-0.75, 0.62), (-0.3, 0.64), (0, 0.63), (0.3, 0.64), (0.75, 0.62), (0.95, 0.1))
        outer = curve((0.99, 0.1), (1.05, 1.15), (0.5, 1.53), (-0.5, 1.53), (-1.05, 1.15), (-0.99, 0.1))
        x, y = rng.uniform((-1, 0.1), (1, 1.3), (300, 2)).T
        draw_strands(head, np.concatenate([outer, inner]), beard, curve((x, y), (1.1 * x, y + 0.2), count=2), rng)


def draw_mouth(face: Canvas, skin: Array, rng: Generator) -> None:
    """Draw lips, closed or open over teeth, with more or less of a smile."""
    smile, lips = rng.beta(1.6, 1.2), 0.45 * skin + 0.5 * hsv(rng.uniform(0.94, 1), 0.75, 0.75)
    gap = rng.uniform(0.08, 0.24) if smile > 0.45 and rng.random() < 0.55 else 0.0
    dip, half, corner = 0.84 + 0.08 * smile, 0.28 + 0.11 * smile, 0.84 - 0.11 * smile
    left, right, low = (-half, corner), (half, corner), dip + gap
    top = curve(left, (-0.14, 0.68), (-0.04, 0.74), (0, 0.78), (0.04, 0.74), (0.14, 0.68), right)
    upper = curve(left, (-0.12, dip - 0.04), (0, dip + 0.02), (0.12, dip - 0.04), right)
    lower = curve(left, (-0.16, low), (0.16, low), right)
    bottom = curve(left, (-0.22, low + 0.2), (0.22, low + 0.2), right)
    face.glow(0, low + 0.2, 0.3, 0.12, skin * 0.6, 0.7)
    face.fill(np.concatenate([top, bottom[::-1]]), lips)
    face.fill(np.concatenate([upper, lower[::-1]]), WHITE if gap else lips)
    face.line(upper, lips * 0.5, 0.02)


def draw_eyes(face: Canvas, skin: Array, hair: Array, rng: Generator) -> None:
    """Draw eyes with lids and lashes, and brows."""
    iris, (gaze, height) = IRISES[rng.integers(2 if skin[0] < 190 else 5)], rng.uniform((-0.06, -0.4), (0.06, -0.33))
    for side in (-1, 1):
        upper, lower = (curve((0.2, 0.03), (0.32, y), (0.6, y), (0.68, -0.02)) * (side, 1) for y in (-0.23, 0.15))
        x, y = 0.43 * side + gaze, -0.035
        face.glow(0.43 * side, -0.08, 0.42, 0.32, skin * 0.6, 0.5)
        with face.inside(np.concatenate([upper, lower[::-1]]), WHITE) as eye:
            eye.fill(ellipse((x, y), (0.135, 0.135)), iris * 0.5)
            eye.fill(ellipse((x, y), (0.115, 0.115)), iris)
            eye.glow(x, y + 0.06, 0.11, 0.08, iris * 1.9, 0.9)
            eye.fill(ellipse((x, y), (0.06, 0.06)), (14, 10, 14))
        face.fill(ellipse((x - 0.05, y - 0.05), (0.034, 0.034)), (255, 255, 255))
        face.line([upper[2:-2] - (0, 0.08), lower[2:-2]], skin * 0.6, 0.016)
        face.line(np.concatenate([upper, [(0.75 * side, -0.08)]]), skin * 0.15, 0.035)
        top, bottom = (curve((0.17, height), (0.4, height - y), (0.72, height + 0.1)) * (side, 1) for y in (0.16, 0.04))
        face.fill(np.concatenate([top, bottom[::-1]]), hair * 0.7)


def draw_back_hair(head: Canvas, hair: Array, style: str, rng: Generator) -> None:
    """Draw the shadow of the person, and the hair behind the head and the shoulders."""
    head.glow(0.25, 0.6, 1.8, 2, hair * 0.2, 0.6)
    e = rng.uniform(-1, 1, 110)
    if style == "bun":
        draw_strands(head, ellipse((0, -1.6), (0.5, 0.45)), hair, curve((-0.5, -1.5), (0, e - 1.6), (0.5, -1.5)), rng)
    if length := LENGTHS.get(style):
        half = np.concatenate([ellipse((0, 0), (1.17, 1.5), 0.75, 1), [(1.22, 0.5), (1.4, length), (0, length)]])
        strands = curve((0.1 * e, -1.5), (1.35 * e, -1.2), (1.45 * e, length), count=8)
        draw_strands(head, np.concatenate([half, half[::-1] * FLIP]), hair * 0.72, strands, rng)


def draw_hair(head: Canvas, hair: Array, style: str, rng: Generator) -> None:
    """Draw the hair from the crown to the hairline and before the ears."""
    line, front = HAIRLINES[rng.integers(len(HAIRLINES))], 0.5 * LENGTHS.get(style, 0) ** 0.8
    lock = np.array([(1.17, 0.6 * front), (0.98, front), (0.9, 0.3 * front)])
    outline = np.concatenate([ellipse((0, 0), (1.15, 1.5), 0.5, 1), lock, line[::-1], lock[::-1] * FLIP])
    e, crown = rng.uniform(-1, 1, 180), rng.uniform(-0.35, 0.35)
    # Strands end at the hairline; near the temples they continue into the locks.
    x, y = line[np.round((e + 1) / 2 * (len(line) - 1)).astype(int)].T
    temple = np.abs(e) ** 3 * rng.uniform(0, 1.2, 180)
    end = (x + 0.16 * np.sign(e) * temple, y + (front + 0.3) * temple)
    draw_strands(head, outline, hair, curve((crown + 0.12 * e, -1.5), (1.15 * e, -1.25), end, count=8), rng)
    for _ in range(12 if style == "curls" else 0):
        angle, radius, size = rng.uniform((0.9, 0.95, 0.08), (2.1, 1.35, 0.15), (16, 3)).T
        center, turn = (radius * np.cos(np.pi * angle), 1.1 * radius * np.sin(np.pi * angle)), rng.random()
        head.fill(ellipse(center, (size, size), count=12), np.outer(rng.uniform(0.55, 0.85, 16), hair))
        arcs = ellipse(center, (0.7 * size, 0.7 * size), turn, turn + 0.6, count=8)
        head.line(arcs, np.outer(rng.uniform(0.9, 1.4, 16), hair), 0.016)


def draw_strands(canvas: Canvas, outline: Array, color: Array, strands: Array, rng: Generator) -> None:
    """Fill an outline with wavy strands of hair `(M, N, 2)`."""
    strands = strands + rng.normal(0, 0.02, (len(strands), 1, 2))
    strands[..., 0] += 0.03 * np.sin(np.linspace(0, 14, strands.shape[1]) + 4 * strands[:, -1:, 0])
    with canvas.inside(outline, color * 0.8) as hair:
        hair.line(strands, np.outer(rng.uniform(0.62, 1.35, len(strands)), color), 0.012)


def draw_glasses(head: Canvas, rng: Generator) -> None:
    """Draw rims of a random color."""
    color = hsv(rng.random(), rng.uniform(0.3, 0.85), rng.uniform(0.15, 0.7))
    head.line(ellipse((0.44 * SIDES, 0.02), (0.34, rng.uniform(0.26, 0.34))), color, 0.045)
    head.line([[(0.78 * side, -0.03), (side, -0.08)] for side in SIDES], color, 0.045)
    head.line(curve((-0.11, -0.04), (0, -0.13), (0.11, -0.04)), color, 0.045)


def finish(image: Image.Image, rng: Generator) -> NDArray[np.uint8]:
    """Even out the saturation and add grain."""
    channels = [np.asarray(channel, np.float32) for channel in image.split()]
    value = np.maximum.reduce(channels)
    saturation = 1 - (np.minimum.reduce(channels) / np.maximum(value, 1))[::4, ::4].mean()
    boost = np.float32(min((SATURATION + rng.normal(0, 0.015)) / saturation, MAX_BOOST))
    # Grain is a factor, which keeps hue and saturation.
    grain = 1 + GRAIN * rng.standard_normal(value.shape, np.float32)
    return np.stack([np.clip(((c - value) * boost + value) * grain, 0, 255).astype(np.uint8) for c in channels], -1)
