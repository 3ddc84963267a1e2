"""Damaged inputs for pairs: an image is damaged as training damages it, before its hole is cut."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from wssl_pl.data.draws import uniform
from wssl_pl.evaluation.metrics import to_8_bit


@dataclass(frozen=True)
class Entry:
    """A pair to be written.

    Attributes:
        name: of the pair.
        image: `(H, W, 3)` uint8.
        mask: `(H, W)` uint8, 1 = hole.
        source: name of the image's file.
        given: the damaged image, if there is one.
        strengths: of each damage, by name.
    """

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    source: str
    given: NDArray[np.uint8] | None = None
    strengths: dict[str, float] = field(default_factory=dict)


class Damaging:
    """Damages the inputs of pairs as training does, each by strengths of its own from (seed, stream, number).

    Args:
        restore: names of tasks, see `Damages`.
        seed: of the strengths.
        stream: of the random numbers.
        undamaged: probability that a damage leaves an image as it is, see `Damages`.

    Attributes:
        names: the damages, in the order in which they are applied.

    Raises:
        WSSLError: an unknown task, a task twice, or one that cannot damage.
    """

    def __init__(self, restore: Sequence[str], seed: int, stream: str, undamaged: float = 0.0) -> None:
        from wssl_pl.modules.damages import Damages

        self.damages, self.seed, self.stream = Damages(restore, undamaged), seed, stream
        self.names = list(self.damages.tasks)

    def __call__(self, entry: Entry, number: int, around: NDArray[np.uint8], spare: int) -> Entry:
        """Return the pair with its damaged image.

        Args:
            entry: the pair.
            number: of the pair, from which its random numbers are drawn.
            around: the image with `spare` more pixels on every side, or one more below and on the right.
            spare: how many, from which the filters take the margin that they need if there is one.
        """
        margin = self.damages.margin if spare >= self.damages.margin else 0
        height, width = entry.mask.shape
        cut = around[spare - margin : spare + height + margin, spare - margin : spare + width + margin]
        image = torch.from_numpy(np.array(cut)).permute(2, 0, 1)[None].float().div_(255)
        numbers = uniform(self.seed, self.stream, 0, [number], self.damages.numbers)
        given, strengths = self.damages(image, torch.from_numpy(numbers).float(), margin)
        pixels = to_8_bit(given)[0].mul(255).round_().byte().permute(1, 2, 0).numpy()
        strengths = {name: round(value.item(), 6) for name, value in strengths.items()}
        return replace(entry, given=np.ascontiguousarray(pixels), strengths=strengths)
