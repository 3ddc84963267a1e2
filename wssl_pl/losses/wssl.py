"""The paper's loss: reconstruction and perception, weighted."""

from torch import Tensor, nn

from wssl_pl.losses.log_cosh import log_cosh
from wssl_pl.losses.ssim import ssim_loss
from wssl_pl.metrics.ssim import SIGMA, WINDOW, check_settings

# The names that `loss=` takes, with the weight of log-cosh in each: the paper's Table 4.
LOSSES = {"wssl": 0.84, "log_cosh": 1.0, "ssim": 0.0}


class WSSLLoss(nn.Module):
    """`alpha * log_cosh + (1 - alpha) * (1 - SSIM)` over the whole image (the paper, section 3.3.3).

    Args:
        alpha: weight of log-cosh, in [0, 1]. 1 is log-cosh alone, 0 is SSIM alone.
        ssim: `fast`, or `kornia` for the reference implementation of SSIM.
        a: sharpness of log-cosh's bend, positive.
        window: side of SSIM's Gaussian window in pixels, odd.
        sigma: standard deviation of that window in pixels.

    Raises:
        ValueError: a value that cannot be used.
    """

    def __init__(
        self, alpha: float = 0.84, ssim: str = "fast", a: float = 1.0, window: int = WINDOW, sigma: float = SIGMA
    ) -> None:
        super().__init__()
        check_settings(ssim, window, sigma)
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha={alpha} is not between 0 and 1")
        if not 0.0 < a < float("inf"):
            raise ValueError(f"a={a}: it must be a positive number")
        self.alpha, self.ssim, self.a, self.window, self.sigma = alpha, ssim, a, window, sigma

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the weighted loss, a scalar, of images `(B, 3, H, W)` in [0, 1]."""
        return self.parts(prediction, target)["loss"]

    def parts(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the total under `loss`, with those of `log_cosh` and `ssim_loss` whose weight is not 0."""
        parts = {}
        if self.alpha > 0.0:
            parts["log_cosh"] = self.log_cosh(prediction, target)
        if self.alpha < 1.0:
            parts["ssim_loss"] = self.ssim_loss(prediction, target)
        weights = {"log_cosh": self.alpha, "ssim_loss": 1.0 - self.alpha}
        parts["loss"] = sum((weights[name] * part for name, part in parts.items()), start=prediction.new_zeros(()))
        return parts

    def log_cosh(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the reconstruction part, a scalar."""
        return log_cosh(prediction, target, self.a)

    def ssim_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the perceptual part, a scalar."""
        return ssim_loss(prediction, target, self.ssim, self.window, self.sigma)
