"""What was done to a photo, as the heads of a model see it: turned, faded, blurred, with probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wssl_pl.data.decode import RESIZE_FILTERS, square
from wssl_pl.errors import WSSLError
from wssl_pl.inference.arrays import on_white, parse_images
from wssl_pl.inference.photo import read_photo
from wssl_pl.models.info import MAX_SIDE, positive

if TYPE_CHECKING:
    from wssl_pl.models.weights import Heads
    from wssl_pl.tasks import Classification

UNCHANGED = 0.5  # of photos, as far as one task is concerned
LARGEST = 1024  # pixels on a side that are looked at: a file may say any size, and ask for all memory


@dataclass(frozen=True)
class Finding:
    """What one head sees.

    Attributes:
        task: the name of its task.
        found: whether another level than that of the unchanged image is the most probable one.
        level: the expected level, of those that change the image if it is `found`; of a task whose levels have no order
            the most probable one.
        probability: that the image is changed, of `found`, or else that it is not; without an order, or a level of the
            unchanged image, that of the most probable level.
        levels: the probability of each level.
        text: the finding in a few words.
    """

    task: str
    found: bool
    level: float
    probability: float
    levels: dict[float, float]
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """What the heads of a model see in one image.

    Attributes:
        findings: one of each head.
        reduced_to: the short side, in pixels, to which the image was resized before it was looked at.
        side: the side, in pixels, of the square in its middle that was looked at.
        calibrated: whether the probabilities are calibrated; those of files without a calibration are too sure.
    """

    findings: tuple[Finding, ...]
    reduced_to: int
    side: int
    calibrated: bool

    def __str__(self) -> str:
        return ", ".join(f"{each.text} ({each.probability:.0%})" for each in self.findings)


class Diagnoser:
    """Says what was done to images of any size, as the heads of a model see it.

    An image is seen as the images of the validation were: its short side is resized to what the training resized to,
    and the square in the middle is looked at.

    Args:
        heads: of a model, by `wssl_pl.models.open_heads`.

    Raises:
        WSSLError: the file says of its data what cannot be.
    """

    def __init__(self, heads: "Heads") -> None:
        self.heads, training = heads, heads.info.training
        trained_at = heads.info.side
        self.side = min(trained_at, LARGEST)
        self.reduced_to = max(trained_at, min(positive(training.get("resize")) or self.side, MAX_SIDE))
        self.resize_filter = training.get("resize_filter", "lanczos")
        if self.resize_filter not in RESIZE_FILTERS:
            raise WSSLError("ckpt", heads.info.name, f"has an unknown resize_filter: {str(self.resize_filter)[:40]}")

    def __call__(self, image: Any) -> Diagnosis | list[Diagnosis]:
        """Return the diagnosis of an image, or those of a list or a batch; see `Inpainter.diagnose`."""
        found = [self._look(self._resized(each)) for each in parse_images(image)]
        several = isinstance(image, list | tuple) or getattr(image, "ndim", 3) == 4
        return found if several else found[0]

    def read(self, path: Path) -> Diagnosis:
        """Return the diagnosis of an image file.

        Raises:
            WSSLError: see `read_photo`.
        """
        photo = read_photo(path, reduced_to=self.reduced_to)
        pixels = photo.pixels if photo.alpha is None else on_white(photo.pixels, photo.alpha)
        return self._look(self._resized(pixels))

    def _resized(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        if image.dtype == np.uint16:
            image = (image >> 8).astype(np.uint8)
        elif image.dtype != np.uint8:
            image = np.rint(image * 255.0).astype(np.uint8)
        colours = Image.fromarray(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))
        return square(colours, self.reduced_to, self.resize_filter)

    def _look(self, pixels: NDArray[np.uint8]) -> Diagnosis:
        start = (self.reduced_to - self.side) // 2
        seen = pixels[start : start + self.side, start : start + self.side]
        probabilities = self.heads(np.ascontiguousarray(np.moveaxis(seen, -1, 0), np.float32) / 255.0)
        fractions = self.heads.unchanged_fractions
        findings = [
            _finding(task, probabilities[name].tolist(), fractions[name]) for name, task in self.heads.tasks.items()
        ]
        return Diagnosis(tuple(findings), self.reduced_to, self.side, self.heads.calibrated)


def _finding(task: "Classification", probabilities: Sequence[float], unchanged_fraction: float) -> Finding:
    unchanged = task.unchanged
    levels = _of_photos(dict(zip(task.levels, probabilities, strict=True)), unchanged, unchanged_fraction)
    likely = max(levels, key=levels.__getitem__)
    found = likely != unchanged
    probability = levels[likely]
    if found and task.ordered and unchanged is not None:
        probability = 1.0 - levels[unchanged]
    level = likely
    if task.ordered:
        counted = {each: probability for each, probability in levels.items() if not (found and each == unchanged)}
        level = sum(each * probability for each, probability in counted.items()) / sum(counted.values())
    text = task.describe(level) if found else f"{task.name}: nothing found"
    return Finding(task.name, found, level, probability, levels, text)


def _of_photos(levels: dict[float, float], unchanged: float | None, fraction: float) -> dict[float, float]:
    """Return the probabilities of levels for photos, from those for training images, where `fraction` is unchanged.

    By Bayes' rule (Saerens et al. 2002): without it a head that knows nothing would find a change in most photos.
    """
    if unchanged is None:
        return levels
    weights = {
        each: UNCHANGED / fraction if each == unchanged else (1.0 - UNCHANGED) / (1.0 - fraction) for each in levels
    }
    total = sum(weights[each] * probability for each, probability in levels.items())
    return {each: weights[each] * probability / total for each, probability in levels.items()}
