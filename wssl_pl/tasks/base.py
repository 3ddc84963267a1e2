"""What every pretext task has in common."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn


class PretextTask(nn.Module):
    """A change to images, and a question about them that the encoder's features have to answer.

    The module that trains the encoder asks, for every batch and in this order: `draw` what happens to each sample, the
    `target` that answers the question, `forward` for the changed images, the `head` for an output from the encoder's
    features of these, and their `loss`. `tally` and `score` make the figure by which people judge.

    Nothing in a task may wait for the device, and what happens to a sample comes from the sample's own random numbers.
    Most tasks are a `Classification`, which has all but `forward`.

    Args:
        levels: the task's setting, as `--model.levels.<task>=` gives it; its default if left out.
    """

    name: ClassVar[str]
    score_name: ClassVar[str]  # what `score` is: it is logged as `val/<score_name>/<task>`
    numbers: ClassVar[int] = 1  # how many random numbers per sample `draw` takes
    margin: ClassVar[int] = 0  # how many pixels beyond the border `forward` looks at
    default_levels: ClassVar[tuple[float, ...]]
    hides: bool = False  # sets pixels to 0, so that it comes after the tasks that look at them
    tally_shape: tuple[int, ...]

    def __init__(self, levels: Sequence[float] | None = None) -> None:
        super().__init__()
        self.levels = tuple(float(level) for level in (self.default_levels if levels is None else levels))

    def draw(self, uniform: Tensor) -> Tensor:
        """What happens to each sample, `(B, ...)`, from uniform numbers `(B, numbers)` in [0, 1)."""
        raise NotImplementedError

    def target(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The answer `(B, ...)` for images `(B, 3, H, W)` that the task has not changed yet."""
        raise NotImplementedError

    def forward(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)` in [0, 1], each changed as drawn for it.

        The module gives them with `margin` more pixels on every side where it can, and cuts these off the result.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it changes an image")

    def hidden(self, images: Tensor, drawn: Tensor) -> Tensor:
        """`(B, 1, H, W)` bool, where images `(B, 3, H, W)` are hidden; asked of a task that `hides`."""
        raise NotImplementedError

    def head(self, in_channels: int) -> nn.Module:
        """The branch that gives an output from the encoder's last features `(B, in_channels, H // 32, W // 32)`."""
        raise NotImplementedError

    def predict(self, output: Tensor) -> Tensor:
        """Return the prediction that the head's output stands for; the output itself, if a task does not say."""
        return output

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """A scalar, about 1 for an encoder that knows nothing: the losses of all tasks are weighed and added."""
        raise NotImplementedError

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """What `score` is computed from, such that the tallies of batches can be added."""
        raise NotImplementedError

    def score(self, tally: Tensor) -> Tensor:
        """A scalar, the higher the better, 1 at best."""
        raise NotImplementedError

    def guesses(self, tally: Tensor) -> Tensor:
        """A bool, whether an encoder that knows nothing could score so: 0 or less, if a task does not say."""
        return self.score(tally) <= 0.0
