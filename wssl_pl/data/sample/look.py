"""What a person of the sample looks like: the choices that the parts of a portrait share."""

from typing import NamedTuple

from numpy.random import Generator

from wssl_pl.data.sample.pen import Colour, hsv, mix, tint

SKINS: list[Colour] = [
    (255, 219, 190), (247, 203, 168), (236, 182, 140), (221, 158, 112),
    (196, 131, 86), (164, 102, 62), (130, 78, 48), (104, 62, 40),
]  # fmt: skip
DARK_HAIRS: list[Colour] = [(38, 29, 33), (50, 36, 34), (68, 44, 30)]
HAIRS: list[Colour] = [
    *DARK_HAIRS, (106, 64, 36), (150, 88, 42), (214, 158, 74), (240, 200, 122), (196, 78, 32), (150, 48, 36),
    (160, 160, 182),
]  # fmt: skip
DYES: list[Colour] = [(220, 92, 150), (52, 116, 190), (112, 76, 170), (48, 150, 140)]
DARK_IRISES: list[Colour] = [(92, 54, 28), (64, 38, 22)]
IRISES: list[Colour] = [*DARK_IRISES, (62, 116, 180), (72, 142, 92), (136, 108, 44), (92, 122, 148)]


class Hairstyle(NamedTuple):
    """Lengths are in half head widths; heights count downwards from the eyes, the chin is at 1.3."""

    volume: float  # how far the hair stands off the skull
    length: float  # the height at which it ends behind the head
    spread: float  # half its width there
    curtain: float  # the height at which it ends in front of the ears
    wave: float
    line: str
    extra: str = ""


HAIRSTYLES = [
    Hairstyle(0.10, 0.10, 1.00, 0.00, 0.02, "swept"),
    Hairstyle(0.16, 0.15, 1.05, -0.10, 0.03, "high", "quiff"),
    Hairstyle(0.13, 0.05, 1.00, 0.05, 0.02, "fringe"),
    Hairstyle(0.05, 0.00, 1.00, -0.15, 0.01, "high"),
    Hairstyle(0.18, 1.25, 1.30, 1.00, 0.02, "fringe"),
    Hairstyle(0.16, 1.20, 1.30, 0.90, 0.05, "parted"),
    Hairstyle(0.15, 2.60, 1.40, 1.30, 0.02, "parted"),
    Hairstyle(0.20, 2.50, 1.60, 1.20, 0.10, "swept"),
    Hairstyle(0.18, 2.20, 1.50, 1.20, 0.09, "fringe"),
    Hairstyle(0.12, 0.10, 1.00, 0.10, 0.02, "parted", "bun"),
    Hairstyle(0.14, 0.10, 1.00, 0.10, 0.03, "swept", "bunches"),
    Hairstyle(0.42, 0.75, 1.40, 0.20, 0.08, "high", "curls"),
    Hairstyle(0.30, 1.50, 1.50, 0.70, 0.09, "parted", "curls"),
    Hairstyle(0.10, 0.20, 1.00, 0.10, 0.03, "swept", "hat"),
    Hairstyle(0.14, 2.30, 1.45, 1.20, 0.08, "parted", "hat"),
    Hairstyle(0.10, 0.00, 1.00, 0.00, 0.00, "high", "scarf"),
]


class Look(NamedTuple):
    """One person: colours, proportions (1 is the middle) and mood."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    cloth: Colour
    hat: Colour
    style: Hairstyle
    beard: bool
    freckles: bool
    earrings: bool
    glasses: bool
    jaw: float  # 0 round to 1 narrow
    eyes: float
    nose: float
    brows: float
    part: float  # where the hair parts, -1 left to 1 right
    smile: float  # 0 to 1
    open: float  # the mouth, 0 closed to 1
    lift: float  # of the brows, -1 to 1
    gaze: float  # -1 left to 1 right
    turn: float  # how far the face lies off the middle of the head
    light: float  # -1 from the left, 1 from the right

    @classmethod
    def choose(cls, rng: Generator) -> "Look":
        """Choose at random."""
        tone = rng.uniform(0, len(SKINS) - 1)
        skin = mix(SKINS[int(tone)], SKINS[int(tone) + 1], tone % 1)
        dark = tone > 3.5
        hairs = DYES if rng.random() < 0.07 else DARK_HAIRS if dark and rng.random() < 0.85 else HAIRS
        style = HAIRSTYLES[rng.choice(len(HAIRSTYLES))]
        cloth = rng.random()
        smile = rng.beta(1.6, 1.2)
        return cls(
            skin=skin,
            hair=tint(hairs[rng.choice(len(hairs))], rng.uniform(0.9, 1.1)),
            iris=(DARK_IRISES if dark else IRISES)[rng.choice(2 if dark else len(IRISES))],
            lips=mix(tint(skin, 0.85), hsv(rng.uniform(0.94, 1.01), 0.75, 0.75), rng.uniform(0.25, 0.75)),
            cloth=hsv(cloth, rng.uniform(0.65, 0.85), rng.uniform(0.55, 0.9)),
            hat=hsv(cloth + rng.uniform(0.3, 0.7), rng.uniform(0.6, 0.8), rng.uniform(0.5, 0.85)),
            style=style,
            beard=bool(style.length < 0.5 and style.extra in ("", "quiff", "hat") and rng.random() < 0.5),
            freckles=bool(rng.random() < 0.25),
            earrings=bool(rng.random() < 0.35),
            glasses=bool(rng.random() < 0.27),
            jaw=rng.random(),
            eyes=rng.uniform(0.85, 1.12),
            nose=rng.uniform(0.85, 1.3),
            brows=rng.uniform(0.6, 1.5),
            part=rng.uniform(-0.5, 0.5),
            smile=smile,
            open=rng.uniform(0.35, 1) if smile > 0.45 and rng.random() < 0.55 else 0.0,
            lift=rng.uniform(-0.5, 1),
            gaze=rng.uniform(-1, 1),
            turn=rng.uniform(-0.13, 0.13),
            light=float(rng.choice([-1, 1])),
        )
