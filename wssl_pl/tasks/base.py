"""What every pretext task has in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PretextTask(nn.Module):
    """A change to images, and a question about them that the encoder's features have to answer.

    For every batch the module that trains the encoder calls `draw` for what happens to each sample, `target` for the
    answer to the question, `forward` for the changed images, `head` for an output from the encoder's features of these,
    and `loss`. `state` and `score` make the metric by which people judge.

    Nothing in a task may wait for the device, and what happens to a sample comes from the sample's own random numbers.
    Most tasks are a `Classification`, which has everything but `forward`.

    Args:
        levels: the task's setting, as `--model.levels.<task>=` gives it; default: `default_levels`.
    """

    name: ClassVar[str]
    score_name: ClassVar[str]  # what `score` is: it is logged as `val/<score_name>/<task>`
    numbers: ClassVar[int] = 1  # how many random numbers per sample `draw` takes
    margin: ClassVar[int] = 0  # how many pixels beyond the border `forward` reads
    default_levels: ClassVar[tuple[float, ...]]
    reconstructs: ClassVar[bool] = False  # its output is an image's logits, which a decoder can give in place of a head
    masks_input: bool = False  # sets pixels to 0, so that it comes after the tasks that read them
    state_shape: tuple[int, ...]

    def __init__(self, levels: Sequence[float] | None = None) -> None:
        super().__init__()
        self.levels = tuple(float(level) for level in (self.default_levels if levels is None else levels))

    def draw(self, uniform: Tensor) -> Tensor:
        """Return what happens to each sample, `(B, ...)`, from uniform numbers `(B, numbers)` in [0, 1)."""
        raise NotImplementedError

    def target(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the answer `(B, ...)` for images `(B, 3, H, W)` that the task has not changed yet."""
        raise NotImplementedError

    def forward(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)` in [0, 1], each changed as drawn for it.

        The module gives them with `margin` more pixels on every side where it can, and cuts these off the result. To a
        task that `masks_input` it gives what `mask` returned in place of what was drawn.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement forward")

    def mask(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return where images `(B, 3, H, W)` are masked, a bool `(B, 1, H, W)`, for a task that `masks_input`."""
        raise NotImplementedError

    def head(self, in_channels: int) -> nn.Module:
        """Return the branch for the encoder's last features `(B, in_channels, H // 32, W // 32)`."""
        raise NotImplementedError

    def predict(self, output: Tensor) -> Tensor:
        """Return the prediction of the head's output; by default the output itself."""
        return output

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return a scalar, about 1 for an encoder that has not learned: it is weighted and added to the others."""
        raise NotImplementedError

    def state(self, output: Tensor, target: Tensor) -> Tensor:
        """Return what `score` is computed from, a tensor of `state_shape`; the states of batches are added."""
        raise NotImplementedError

    def score(self, state: Tensor) -> Tensor:
        """Return a scalar, the higher the better, 1 at best."""
        raise NotImplementedError

    def at_chance(self, state: Tensor) -> Tensor:
        """Return a bool, whether an encoder that has not learned could score so; by default for 0 or less."""
        return self.score(state) <= 0.0

    def figures(self, state: Tensor, title: str) -> "dict[str, Figure]":
        """Return matplotlib figures of a validation's state by name, logged as `val/<name>/<task>`; by default none."""
        return {}

    def image(self, output: Tensor) -> Tensor | None:
        """Return the image `(B, 3, h, w)` in [0, 1] of the head's output, drawn after every validation.

        By default there is none.
        """
        return None
